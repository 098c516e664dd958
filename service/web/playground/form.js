// The form of one shape of input: a field for each of its fields, and examples to start from.

import { h, readable } from "./elements.js";
import { fieldIn } from "./problems.js";
import { inputOf, isList, takesWords, valuesOf } from "./shapes.js";

/** A form of a shape. `element` is what there is to see of it. */
export class InputForm {
  constructor(shape) {
    const only = shape.fields.length === 1; // its label says all that a heading could
    this.shape = shape;
    this.controls = new Map(shape.fields.map((field) => [field.name, control(shape, field)]));
    this.words = shape.tasks.some(takesWords) ? h("input", { type: "checkbox" }) : null;
    this.element = h(
      "fieldset",
      { class: only ? "card input only" : "card input" },
      h("legend", { class: only ? "unseen" : null }, shape.title),
      [...this.controls.values()].map(({ row }) => row),
      this.words && h("label", { class: "option" }, this.words, "Already words, split at spaces"),
      this.#examples(),
    );
    this.fill(shape.tasks[0]);
  }

  /** The values by field: strings, or lists of the lines that are not blank. */
  values() {
    const lines = (text) => text.split("\n").filter((line) => line.trim());
    const value = ({ field, area }) => (isList(field) ? lines(area.value) : area.value);
    return Object.fromEntries([...this.controls].map(([name, made]) => [name, value(made)]));
  }

  /** The input that goes to a task. */
  input(task) {
    return inputOf(task, this.values(), this.words?.checked);
  }

  /** Puts in the example of a task. */
  fill(task) {
    const values = valuesOf(task, task.example.inputs[0]);
    for (const [name, { area }] of this.controls) area.value = [values[name] ?? ""].flat().join("\n");
    this.mark([]);
  }

  /** Shows what is wrong with which field; nothing where `errors` is empty. */
  mark(errors) {
    for (const [name, { area, wrong }] of this.controls) {
      const about = errors.find((error) => [name, ""].includes(fieldIn(error)));
      wrong.textContent = about?.message ?? "";
      area.toggleAttribute("aria-invalid", false);
      if (about) area.setAttribute("aria-invalid", "true");
    }
  }

  #examples() {
    const button = (task) => {
      const [text] = Object.values(valuesOf(task, task.example.inputs[0]));
      return h("button", { type: "button", class: "example", title: text, onclick: () => this.fill(task) }, text);
    };
    const group = { class: "examples", role: "group", "aria-label": "Examples" };
    return h("div", group, h("span", { class: "hint" }, "Examples"), this.shape.tasks.map(button));
  }
}

function control(shape, field) {
  const id = `${shape.key}-${field.name}`;
  const several = shape.fields.length > 1;
  const hint = [
    several && field.description,
    isList(field) && "one a line",
    several && !field.required && "may be left out",
  ];
  const wrong = h("p", { class: "wrong", id: `${id}-wrong` });
  const rows = isList(field) ? "4" : "2";
  const area = h("textarea", { id, rows, "aria-describedby": `${id}-hint ${id}-wrong`, dir: "auto" });
  const row = h(
    "div",
    { class: "field" },
    h("label", { for: id }, readable(field.name)),
    h("span", { class: "hint", id: `${id}-hint` }, hint.filter(Boolean).join(", ")),
    area,
    wrong,
  );
  return { field, area, wrong, row };
}
