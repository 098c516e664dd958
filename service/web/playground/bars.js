// Shares of one as bars: a name, a number, and a length for those who see it.

import { count, h, percent, readable, unseen } from "./elements.js";

/**
 * A list of bars. Each: `{name, share, chosen, strong, threshold, note, shown}`; a chosen one is strong and said to be
 * chosen, a threshold is drawn as a tick, `shown` stands in place of the percentage. Beyond the first `most` the rest is
 * folded away. `ordered`: whether the places count.
 */
export function bars(rows, { most = 5, ordered = false } = {}) {
  const list = (some) => h(ordered ? "ol" : "ul", { class: "bars" }, some.map(bar));
  const [first, rest] = rows.length > most + 1 ? [rows.slice(0, most), rows.slice(most)] : [rows, []];
  const folded = () => h("details", { class: "more" }, h("summary", {}, count(rest.length, "other")), list(rest));
  return [list(first), rest.length > 0 && folded()];
}

/** Bars of labels, likeliest first: `scores` by label, with `thresholds` where each label stands for itself. */
export function labelBars(scores, chosen, thresholds = null) {
  const rows = Object.entries(scores).map(([label, share]) => ({
    name: readable(label),
    share,
    chosen: chosen.includes(label),
    threshold: thresholds?.[label],
  }));
  return bars(rows, { most: Math.max(5, chosen.length + 3) });
}

function bar({ name, share, chosen = false, strong = chosen, threshold, note, shown = percent(share) }) {
  const width = `${100 * Math.min(1, Math.max(0, share))}%`;
  const tick = threshold !== undefined && h("i", { class: "tick", style: { left: `${100 * threshold}%` } });
  return h(
    "li",
    { class: strong ? "strong" : null },
    h("span", { class: "name" }, name, note && h("small", {}, note), chosen && unseen(", chosen")),
    h("span", { class: "share" }, shown, tick && unseen(`, threshold ${percent(threshold)}`)),
    h("span", { class: "track", "aria-hidden": "true" }, h("i", { class: "fill", style: { width } }), tick),
  );
}
