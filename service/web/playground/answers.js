// An answer as people want it, by the kind of its task: to see, to hear, and for the cells of a table.

import { bars, labelBars } from "./bars.js";
import { dial } from "./dial.js";
import { count, h, number, percent, readable } from "./elements.js";
import { marked } from "./passages.js";
import { textOf } from "./shapes.js";

const KINDS = {
  classification: {
    view: ({ label, scores }) => [
      label === null && h("p", { class: "hint" }, "None of these: no label is likely enough."),
      labelBars(scores, [label]),
    ],
    cells: ({ label, score }) => [label ?? "none of these", score],
  },
  multilabel: {
    view: ({ labels, scores }, task) => [
      labels.length === 0 && h("p", { class: "hint" }, "No label reaches its threshold."),
      labelBars(scores, labels.map(({ label }) => label), task.thresholds),
    ],
    cells: ({ labels }) => [labels.map(({ label }) => label).join(", "), labels[0]?.score],
  },
  regression: {
    view: ({ value }, task) => dial(value, task.value_range),
    cells: ({ value }) => [number(value, 4), null],
  },
  ranking: {
    view: ({ ranking }) => {
      const row = ({ text, index, score }, place) => {
        return { name: text, note: `given as no. ${index + 1}`, share: score, chosen: place === 0 };
      };
      return bars(ranking.map(row), { most: 10, ordered: true });
    },
    cells: ({ ranking }) => [ranking[0].text, ranking[0].score],
  },
  multiple_choice: {
    view: ({ choice, scores }, _, input) => {
      const row = (share, place) => ({ name: input.choices[place], share, chosen: place === choice });
      return bars(scores.map(row), { most: 10, ordered: true });
    },
    cells: ({ text, choice, scores }) => [text, scores[choice]],
  },
  tagging: {
    view: ({ entities }, task, input) => [
      marked(textOf(input), entities, task.labels),
      entities.length === 0 && h("p", { class: "hint" }, "Nothing found in this text."),
    ],
    cells: ({ entities }) => [entities.map(({ text, label }) => `${text} (${label})`).join("; "), null],
  },
  span: {
    view: (answer, _, input) => [
      h("p", { class: "value" }, answer.text || "No answer found", h("small", {}, percent(answer.score))),
      marked(textOf(input), answer.text ? [answer] : []),
    ],
    cells: ({ text, score }) => [text, score],
  },
};

/** What there is to see. A kind that this page does not know is shown as JSON. */
export function view(task, input, answer) {
  const known = KINDS[task.kind]?.view(answer, task, input);
  return known ?? h("pre", { tabindex: "0" }, JSON.stringify(answer, null, 2));
}

/** The answer in one sentence. */
export function sentence(task, answer) {
  const { answer: text, score } = cells(task, answer);
  return `${readable(task.name)}: ${readable(text) || "nothing"}${score === "" ? "" : `, ${percent(score)}`}`;
}

/** The answer in cells: `{answer, score}`; the score is "" where the kind has none. */
export function cells(task, answer) {
  const [text, score] = KINDS[task.kind]?.cells(answer) ?? [JSON.stringify(answer), null];
  return { answer: text, score: score ?? "" };
}

/** A sentence on what was not read of an input, or null. */
export function cutOff({ tokens, dropped_tokens: dropped }) {
  return dropped > 0 ? `Cut off after ${count(tokens, "token")}: ${number(dropped)} more were not read.` : null;
}
