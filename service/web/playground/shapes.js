// What an input consists of. Tasks whose inputs have the same fields share a shape, and so one form and one text.

import { readable } from "./elements.js";

/** The shapes of all tasks, in their order: `{key, title, fields, tasks}`. */
export function shapesOf(tasks) {
  const shapes = new Map();
  for (const task of tasks) {
    const fields = fieldsOf(task);
    const key = fields.map((field) => field.name).join("-");
    if (!shapes.has(key)) {
      shapes.set(key, { key, fields, tasks: [], title: fields.map((field) => readable(field.name)).join(" · ") });
    }
    shapes.get(key).tasks.push(task);
  }
  return [...shapes.values()];
}

/** The fields of a task's inputs. Where fields are alternatives (`text` or `tokens`) none is required: the first. */
export function fieldsOf(task) {
  const several = task.input_fields.some((field) => field.required);
  return several ? task.input_fields : task.input_fields.slice(0, 1);
}

/** Whether a field holds a list. */
export function isList(field) {
  return field.type.startsWith("array");
}

/** Whether the task takes words in place of a text. */
export function takesWords(task) {
  return task.input_fields.some((field) => field.name === "tokens") && fieldsOf(task)[0].name !== "tokens";
}

/** An input of the task. `values`: by field, a string or a list of them. `asWords`: sent as words where it can be. */
export function inputOf(task, values, asWords = false) {
  const fields = fieldsOf(task);
  const first = values[fields[0].name];
  if (asWords && takesWords(task)) return { tokens: first.split(/\s+/u).filter(Boolean) };
  if (fields.length === 1 && task.input_may_be_a_string) return first;
  const given = fields.filter((field) => field.required || values[field.name].length > 0);
  return Object.fromEntries(given.map((field) => [field.name, values[field.name]]));
}

/** The other way: the values by field of an input as the task's example has it. */
export function valuesOf(task, input) {
  const [first] = fieldsOf(task);
  if (typeof input === "string") return { [first.name]: input };
  return input.tokens ? { [first.name]: input.tokens.join(" ") } : input;
}

/** The text that the places in an answer count in. */
export function textOf(input) {
  if (typeof input === "string") return input;
  return input.tokens?.join(" ") ?? input.context ?? input.text;
}
