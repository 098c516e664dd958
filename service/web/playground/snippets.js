// The same call for a terminal and for Python, to copy.

import { h } from "./elements.js";
import { hasKey, predictAddress } from "./service.js";

/** The call as curl. A key is never written out: both read it from the variable POLYTASK_API_KEY. */
export function curl(task, inputs) {
  const key = hasKey() ? ' \\\n  -H "Authorization: Bearer $POLYTASK_API_KEY"' : "";
  return `curl ${quoted(predictAddress(task))}${key} \\\n  -d ${quoted(JSON.stringify({ inputs }))}`;
}

/** The call in Python. JSON of texts, lists and objects is Python as it stands. */
export function python(task, inputs) {
  const lines = [
    hasKey() && "import os",
    hasKey() && "",
    "import httpx",
    "",
    "response = httpx.post(",
    `    ${JSON.stringify(predictAddress(task))},`,
    hasKey() && `    headers={"Authorization": f"Bearer {os.environ['POLYTASK_API_KEY']}"},`,
    `    json=${JSON.stringify({ inputs })},`,
    ")",
    'print(response.json()["answers"])',
  ];
  return lines.filter((line) => line !== false).join("\n");
}

/** A folded list of codes, each with a button that copies it: `{curl: "…", Python: "…"}`. */
export function codes(title, byName) {
  const part = ([name, code]) => {
    return h("div", { class: "code" }, h("h4", {}, name), copyButton(name, code), block(name, code));
  };
  return h("details", { class: "codes" }, h("summary", {}, title), Object.entries(byName).map(part));
}

function block(name, code) {
  // It scrolls, so that keys have to reach it.
  return h("pre", { tabindex: "0", role: "group", "aria-label": name }, h("code", {}, code));
}

function copyButton(name, code) {
  const button = h("button", { type: "button", class: "plain small", "aria-label": `Copy ${name}` }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(code)) ? "Copied" : "Select and copy it by hand";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // a page without https, of another host than this one, may not
  }
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
