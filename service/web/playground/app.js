// The page as a whole: waits for the service, gets its tasks, and opens the pages.

import { openBatch } from "./batch.js";
import { openModel } from "./model.js";
import { Problem, catalogue, pause, readiness, useKey } from "./service.js";
import { themeSwitch } from "./theme.js";
import { openTry } from "./try.js";

const WHILE_NOT_READY_S = 1;
const WHILE_READY_S = 15;

const named = (id) => document.getElementById(id);
const [state, notice, access, key] = [named("state"), named("notice"), named("access"), named("key")];
let keyChanged = () => {};

themeSwitch(named("theme"));
addEventListener("hashchange", showPage);
named("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(key.value);
  closeAccess();
  keyChanged();
});
// A panel like this closes as menus do.
access.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeAccess();
});
document.addEventListener("click", (event) => {
  if (!access.contains(event.target)) access.open = false;
});
watch();
open();

async function open() {
  const { model, tasks } = await firstCatalogue();
  notice.hidden = true;
  state.dataset.model = model;
  if (state.classList.contains("ready")) state.textContent = model;
  openTry(tasks, announce);
  openBatch(tasks, announce);
  openModel({ model, tasks });
  showPage();
}

/** The catalogue, as soon as the service gives it: it may be starting, or want a key. */
async function firstCatalogue() {
  for (;;) {
    try {
      return await catalogue();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      const wantsKey = problem.status === 401 || problem.status === 403;
      tell(wantsKey ? `${problem.message} Enter your API key above.` : problem.message);
      if (wantsKey) askForKey();
      await (wantsKey ? new Promise((resolve) => (keyChanged = resolve)) : pause(WHILE_NOT_READY_S));
    }
  }
}

/** Says for as long as the page is open how the service is. */
async function watch() {
  for (;;) {
    const how = await readiness();
    const ready = how === "ready";
    state.classList.toggle("ready", ready);
    const text = ready ? (state.dataset.model ?? how) : shortly(how);
    if (state.textContent !== text) state.textContent = text; // each change is read out
    state.title = how;
    await pause(ready ? (state.dataset.model ? WHILE_READY_S : WHILE_NOT_READY_S) : WHILE_NOT_READY_S);
    if (document.hidden) await seen();
  }
}

/** Until somebody looks at the page again. */
function seen() {
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

function shortly(how) {
  return how.includes("warming up") ? "warming up" : how;
}

function showPage() {
  const pages = ["try", "batch", "model"];
  const wanted = pages.includes(location.hash.slice(1)) ? location.hash.slice(1) : pages[0];
  for (const page of pages) named(`${page}-page`).hidden = page !== wanted;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function askForKey() {
  access.open = true;
  key.focus();
}

function closeAccess() {
  access.open = false;
  access.firstElementChild.focus();
}

function tell(text) {
  notice.textContent = text;
  notice.hidden = false;
}

/** Says something to those who listen to the page. */
function announce(text) {
  named("announcer").textContent = text;
}
