// Rows of keys, values and effects for the actions that take them.

import { h, icon } from "../dom.js";

const EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const ROWS_MAX = 32;
/** What a row of each action holds. */
const SHAPES = {
  label: { value: true },
  unlabel: {},
  taint: { value: true, effects: EFFECTS },
  untaint: { effects: ["", ...EFFECTS] },
  annotate: { value: true },
  unannotate: {},
};

export class ParameterRows {
  #shape = {};
  #list = h("div.parameters");

  constructor() {
    this.more = h(
      "button.quiet",
      { type: "button", onclick: () => this.#add().querySelector("input").focus() },
      icon("plus"),
      "Add",
    );
    this.node = h("div.parameters", { tabindex: -1 }, this.#list, this.more);
  }

  /** Makes the rows fit an action, filled with `before`: by default what was typed so far. */
  choose(action, before = this.values()) {
    this.#shape = SHAPES[action] ?? {};
    this.#list.replaceChildren();
    const kept = before.filter((row) => row.key !== "" || row.value !== "");
    for (const row of kept.length > 0 ? kept : [{}]) this.#add(row);
  }

  clear() {
    this.#list.replaceChildren();
    this.#add();
  }

  values() {
    return [...this.#list.children].map((row) => {
      const part = (name) => row.querySelector(`[name="${name}"]`)?.value.trim() ?? "";
      return { key: part("key"), value: part("value"), effect: part("effect") };
    });
  }

  #add({ key = "", value = "", effect = "" } = {}) {
    const parts = [
      h("input", {
        name: "key",
        value: key,
        placeholder: "key",
        "aria-label": "Key",
        autocomplete: "off",
        spellcheck: "false",
      }),
    ];
    if (this.#shape.value)
      parts.push(
        h("input", {
          name: "value",
          value,
          placeholder: "value",
          "aria-label": "Value",
          autocomplete: "off",
          spellcheck: "false",
        }),
      );
    if (this.#shape.effects) parts.push(effectSelect(this.#shape.effects, effect));
    const remove = h(
      "button.quiet.square",
      { type: "button", "aria-label": "Remove this row", onclick: () => this.#remove(row) },
      icon("close"),
    );
    const row = h("div.parameter", {}, parts, remove);
    this.#list.append(row);
    this.more.disabled = this.#list.children.length >= ROWS_MAX;
    return row;
  }

  #remove(row) {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (next ?? this.#add()).querySelector("input").focus();
    this.more.disabled = false;
  }
}

function effectSelect(effects, chosen) {
  const options = effects.map((effect) =>
    h("option", { value: effect }, effect === "" ? "any effect" : effect),
  );
  const select = h("select", { name: "effect", "aria-label": "Effect" }, options);
  if (effects.includes(chosen)) select.value = chosen;
  return select;
}
