// Where the time went: the Server-Timing header as a stacked bar.

import { h } from "./elements.js";

/** `[{stage, ms}]` of a Server-Timing header, such as `tokenize;dur=0.41, forward;dur=9.80`. */
export function stagesOf(header) {
  return [...header.matchAll(/([\w-]+)\s*;[^,]*?dur=([\d.]+)/gu)].map(([, stage, ms]) => ({ stage, ms: Number(ms) }));
}

/** The bar with its legend. `seconds`: what the browser waited in all. */
export function timing(header, seconds) {
  const stages = stagesOf(header);
  const total = stages.reduce((sum, { ms }) => sum + ms, 0);
  const rest = `${milliseconds(total)} in the service, ${milliseconds(1000 * seconds)} in all`;
  const part = ({ stage, ms }) => h("i", { class: stage, style: { "flex-grow": String(ms) } });
  return h(
    "div",
    { class: "timing" },
    h("div", { class: "stack", "aria-hidden": "true" }, stages.map(part)),
    h("ul", {}, stages.map(({ stage, ms }) => h("li", { class: stage }, `${stage} ${milliseconds(ms)}`))),
    h("p", { class: "hint" }, rest),
  );
}

function milliseconds(ms) {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
