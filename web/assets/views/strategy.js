// The fields of a strategy in the submit form: waves, order, pauses, room and windows.

import { h } from "../dom.js";

const GATES = { none: "go on by itself", first: "wait for me after the first", each: "wait for me after each" };
const RULES = {
  zones: "One of each zone in turn",
  control_plane_last: "Control plane last",
  own_node_last: "Milepost's own node last",
};

export class StrategyFields {
  #texts = new Map();
  #rules = new Map();

  constructor() {
    const wave = [
      this.#text("canary", "First wave", { inputmode: "numeric", placeholder: "none" }),
      this.#text("waves", "Each wave", { placeholder: "all, 10 or 10%" }),
      this.#text("soak", "Seconds between", { inputmode: "numeric", placeholder: "0" }),
      this.#text("most", "Most unavailable", { placeholder: "any, 5 or 10%" }),
    ];
    const options = Object.entries(GATES).map(([value, word]) => h("option", { value }, word));
    this.gate = h("select", { id: "field-strategy-gate" }, options);
    const gate = h("div.field", {}, h("label.small", { for: this.gate.id }, "Between waves"), this.gate);
    const windows = this.#text("windows", "Only in these windows, separated by ;", {
      placeholder: "Mon-Fri 22:00-04:00 Europe/Berlin",
    });
    const rules = Object.entries(RULES).map(([rule, word]) => {
      const box = h("input", { type: "checkbox" });
      this.#rules.set(rule, box);
      return h("label.check", {}, box, word);
    });
    this.node = h("div", { tabindex: -1 }, h("div.budget", {}, wave), gate, rules, windows);
  }

  #text(name, word, more) {
    const input = h("input", { type: "text", id: `field-strategy-${name}`, autocomplete: "off", ...more });
    this.#texts.set(name, input);
    return h("div.field", {}, h("label.small", { for: input.id }, word), input);
  }

  values() {
    const texts = [...this.#texts].map(([name, input]) => [name, input.value.trim()]);
    const order = [...this.#rules].filter(([, box]) => box.checked).map(([rule]) => rule);
    return { ...Object.fromEntries(texts), gate: this.gate.value, order };
  }

  /** Shows the strategy of a task, or none. */
  choose(strategy) {
    const { canary, waves, order = [], soak_ms, gate, max_unavailable, windows } = strategy ?? {};
    const texts = {
      canary: canary ?? "",
      waves: (waves ?? []).join(", "),
      soak: soak_ms ? soak_ms / 1000 : "",
      most: max_unavailable ?? "",
      windows: (windows ?? []).join("; "),
    };
    for (const [name, input] of this.#texts) input.value = texts[name];
    for (const [rule, box] of this.#rules) box.checked = order.includes(rule);
    this.gate.value = gate ?? "none";
  }
}
