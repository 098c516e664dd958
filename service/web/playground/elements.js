// Elements of the page. Text is always text: nothing here, nor anywhere else, turns a string into markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element. Attributes: `on…` is a listener, `style` an object of CSS properties, `true` stands for no value;
 * null, undefined and false are left out, as attributes and as children.
 */
export function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

/** A text for screen readers only. */
export function unseen(text) {
  return h("span", { class: "unseen" }, text);
}

/** The name of a label, field or metric as people write it: `card_arrival` is "card arrival". */
export function readable(name) {
  return name.replaceAll("_", " ");
}

/** A number as people read it: no more than `digits` behind the point. */
export function number(value, digits = 2) {
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** A probability in percent, never rounded to a certainty that it is not. */
export function percent(share) {
  if (share > 0 && share < 0.001) return "<0.1 %";
  if (share < 1 && share > 0.999) return ">99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}

/** `1 row`, `2 rows`. */
export function count(many, noun) {
  return `${number(many, 0)} ${noun}${many === 1 ? "" : "s"}`;
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") {
      for (const [property, given] of Object.entries(value)) element.style.setProperty(property, given);
    } else element.setAttribute(name, value === true ? "" : value);
  }
  const wanted = (child) => child !== null && child !== undefined && child !== false;
  element.append(...children.flat(2).filter(wanted));
  return element;
}
