// A value within its range, as a dial.

import { h, number, svg } from "./elements.js";

const RADIUS = 80;

/** A half circle filled up to the value. Without a range, the number alone. */
export function dial(value, range) {
  const shown = number(value);
  if (!range) return h("p", { class: "value" }, shown);
  const [least, most] = range;
  const inWords = `${shown} on a scale from ${number(least)} to ${number(most)}`;
  const share = Math.min(1, Math.max(0, (value - least) / (most - least)));
  return h(
    "div",
    { class: "dial" },
    svg(
      "svg",
      { viewBox: "0 0 200 116", role: "img", "aria-label": inWords },
      arc("track", 1),
      share > 0 && arc("fill", share),
      svg("text", { x: 100, y: 92, class: "value" }, shown),
      svg("text", { x: 20, y: 114 }, number(least)),
      svg("text", { x: 180, y: 114 }, number(most)),
    ),
  );
}

function arc(name, share) {
  const angle = Math.PI * (1 - share);
  const [x, y] = [100 + RADIUS * Math.cos(angle), 96 - RADIUS * Math.sin(angle)];
  const d = `M ${100 - RADIUS} 96 A ${RADIUS} ${RADIUS} 0 0 1 ${x.toFixed(2)} ${y.toFixed(2)}`;
  return svg("path", { class: name, d });
}
