// Templates in the form: one of them fills the rows of labels, taints or annotations, and what has several values is picked.

import { h, show } from "../dom.js";

/** The rows that a template makes: what has one value, and what was picked of the rest. */
export function rowsOfTemplate(template, picked) {
  return template.entries.flatMap(({ key, values, effect = "" }) => {
    const value = values.length === 1 ? values[0] : picked[key];
    return value === undefined ? [] : [{ key, value, effect }];
  });
}

/** The keys with several values, each once with those that all of its entries have. */
export function choicesOf(template) {
  const choices = new Map();
  for (const { key, values } of template.entries.filter((entry) => entry.values.length > 1)) {
    const before = choices.get(key);
    choices.set(key, before ? before.filter((value) => values.includes(value)) : values);
  }
  return [...choices];
}

export class TemplateFields {
  #templates = [];
  #offered = [];
  #chosen = null;
  #picked = {};

  /** `onRows(rows)` is called with the rows that the chosen template makes. */
  constructor(onRows) {
    this.onRows = onRows;
    this.select = h("select", { id: "field-template", onchange: () => this.#choose() });
    this.picks = h("div.parameters");
    this.node = h(
      "div.template",
      { hidden: true },
      h("label", { for: "field-template" }, "From a template", this.select),
      this.picks,
    );
  }

  load(templates) {
    this.#templates = templates;
  }

  /** Offers the templates of an action, and chooses none. */
  offer(action) {
    this.#offered = this.#templates.filter((template) => template.action === action);
    const options = this.#offered.map(({ name, description }) =>
      h("option", { value: name, title: description }, name),
    );
    this.select.replaceChildren(h("option", { value: "" }, "none"), ...options);
    this.clear();
    show(this.node, this.#offered.length > 0);
  }

  clear() {
    this.select.value = "";
    this.#chosen = null;
    this.#picked = {};
    this.picks.replaceChildren();
  }

  /** The keys of which a value is still to be picked: nothing is picked by itself. */
  get unpicked() {
    if (!this.#chosen) return [];
    return choicesOf(this.#chosen)
      .map(([key]) => key)
      .filter((key) => this.#picked[key] === undefined);
  }

  #choose() {
    this.#chosen = this.#offered.find(({ name }) => name === this.select.value) ?? null;
    this.#picked = {};
    this.picks.replaceChildren(...(this.#chosen ? choicesOf(this.#chosen).map((choice) => this.#pick(choice)) : []));
    if (this.#chosen) this.onRows(rowsOfTemplate(this.#chosen, this.#picked));
  }

  #pick([key, values]) {
    const options = values.map((value, place) => h("option", { value: place }, value === "" ? "(empty)" : value));
    const select = h("select", { name: "pick" }, h("option", { value: "" }, "pick one"), options);
    select.addEventListener("change", () => {
      this.#picked[key] = select.value === "" ? undefined : values[Number(select.value)];
      this.onRows(rowsOfTemplate(this.#chosen, this.#picked));
    });
    return h("label", {}, key, select);
  }
}
