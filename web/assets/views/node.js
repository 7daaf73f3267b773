// One node in a dialog: what it is, how it is, and the pods on it.

import { h, icon } from "../dom.js";
import { moment, plural, sentence, shortId } from "../format.js";
import { cordonWords } from "../nodes.js";

/** Pods that are drawn; of more the number is said. */
const PODS_SHOWN = 200;

const row = (name, ...value) => [h("dt", {}, name), h("dd", {}, ...value)];
const lines = (values) => values.map((value) => h("div.mono", {}, value));
const pairs = (map) => Object.entries(map ?? {}).map(([key, value]) => `${key}=${value}`);

/** What pods may use, of what there is. */
export function resourceWords(node) {
  const words = Object.entries(node.capacity ?? {}).map(([name, all]) => {
    const usable = node.allocatable?.[name] ?? all;
    return usable === all ? `${name} ${all}` : `${name} ${usable} of ${all}`;
  });
  return words.join(", ");
}

/** How many pods there are, by phase. */
export function podWords(pods) {
  if (!pods) return "The pods could not be read right now.";
  if (pods.count === 0) return "No pods";
  const phases = new Map();
  for (const { phase } of pods.pods) phases.set(phase, (phases.get(phase) ?? 0) + 1);
  const words = [...phases].sort().map(([phase, n]) => `${n} ${phase.toLowerCase()}`);
  return `${pods.more ? "More than " : ""}${plural(pods.count, "pod")}: ${words.join(", ")}`;
}

/** What came of a node in a task. */
export function outcomeWords({ state, effect, error }) {
  if (error) return `${sentence(state)}: ${error}`;
  return state === "succeeded" && effect === "already" ? "Succeeded, nothing to change" : sentence(state);
}

export class NodeDialog {
  #asked = null;

  constructor({ api }) {
    this.api = api;
    this.title = h("h2", { id: "node-title" });
    this.body = h("div.node-detail");
    const close = h(
      "button.quiet.square",
      { type: "button", "aria-label": "Close", onclick: () => this.node.close() },
      icon("close"),
    );
    this.node = h(
      "dialog.node-dialog",
      { "aria-labelledby": "node-title" },
      h("div.node-dialog-head", {}, this.title, close),
      this.body,
    );
    this.node.addEventListener("close", () => (this.#asked = null));
  }

  /** Shows a node, first by what the list knows of it. */
  async open(cluster, node) {
    this.#asked = node.name;
    this.title.replaceChildren(node.name);
    this.#draw(node, "Loading…");
    if (!this.node.open) this.node.showModal();
    try {
      const history = this.api.history(cluster, node.name).catch(() => null);
      const whole = await this.api.node(cluster, node.name);
      const rows = await history;
      if (this.#asked === node.name) this.#draw(whole, null, rows);
    } catch (problem) {
      if (this.#asked === node.name) this.#draw(node, problem.message);
    }
  }

  #draw(node, note, history) {
    const state = [node.ready ? "Ready" : "Not ready", ...(node.problems ?? [])];
    if (node.unschedulable) state.push("cordoned");
    const facts = [
      ...row("Status", state.join(", ")),
      ...(node.unschedulable ? row("Cordon", cordonWords(node)) : []),
      ...(node.roles.length > 0 ? row("Roles", node.roles.join(", ")) : []),
      ...(node.created_at ? row("Created", node.created_at) : []),
      ...row("Kubelet", [node.version, node.system?.osImage].filter(Boolean).join(", ") || "–"),
      ...(node.addresses?.length > 0
        ? row("Addresses", node.addresses.map(({ kind, address }) => `${kind} ${address}`).join(", "))
        : []),
      ...(node.capacity ? row("Resources", resourceWords(node)) : []),
      ...(node.taints.length > 0 ? row("Taints", ...lines(node.taints)) : []),
      ...row("Labels", ...lines(pairs(node.labels))),
    ];
    const parts = [h("dl", {}, facts)];
    if (note) parts.push(h("p.muted", { role: "status" }, note));
    else parts.push(...this.#history(history), ...this.#conditions(node), ...this.#pods(node.pods));
    this.body.replaceChildren(...parts);
  }

  #history(rows) {
    if (!rows) return [h("h3", {}, "History"), h("p.muted", {}, "The audit could not be read right now.")];
    if (rows.length === 0) return [h("h3", {}, "History"), h("p.muted", {}, "No task of yours named this node.")];
    const row = ({ at, user, action, task_id: task, reason, node }) =>
      h(
        "tr",
        {},
        h("td", {}, moment(Date.parse(at))),
        h("td", {}, user),
        h("td", {}, h("a", { href: `#/tasks/${task}`, title: shortId(task) }, action)),
        h(node.state === "failed" ? "td.bad" : "td", {}, outcomeWords(node)),
        h("td", {}, reason ?? ""),
      );
    return [h("h3", {}, "History"), h("table.history", {}, h("tbody", {}, rows.map(row)))];
  }

  #conditions({ conditions }) {
    if (!conditions?.length) return [];
    const good = ({ name, status }) => status === (name === "Ready" ? "True" : "False");
    const rows = conditions.map((one) =>
      h(
        "tr",
        {},
        h("td", {}, one.name),
        h(good(one) ? "td" : "td.bad", {}, one.status),
        h("td", {}, one.message || one.reason),
      ),
    );
    return [h("h3", {}, "Conditions"), h("table", {}, h("tbody", {}, rows))];
  }

  #pods(pods) {
    const rows = (pods?.pods ?? [])
      .slice(0, PODS_SHOWN)
      .map((pod) =>
        h(
          "tr",
          {},
          h("td.mono", {}, `${pod.namespace}/${pod.name}`),
          h("td", {}, pod.phase),
          h("td", {}, pod.owner ?? "nobody's"),
        ),
      );
    return [h("h3", {}, "Pods"), h("p", {}, podWords(pods)), h("table", {}, h("tbody", {}, rows))];
  }
}
