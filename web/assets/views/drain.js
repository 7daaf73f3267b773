// The options of a drain in the submit form, each with what it means.

import { h, text } from "../dom.js";
import { whyNot } from "../rights.js";

const SWITCHES = [
  {
    name: "ignore_daemonsets",
    word: "Leave pods of DaemonSets",
    hint: "Their DaemonSet would make them anew here at once. Off: a node with such pods is refused.",
  },
  {
    name: "delete_emptydir_data",
    word: "Evict pods with emptyDir volumes",
    hint: "The data in them is lost. Off: a node with such pods is refused.",
  },
  {
    name: "force",
    word: "Evict pods without a controller",
    hint: "Nothing makes them anew. Off: a node with such pods is refused.",
    takes: "force",
  },
  {
    name: "bypass_pdb",
    word: "Delete pods instead of evicting them",
    hint: "No disruption budget is asked: an app may lose all of its pods at once.",
    takes: "bypass-pdb",
  },
];
const NUMBERS = [
  {
    name: "grace_period_seconds",
    word: "Grace period, s",
    placeholder: "each pod's own",
    min: 0,
    hint: "Time for a pod to end by itself.",
  },
  {
    name: "timeout_seconds",
    word: "Time per node, s",
    placeholder: "1800",
    min: 1,
    hint: "From the first eviction. What is left then fails the node, which stays cordoned.",
  },
  {
    name: "skip_wait_for_delete_timeout_seconds",
    word: "Skip if terminating for, s",
    placeholder: "wait for all",
    min: 0,
    hint: "Pods that have been terminating for longer are not waited for.",
  },
];
const SECONDS_MAX = 86_400;

export class DrainFields {
  #switches = new Map();
  /** Switches that take a capability, each with it and with its hint. */
  #taking = [];
  #texts = new Map();
  /** Where the faults of each option are shown. */
  faults = new Map();

  constructor() {
    const switches = SWITCHES.map(({ name, word, hint, takes }) => {
      const input = h("input", { type: "checkbox", id: `field-${name}`, "aria-describedby": `hint-${name}` });
      this.#switches.set(name, input);
      const line = h("label.check", {}, input, word);
      const about = h("p.hint", { id: `hint-${name}` }, hint);
      if (takes) this.#taking.push({ input, takes, hint, about });
      return [line, about, this.#fault(name, input)];
    });
    const numbers = NUMBERS.map(({ name, word, hint, ...more }) =>
      this.#text(name, word, hint, { type: "number", max: SECONDS_MAX, step: 1, inputmode: "numeric", ...more }),
    );
    const selector = this.#text("pod_selector", "Only pods with labels", "A label selector. Others stay.", {
      placeholder: "app=web,tier!=gold",
      autocomplete: "off",
      spellcheck: "false",
    });
    const budgets = h("p.hint", {}, "Disruption budgets are respected unless pods are deleted.");
    this.node = h("div.drain", { tabindex: -1 }, ...switches.flat(), ...numbers, selector, budgets);
  }

  #text(name, word, hint, attributes) {
    const input = h("input", { id: `field-${name}`, "aria-describedby": `hint-${name}`, ...attributes });
    this.#texts.set(name, input);
    const label = h("label.small", { for: input.id }, word);
    const fault = this.#fault(name, input);
    return h("div.field", {}, label, input, fault, h("p.hint", { id: `hint-${name}` }, hint));
  }

  #fault(name, control) {
    const fault = h("p.fault", { id: `fault-${name}`, hidden: true });
    this.faults.set(name, { fault, control });
    return fault;
  }

  /** Offers what takes a capability to who holds it on a cluster; others see why they cannot choose it. */
  offer(access, cluster) {
    for (const { input, takes, hint, about } of this.#taking) {
      const why = whyNot(access, takes, cluster);
      input.disabled = why !== null;
      if (input.disabled) input.checked = false;
      text(about, why === null ? hint : `${hint} ${why}`);
    }
  }

  values() {
    return {
      ...Object.fromEntries([...this.#switches].map(([name, input]) => [name, input.checked])),
      ...Object.fromEntries([...this.#texts].map(([name, input]) => [name, input.value.trim()])),
    };
  }

  /** Shows the options of a task, or the defaults. */
  choose(parameters) {
    for (const [name, input] of this.#switches) input.checked = parameters?.[name] === true && !input.disabled;
    for (const [name, input] of this.#texts) input.value = parameters?.[name] ?? "";
  }
}
