// The page "Batch": rows in, answers beside them, and away as CSV.

import { inert, isFormula, write } from "./csv.js";
import { count, h, number } from "./elements.js";
import { outcomeRecords, outcomesView } from "./outcomes.js";
import { problemView, waitInWords } from "./problems.js";
import { run } from "./running.js";
import { Source } from "./source.js";
import { inputIn } from "./table.js";

const KEPT_FOR_DOWNLOAD_MS = 60_000;

/** Brings the page to life. `announce(text)` says something to those who listen to the page. */
export function openBatch(tasks, announce) {
  let results = []; // by row, as `run` fills them in
  let running = null;

  const source = new Source(tasks, reset);
  const start = h("button", { type: "button", class: "main", onclick: go }, "Answer all rows");
  const stop = h("button", { type: "button", class: "plain", hidden: true, onclick: () => running.abort() }, "Cancel");
  const save = h("button", { type: "button", class: "main", onclick: () => download(inert) }, "Download CSV");
  const saveAsIs = h("button", { type: "button", class: "plain", onclick: () => download() }, "Download as it is");
  const formulas = h("p", { class: "hint", id: "batch-formulas" });
  const bar = h("progress", { hidden: true, "aria-label": "Rows answered" });
  const state = h("p", { class: "hint", id: "batch-state" });
  const failure = h("div", {});
  // It scrolls, so that keys have to reach it.
  const reachable = { tabindex: "0", role: "region", "aria-label": "Rows and answers" };
  const shown = h("div", { class: "scroll", hidden: true, ...reachable });
  const empty = h("p", { class: "card empty" }, "The answers appear here, and go into a CSV file beside your rows.");
  const actions = h("div", { class: "actions" }, start, stop, save, saveAsIs);
  const left = h("div", {}, source.element, actions, bar, state, formulas, failure);
  document.getElementById("batch-page").append(h("div", { class: "sides" }, left, h("div", {}, empty, shown)));
  offer([]);

  /** Ends what is going on and forgets its answers: the rows or the task are others now. */
  function reset() {
    running?.abort();
    running = null;
    results = [];
    for (const element of [bar, shown, stop]) element.hidden = true;
    offer([]);
    start.hidden = empty.hidden = false;
    start.textContent = "Answer all rows";
    state.textContent = "";
    failure.replaceChildren();
  }

  async function go() {
    if (!source.table) return source.ask();
    const { task, table, columnOf } = source;
    const mine = (running = new AbortController());
    const inputs = table.rows.map((row) => inputIn(task, row, columnOf));
    const began = { at: performance.now(), done: done() };
    const told = {
      done: () => running === mine && show(began),
      waiting: (problem, seconds) => (state.textContent = waitInWords(problem, seconds)),
    };
    failure.replaceChildren();
    busy(true);
    show(began);
    try {
      await run(task, inputs, results, told, mine.signal);
      if (running !== mine) return;
      state.textContent = summary();
    } catch (problem) {
      if (running !== mine) return;
      state.textContent = `Stopped after ${number(done())} of ${count(table.rows.length, "row")}.`;
      if (problem.name !== "AbortError") failure.replaceChildren(problemView(problem));
    }
    busy(false);
    announce(state.textContent);
  }

  function busy(yes) {
    const whole = done() === source.table.rows.length;
    start.hidden = yes || whole;
    start.textContent = done() === 0 ? "Answer all rows" : "Go on";
    stop.hidden = bar.hidden = !yes;
    offer(yes || done() === 0 ? [] : outcomeRecords(source, results));
    // The button that had the focus has gone.
    if (document.activeElement === document.body) (yes ? stop : whole ? save : start).focus();
  }

  /** Shows what there is to download: nothing without records; with formulas among them, the choice to keep them. */
  function offer(records) {
    const many = records.flat().filter(isFormula).length;
    save.hidden = records.length === 0;
    saveAsIs.hidden = formulas.hidden = many === 0;
    const begin = many === 1 ? "cell begins" : "cells begin";
    formulas.textContent = `${number(many)} ${begin} as a formula. The CSV has a ' in front, so that no spreadsheet runs it.`;
  }

  function done() {
    return results.filter(Boolean).length;
  }

  function summary() {
    const refused = results.filter(({ problem }) => problem).length;
    return `${count(results.length, "row")} done${refused ? `, ${number(refused)} of them refused` : ""}.`;
  }

  function show(began) {
    const [many, all] = [done(), source.table.rows.length];
    const perRow = (performance.now() - began.at) / 1000 / (many - began.done);
    const left = many > began.done && many < all ? `, ${inWords(perRow * (all - many))} left` : "";
    bar.max = all;
    bar.value = many;
    state.textContent = `${number(many)} of ${number(all)}${left}`;
    shown.hidden = false;
    empty.hidden = true;
    shown.replaceChildren(outcomesView(source, results));
  }

  function download(changed = (records) => records) {
    const text = write(changed(outcomeRecords(source, results)));
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    h("a", { href: url, download: `${source.task.name}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), KEPT_FOR_DOWNLOAD_MS);
  }
}

function inWords(seconds) {
  return seconds < 90 ? `about ${Math.ceil(seconds)} s` : `about ${Math.round(seconds / 60)} min`;
}
