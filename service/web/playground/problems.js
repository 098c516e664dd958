// What went wrong, in words.

import { h } from "./elements.js";

/** A problem to see: what it is, and where each wrong field is. */
export function problemView(problem) {
  const { title = "Something went wrong on this page", detail, message, errors = [], status, requestId } = problem;
  const fields = errors.map(({ field, message: wrong }) => h("li", {}, h("code", {}, field), ` ${wrong}`));
  const known = `The log of the service knows this request as ${requestId}.`;
  return h(
    "div",
    { class: "problem" },
    h("h3", {}, title),
    fields.length > 0 ? h("ul", {}, fields) : h("p", {}, detail || message),
    status >= 500 && requestId && h("p", { class: "hint" }, known),
  );
}

/** The field that an error is about: "text" for `inputs[0].text`, "" for the whole input. */
export function fieldIn(error) {
  return /^inputs\[\d+\](?:\.(\w+))?/u.exec(error.field)?.[1] ?? "";
}

/** A wait in words. */
export function waitInWords({ title, detail }, seconds) {
  const why = detail || title;
  const soon = Math.ceil(seconds);
  return `${why[0].toUpperCase()}${why.slice(1)}. Trying again in ${soon} second${soon === 1 ? "" : "s"}.`;
}
