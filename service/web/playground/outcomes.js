// What became of the rows of a batch: a table to look at, and records to take away.

import { cells, cutOff } from "./answers.js";
import { h, number, percent, readable } from "./elements.js";
import { fieldsOf } from "./shapes.js";

const ROWS_SHOWN = 50;

/** A table of the first rows and their answers. `results`: as `run` fills them in. */
export function outcomesView({ task, table, columnOf }, results) {
  const [first] = fieldsOf(task);
  const line = (row, place) => {
    const { answer, score, note, refused } = outcome(task, results[place]);
    return h(
      "tr",
      { class: refused ? "refused" : null },
      h("td", {}, number(place + 1)),
      h("td", {}, row[columnOf[first.name]] ?? ""),
      h("td", {}, answer, note && h("small", {}, note)),
      h("td", {}, typeof score === "number" ? percent(score) : ""),
    );
  };
  const names = [readable(first.name), readable(task.name), "score"];
  return h(
    "table",
    {},
    table.rows.length > ROWS_SHOWN && h("caption", {}, `The first ${ROWS_SHOWN} rows; the CSV holds all of them.`),
    h("thead", {}, h("tr", {}, h("td", {}), names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, table.rows.slice(0, ROWS_SHOWN).map(line)),
  );
}

/** The rows as they came, with four columns more: the answer, its score, all of it as JSON, and why there is none. */
export function outcomeRecords({ task, table }, results) {
  const added = ["", "_score", "_json", "_error"].map((ending) => task.name + ending);
  const line = (row, place) => {
    const { answer, problem = "" } = results[place] ?? {};
    const { answer: text, score } = answer ? cells(task, answer) : { answer: "", score: "" };
    const padding = Array(Math.max(0, table.columns.length - row.length)).fill("");
    return [...row, ...padding, text, score, answer ? JSON.stringify(answer) : "", problem];
  };
  return [[...table.columns, ...added], ...table.rows.map(line)];
}

function outcome(task, result) {
  if (!result) return { answer: "", score: "" };
  if (result.problem) return { answer: result.problem, score: "", refused: true };
  return { ...cells(task, result.answer), note: cutOff(result.answer) };
}
