// The choice of tasks, by what they read.

import { h, readable } from "./elements.js";

/** Fills `root` with a check box for each task; `changed(names)` gets the chosen ones, at once and always. */
export function chooser(root, shapes, chosen, changed) {
  const names = new Set(chosen);
  const box = (task) =>
    h(
      "label",
      { class: "chip" },
      h("input", {
        type: "checkbox",
        name: "task",
        value: task.name,
        checked: names.has(task.name),
        onchange: ({ target }) => {
          if (target.checked) names.add(task.name);
          else names.delete(task.name);
          changed(names);
        },
      }),
      h("span", {}, readable(task.name)),
    );
  const group = (shape, place) =>
    h(
      "div",
      { class: "group", role: "group", "aria-labelledby": `shape-${place}` },
      h("span", { id: `shape-${place}`, class: "hint" }, shape.title),
      h("div", { class: "chips" }, shape.tasks.map(box)),
    );
  root.append(...shapes.map(group));
  changed(names);
}
