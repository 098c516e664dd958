// Passages of a text, marked in it.

import { h, percent, readable } from "./elements.js";

const NO_BREAK = "\u00a0"; // a label does not start a line of its own

/**
 * The text with its passages marked: `{start, end, label, score}`, in order, without overlaps. Places count Unicode
 * code points, as the service does; JavaScript's own count an emoji twice.
 */
export function marked(text, passages, labels = []) {
  const points = Array.from(text);
  const between = (start, end) => points.slice(start, end).join("");
  const parts = [];
  let at = 0;
  for (const { start, end, label, score } of passages) {
    const hue = { "--hue": String(hueOf(labels.indexOf(label))) };
    const name = label && h("span", { class: "label" }, readable(label));
    const mark = h("mark", { style: hue, title: percent(score) }, between(start, end), name && NO_BREAK, name);
    parts.push(between(at, start), mark);
    at = end;
  }
  return h("p", { class: "passage" }, parts, between(at));
}

/** A hue for each label, far from those of its neighbours; also where there are many. */
function hueOf(place) {
  return place < 0 ? 145 : Math.round(255 + place * 137.5) % 360;
}
