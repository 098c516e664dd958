// Where the rows of a batch come from: a task, pasted lines or a file, and which column is which field.

import { count, h, readable } from "./elements.js";
import { fieldsOf, isList } from "./shapes.js";
import { fromCsv, fromFile, fromLines, guessed } from "./table.js";

const FILES = "Or drop a file here: CSV, TSV, or TXT with a text a line";

/** `element` is what there is to see; `changed()` is called whenever the task, the rows or their columns are others. */
export class Source {
  #changed;
  #chosen = h("select", { id: "batch-task", onchange: () => this.#taskChosen() });
  #pasted = h("textarea", { id: "batch-text", rows: "6", "aria-describedby": "batch-hint batch-wrong", dir: "auto" });
  #hint = h("p", { class: "hint", id: "batch-hint" });
  #wrong = h("p", { class: "wrong", id: "batch-wrong", role: "alert" });
  #file = h("input", { id: "batch-file", type: "file", accept: ".csv,.tsv,.txt,text/csv,text/plain" });
  #drop = h("div", { class: "field file" }, label("batch-file", FILES), this.#file);
  #found = h("p", { class: "found" });
  #mapping = h("div", { class: "mapping" });

  constructor(tasks, changed) {
    this.tasks = tasks;
    this.task = tasks[0];
    this.table = null; // {columns, rows}
    this.columnOf = {}; // by field, the place of its column
    this.#changed = changed;
    const option = ({ name, kind }) => h("option", { value: name }, `${readable(name)} (${readable(kind)})`);
    this.#chosen.append(...tasks.map(option));
    this.#pasted.addEventListener("input", () => this.#read(() => this.#fromText()));
    this.#file.addEventListener("change", () => this.#readFile(this.#file.files[0]));
    this.element = h(
      "div",
      { class: "card", ondragover: this.#over, ondragleave: this.#over, ondrop: this.#dropped },
      h("div", { class: "field" }, label("batch-task", "Task"), this.#chosen),
      h("div", { class: "field" }, label("batch-text", "Rows"), this.#hint, this.#pasted, this.#wrong),
      this.#drop,
      this.#found,
      this.#mapping,
    );
    this.#explain();
  }

  /** Says that there are no rows yet, and leads to where they go. */
  ask() {
    this.#wrong.textContent = "Paste some rows or choose a file first.";
    this.#pasted.focus();
  }

  #taskChosen() {
    this.task = this.tasks.find(({ name }) => name === this.#chosen.value);
    this.#explain();
    if (this.#pasted.value) this.#read(() => this.#fromText());
    else this.#use(this.table);
  }

  #explain() {
    const fields = fieldsOf(this.task);
    const names = fields.map(({ name }) => name).join(",");
    const lists = fields.filter(isList).map(({ name }) => readable(name));
    const form = fields.length === 1 ? "A text a line." : `CSV; the first line names the columns, such as ${names}.`;
    const parts = lists.length > 0 ? ` Parts of ${lists.join(", ")} stand between | or as a JSON list.` : "";
    this.#hint.textContent = form + parts;
  }

  #fromText() {
    const text = this.#pasted.value;
    if (!text.trim()) return null;
    return fieldsOf(this.task).length === 1 ? fromLines(text) : fromCsv(text);
  }

  #over = (event) => {
    event.preventDefault();
    this.#drop.classList.toggle("over", event.type === "dragover");
  };

  #dropped = (event) => {
    this.#over(event);
    this.#readFile(event.dataTransfer.files[0]);
  };

  #readFile(file) {
    if (!file) return;
    this.#pasted.value = "";
    this.#read(() => fromFile(file));
  }

  async #read(source) {
    this.#wrong.textContent = "";
    try {
      this.#use(await source());
    } catch (error) {
      this.#wrong.textContent = error.message;
      this.#use(null);
    }
  }

  #use(table) {
    this.table = table;
    this.columnOf = table ? guessed(this.task, table) : {};
    const several = table && table.columns.length > 1;
    const sizes = () => `${count(table.rows.length, "row")}, ${count(table.columns.length, "column")}`;
    this.#found.textContent = table ? sizes() : "";
    this.#mapping.replaceChildren(...(several ? fieldsOf(this.task).map((field) => this.#columnChoice(field)) : []));
    this.#changed();
  }

  #columnChoice(field) {
    const id = `column-${field.name}`;
    const option = (name, place) => {
      return h("option", { value: String(place), selected: place === this.columnOf[field.name] }, name);
    };
    const change = ({ target }) => {
      this.columnOf[field.name] = Number(target.value);
      this.#changed();
    };
    const options = [option("no column", -1), ...this.table.columns.map(option)];
    const select = h("select", { id, onchange: change }, options);
    return h("div", { class: "field" }, label(id, `${readable(field.name)} is in`), select);
  }
}

function label(id, text) {
  return h("label", { for: id }, text);
}
