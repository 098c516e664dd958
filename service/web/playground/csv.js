// CSV as RFC 4180 has it, read and written: quotes, quotes in quotes, lines within quotes.

const DELIMITERS = [",", ";", "\t"];

/** The records of a text: lists of strings. Blank lines are none. Throws Error where a quote is never closed. */
export function parse(text, delimiter = delimiterOf(text)) {
  const records = [];
  let record = [];
  let cell = "";
  let quoted = false; // within quotes
  let wasQuoted = false; // such a cell is one, even an empty one
  const endCell = () => {
    record.push(cell);
    cell = "";
  };
  const endRecord = () => {
    endCell();
    if (record.length > 1 || record[0] !== "" || wasQuoted) records.push(record);
    record = [];
    wasQuoted = false;
  };
  for (let at = text.startsWith("\uFEFF") ? 1 : 0; at < text.length; at += 1) {
    const character = text[at];
    if (quoted) {
      if (character !== '"') cell += character;
      else if (text[at + 1] === '"') cell += text[(at += 1)];
      else quoted = false;
    } else if (character === '"' && cell === "") quoted = wasQuoted = true;
    else if (character === delimiter) endCell();
    else if (character === "\n" || character === "\r") {
      if (character === "\r" && text[at + 1] === "\n") at += 1;
      endRecord();
    } else cell += character;
  }
  if (quoted) throw new Error(`A quote is opened in record ${records.length + 1} and never closed.`);
  endRecord();
  return records;
}

/** The records as CSV. */
export function write(records) {
  const line = (record) => (record.length === 1 && record[0] === "" ? '""' : record.map(escaped).join(","));
  return records.map((record) => `${line(record)}\r\n`).join("");
}

/** Whether a spreadsheet takes a cell for a formula and runs it. Numbers with a sign are none. */
export function isFormula(cell) {
  return /^[=+\-@\t\r]/u.test(cell) && !/^[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?$/iu.test(cell);
}

/** The records with a ' in front of each formula, which makes it a text. */
export function inert(records) {
  return records.map((record) => record.map((cell) => (isFormula(cell) ? `'${cell}` : cell)));
}

/** What stands between cells: what the first line has most of, outside quotes. */
export function delimiterOf(text) {
  const first = /^(?:"(?:[^"]|"")*"|[^"\r\n])*/u.exec(text)[0].replaceAll(/"(?:[^"]|"")*"/gu, "");
  const times = (delimiter) => first.split(delimiter).length - 1;
  return DELIMITERS.reduce((best, other) => (times(other) > times(best) ? other : best));
}

function escaped(cell) {
  const text = String(cell);
  return /[",\r\n]/u.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
