// The fields of a failure budget in the submit form.

import { h } from "../dom.js";

const LIMITS = [
  { name: "failed", word: "Nodes", max: 100_000 },
  { name: "percent", word: "Percent", max: 99 },
  { name: "consecutive", word: "In a row", max: 100_000 },
];
const THEN = { pause: "pause", abort: "call it off" };

export class BudgetFields {
  #limits = new Map();

  constructor() {
    const fields = LIMITS.map(({ name, word, max }) => {
      const input = h("input", {
        type: "number",
        id: `field-budget-${name}`,
        min: 0,
        max,
        step: 1,
        placeholder: "any",
        inputmode: "numeric",
      });
      this.#limits.set(name, input);
      return h("div.field", {}, h("label.small", { for: input.id }, word), input);
    });
    const options = Object.entries(THEN).map(([value, word]) => h("option", { value }, word));
    this.then = h("select", { id: "field-budget-then" }, options);
    fields.push(h("div.field", {}, h("label.small", { for: this.then.id }, "Then"), this.then));
    this.node = h("div.budget", { tabindex: -1 }, fields);
  }

  values() {
    const limits = [...this.#limits].map(([name, input]) => [name, input.value.trim()]);
    return { ...Object.fromEntries(limits), then: this.then.value };
  }

  /** Shows the budget of a task, or none. */
  choose(budget) {
    for (const [name, input] of this.#limits) input.value = budget?.[name] ?? "";
    this.then.value = budget?.then ?? "pause";
  }
}
