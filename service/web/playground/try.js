// The page "Try": one input, several tasks, their answers side by side.

import { cutOff, sentence, view } from "./answers.js";
import { chooser } from "./chooser.js";
import { h, readable } from "./elements.js";
import { InputForm } from "./form.js";
import { problemView, waitInWords } from "./problems.js";
import { patiently, predict } from "./service.js";
import { shapesOf } from "./shapes.js";
import { codes, curl, python } from "./snippets.js";
import { timing } from "./timing.js";

const CHOSEN_AT_FIRST = 4;

/** Brings the page to life. `announce(text)` says something to those who listen to the page. */
export function openTry(tasks, announce) {
  const named = (id) => document.getElementById(id);
  const [form, inputs, answers] = [named("question"), named("inputs"), named("answers")];
  const [stop, waiting] = [named("stop"), named("waiting")];
  const shapes = shapesOf(tasks);
  const forms = shapes.map((shape) => new InputForm(shape));
  let chosen = [];
  let running = null;

  answers.append(invitation());
  const atFirst = shapes[0].tasks.slice(0, CHOSEN_AT_FIRST).map((task) => task.name);
  chooser(named("tasks"), shapes, atFirst, (names) => {
    const ofForm = (from) => from.shape.tasks.filter(({ name }) => names.has(name)).map((task) => ({ task, from }));
    chosen = forms.flatMap(ofForm);
    inputs.replaceChildren(...new Set(chosen.map(({ from }) => from.element)));
  });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  stop.addEventListener("click", () => running?.abort());

  async function ask() {
    running?.abort();
    const mine = (running = new AbortController());
    for (const one of forms) one.mark([]);
    if (chosen.length === 0) return say("Choose a task first.");
    const cards = chosen.map(({ task }) => cardOf(task));
    answers.replaceChildren(...cards);
    // On a phone they are below the form.
    if (answers.getBoundingClientRect().top > 0.7 * innerHeight) answers.scrollIntoView();
    stop.hidden = false;
    say("");
    const said = await Promise.all(chosen.map((one, place) => answerInto(cards[place], one, mine.signal)));
    if (running !== mine) return;
    stop.hidden = true;
    say("");
    announce(said.join(". "));
  }

  /** Answers one task into its card; gives the sentence that tells it. */
  async function answerInto(card, { task, from }, signal) {
    const input = from.input(task);
    const wait = (problem, seconds) => say(waitInWords(problem, seconds));
    try {
      const ask = () => predict(task.name, { inputs: [input] }, signal);
      const { reply, timing: header, seconds } = await patiently(ask, wait, signal);
      say("");
      const cut = cutOff(reply.answers[0]);
      fill(
        card,
        view(task, input, reply.answers[0]),
        cut && h("p", { class: "cut" }, cut),
        timing(header, seconds),
        codes("Code", {
          curl: curl(task.name, [input]),
          Python: python(task.name, [input]),
          Answer: JSON.stringify(reply, null, 2),
        }),
      );
      return sentence(task, reply.answers[0]) + (cut ? `. ${cut}` : "");
    } catch (problem) {
      if (problem.name === "AbortError") return fill(card, h("p", { class: "hint" }, "Cancelled."));
      if (problem.errors) from.mark(problem.errors);
      fill(card, problemView(problem));
      return `${readable(task.name)}: ${problem.message}`;
    }
  }

  function say(text) {
    waiting.textContent = text;
    waiting.hidden = text === "";
    if (text) announce(text);
  }
}

function invitation() {
  const text = "Choose tasks, write a text or take an example, and ask. All answers come from one model.";
  return h("p", { class: "card empty" }, text);
}

function cardOf(task) {
  const head = h("header", {}, h("h3", {}, readable(task.name)), h("span", { class: "kind" }, readable(task.kind)));
  const about = { class: "card answer", "aria-busy": "true", "data-task": task.name };
  return h("article", about, head, h("p", { class: "hint" }, "…"));
}

function fill(card, ...children) {
  card.removeAttribute("aria-busy");
  card.replaceChildren(card.firstElementChild, ...children.flat(2).filter(Boolean));
  return "Cancelled";
}
