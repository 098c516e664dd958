// Rows that people bring along: pasted lines or a file, and which column is which field of a task's inputs.

import { parse } from "./csv.js";
import { fieldsOf, inputOf, isList } from "./shapes.js";

const ROWS_LOOKED_AT = 50;

/** A table from lines, each a text. */
export function fromLines(text) {
  return { columns: ["text"], rows: text.split(/\r\n|\r|\n/u).filter((line) => line.trim()).map((line) => [line]) };
}

/** A table from CSV whose first record holds the names of the columns. Throws Error where it is none. */
export function fromCsv(text, delimiter) {
  const [columns = [], ...rows] = parse(text, delimiter);
  if (rows.length === 0) throw new Error("There are no rows below the first line, which names the columns.");
  return { columns: columns.map((name) => name.trim()), rows };
}

/** A table from a file: CSV, TSV, or lines where its name ends in .txt. */
export async function fromFile(file) {
  const text = decoded(await file.arrayBuffer());
  if (/\.txt$/iu.test(file.name)) return fromLines(text);
  return fromCsv(text, /\.tsv$/iu.test(file.name) ? "\t" : undefined);
}

/**
 * The place of the column that each field is in, -1 for none: the column of its name, or else the next that is left; a
 * task of one text takes the one with the longest cells.
 */
export function guessed(task, { columns, rows }) {
  const fields = fieldsOf(task);
  const placeOf = (name) => columns.findIndex((column) => column.toLowerCase() === name);
  const columnOf = Object.fromEntries(fields.map(({ name }) => [name, placeOf(name)]));
  const left = columns.map((_, place) => place).filter((place) => !Object.values(columnOf).includes(place));
  const length = (place) => rows.slice(0, ROWS_LOOKED_AT).reduce((sum, row) => sum + (row[place] ?? "").length, 0);
  if (fields.length === 1) left.sort((one, other) => length(other) - length(one));
  for (const { name, required } of fields) {
    if (columnOf[name] < 0 && (required || fields.length === 1)) columnOf[name] = left.shift() ?? -1;
  }
  return columnOf;
}

/** The input of a task in a row. Lists are JSON or parts between `|`. */
export function inputIn(task, row, columnOf) {
  const value = (field) => {
    const cell = row[columnOf[field.name]] ?? "";
    return isList(field) ? listIn(cell) : cell;
  };
  return inputOf(task, Object.fromEntries(fieldsOf(task).map((field) => [field.name, value(field)])));
}

function listIn(cell) {
  if (cell.trimStart().startsWith("[")) {
    try {
      return JSON.parse(cell);
    } catch {
      // a text that begins like that
    }
  }
  return cell.split("|").map((part) => part.trim()).filter(Boolean);
}

/** UTF-8, and what older spreadsheets write where it is not that. */
function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}
