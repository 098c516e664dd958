// The page "Model": what the checkpoint does and how good it is at it, beside what needs no model at all.

import { bars } from "./bars.js";
import { count, h, number, readable } from "./elements.js";
import { fieldsOf } from "./shapes.js";

const MEASURED =
  "Each figure was measured on texts that were kept from its training. The trivial baseline is what needs no model: " +
  "the most frequent answer, a random order, or the like. TF-IDF and frozen are linear models, on words or on the " +
  "untrained backbone.";

/** Fills the page. */
export function openModel({ model, tasks }) {
  const kinds = new Set(tasks.map((task) => task.kind)).size;
  const about = ` answers ${count(tasks.length, "task")} of ${count(kinds, "kind")}. ${MEASURED}`;
  document.getElementById("model-page").append(
    h("p", { class: "lead" }, h("strong", {}, model), about),
    h("div", { class: "cards" }, tasks.map(taskCard)),
  );
}

function taskCard(task) {
  const [main, ...others] = Object.entries(task.metrics).map((metric) => comparison(metric, task));
  const reads = fieldsOf(task).map((field) => readable(field.name));
  return h(
    "article",
    { class: "card", "data-task": task.name },
    h("header", {}, h("h3", {}, readable(task.name)), h("span", { class: "kind" }, readable(task.kind))),
    main ?? h("p", { class: "hint" }, "Not measured."),
    h("dl", {}, fact("Reads", reads.join(", ")), fact("At most", `${number(task.limits.max_tokens)} tokens`)),
    folded("label", task.labels, (labels) => h("p", {}, labels.map(readable).join(", "))),
    folded("more metric", others, (metrics) => metrics),
  );
}

/** The model's figure, the baseline's and those of simple models, on one scale. */
function comparison([metric, value], { baselines, references }) {
  const figure = (name, figured, strong) => ({ name, share: figured, shown: figured.toFixed(3), strong });
  const rows = [figure("model", value, true)];
  for (const [name, scores] of Object.entries({ "trivial baseline": baselines, ...references }))
    if (scores[metric] !== undefined) rows.push(figure(name, scores[metric], false));
  return h("div", { class: "comparison" }, h("h4", {}, readable(metric)), bars(rows));
}

function folded(noun, things, view) {
  const summary = h("summary", {}, count(things.length, noun));
  return things.length > 0 && h("details", { class: "more" }, summary, view(things));
}

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}
