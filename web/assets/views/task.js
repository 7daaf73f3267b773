// The panel of one task: what it is, how far it is, its controls and its items.

import { newKey } from "../api.js";
import {
  CONTROLS,
  budgetWords,
  mayRetry,
  mayRollBack,
  question,
  rollBackOf,
  stallWords,
  strategyWords,
  waveWords,
} from "../control.js";
import { attr, h, icon, show, text } from "../dom.js";
import { ACTIONS, actionWord } from "../draft.js";
import { age, duration, moment, number, plural, rate, sentence, shortId } from "../format.js";
import { remaining } from "../pace.js";
import { isStalled, isTerminal, pending, submittedAt } from "../store.js";
import { Bar, StatusMark } from "./bar.js";
import { Family } from "./family.js";
import { ItemTable } from "./items.js";
import { ask, askNumber, toast } from "./parts.js";

const FAILED_PAGE = 1_000;
const LEGEND = ["succeeded", "failed", "skipped", "cancelled"];
export class TaskPanel {
  #id = null;
  #status = new StatusMark();
  #bar = new Bar(true);
  #legend = new Map();
  #controls = new Map();
  #facts = new Map();
  #family = new Family();
  #busy = false;

  /**
   * `rateOf(id)` gives items per second; `mayChange()` whether controls are offered, `user()` to whom; `onForbidden()` on
   * a 403; `onRetry(task)` with a retry that was made; `onRepeat(task, nodes)` when the user wants to submit something
   * like it for the nodes that failed.
   */
  constructor({ store, api, rateOf, mayChange, user, onForbidden, onRetry, onRepeat }) {
    Object.assign(this, { store, api, rateOf, mayChange, user, onForbidden, onRetry, onRepeat });
    this.items = new ItemTable(api);
    this.#build();
  }

  get id() {
    return this.#id;
  }

  #build() {
    this.title = h("h2", { tabindex: -1 });
    this.reason = h("p.reason");
    this.error = h("p.notice.bad", {}, icon("warn"), h("span"));
    this.why = h("p.notice.warn", {}, icon("pause"), h("span"));
    this.stall = h("p.notice.warn", {}, icon("warn"), h("span"));
    this.current = h("b");
    this.of = h("span.muted");
    this.pace = h("span.pace");
    const head = h(
      "header.panel-head",
      {},
      this.#titleLine(),
      this.reason,
      this.error,
      this.why,
      this.stall,
      this.#family.node,
      this.#progress(),
      this.#factList(),
    );
    this.body = h("div", {}, head, this.items.node);
    this.missing = h("div.empty", { hidden: true });
    this.node = h("section.panel.card", { "aria-label": "Task", hidden: true }, this.body, this.missing);
  }

  #titleLine() {
    const buttons = Object.entries(CONTROLS).map(([verb, control]) => {
      const button = h(
        "button",
        { type: "button", "data-verb": verb, onclick: () => this.#control(verb) },
        icon(control.icon),
        control.word,
      );
      if (verb === "cancel") button.classList.add("danger");
      this.#controls.set(verb, button);
      return button;
    });
    this.retry = h(
      "button",
      { type: "button", "data-verb": "retry", onclick: () => this.#retryFailed() },
      icon("retry"),
      "Retry failed",
    );
    this.again = h(
      "button",
      {
        type: "button",
        "data-verb": "edit",
        title: "A new batch for the nodes that failed, to be changed first",
        onclick: () => this.#repeatFailed(),
      },
      icon("copy"),
      "Edit and retry",
    );
    this.rollback = h(
      "button",
      {
        type: "button",
        "data-verb": "rollback",
        title: "A new batch that undoes what this one cordoned, and nobody else's cordons",
        onclick: () => this.#rollBack(),
      },
      icon("copy"),
      "Roll back",
    );
    buttons.push(this.retry, this.again, this.rollback);
    const close = h(
      "a.button.quiet.square.close",
      { href: "#/", "aria-label": "Back to all tasks", title: "Close (Esc)" },
      icon("close"),
    );
    return h("div.panel-title", {}, this.title, this.#status.node, h("div.buttons", {}, buttons), close);
  }

  #progress() {
    const legend = LEGEND.map((name) => {
      const count = h("b", {}, "0");
      const entry = h(`li.${name}`, {}, h("i"), count, name);
      this.#legend.set(name, { count, entry });
      return entry;
    });
    this.pending = h("b");
    legend.push(h("li", {}, h("i"), this.pending, "to go"));
    return h(
      "div",
      {},
      h("div.big-number", {}, this.current, this.of, this.pace),
      this.#bar.node,
      h("ul.legend", {}, legend),
    );
  }

  #factList() {
    this.factList = h("dl.facts");
    this.copy = h("button.mono", {
      type: "button",
      title: "Copy the task id",
      onclick: () => this.#copyId(),
    });
    for (const name of [
      "Submitted",
      "Took",
      "Id",
      "Attempt",
      "Priority",
      "Nodes at once",
      "Failure budget",
      "Strategy",
      "Wave",
      "Worker",
      "Parameters",
      "Last node",
    ]) {
      const value = h("dd");
      this.#facts.set(name, { value, row: h("div", {}, h("dt", {}, name), value) });
      this.factList.append(this.#facts.get(name).row);
    }
    this.#facts.get("Id").value.append(this.copy);
    this.atOnce = h("span");
    this.change = h(
      "button.link",
      { type: "button", "data-verb": "concurrency", onclick: () => this.#changeConcurrency() },
      "Change",
    );
    this.#facts.get("Nodes at once").value.append(this.atOnce, this.change);
    return this.factList;
  }

  async #copyId() {
    try {
      await navigator.clipboard.writeText(this.#id);
      toast("The task id is in the clipboard.");
    } catch {
      toast(this.#id);
    }
  }

  /** Shows a task, or nothing for `null`. Reads it from the server, since the list may know it only in part. */
  async show(id) {
    this.#id = id;
    show(this.node, id !== null);
    this.items.close();
    if (id === null) return;
    show(this.missing, false);
    this.node.scrollTop = 0;
    this.items.open(id);
    this.render();
    this.title.focus({ preventScroll: true });
    await this.refresh();
  }

  /** Reads the task's words again; its numbers only if they are newer. */
  async refresh() {
    const id = this.#id;
    if (id === null) return;
    const seen = this.store.seen();
    try {
      this.store.merge(await this.api.task(id), seen);
      if (id === this.#id) this.render();
    } catch (problem) {
      if (id === this.#id && !this.store.get(id)) this.#miss(problem);
    }
  }

  #miss(problem) {
    const words = problem.status === 404 ? "There is no such task, or it is not yours." : problem.message;
    this.missing.replaceChildren(h("b", {}, words), h("a.button", { href: "#/" }, "All tasks"));
    show(this.missing, true);
  }

  render() {
    const task = this.#id && this.store.get(this.#id);
    show(this.body, Boolean(task));
    if (!task) return;
    text(this.title, `${actionWord(task.action)} · ${task.cluster}`);
    this.#status.update(isStalled(task) ? "stalled" : task.status);
    this.#bar.update(task);
    this.#family.update(task);
    this.#renderWords(task);
    this.#renderCounts(task);
    this.#renderFacts(task);
    this.#renderControls(task);
    this.items.count(task);
    this.tick();
  }

  #renderWords(task) {
    text(this.reason, task.reason ?? "");
    show(this.reason, Boolean(task.reason));
    text(this.error.lastElementChild, task.error ?? "");
    show(this.error, Boolean(task.error));
    const why = isTerminal(task.status) ? null : (task.waits_for ?? task.message);
    text(this.why.lastElementChild, sentence(why ?? ""));
    show(this.why, Boolean(why));
    show(this.stall, isStalled(task));
  }

  #renderCounts(task) {
    text(this.current, number(task.current));
    text(this.of, `of ${plural(task.total, "node")} done`);
    for (const [name, { count, entry }] of this.#legend) {
      text(count, number(task[name]));
      show(entry, name === "succeeded" || name === "failed" || task[name] > 0);
    }
    text(this.pending, number(pending(task)));
  }

  #renderFacts(task) {
    const facts = {
      Parameters: parameterWords(task.parameters),
      "Last node": isTerminal(task.status) ? null : (task.current_node ?? "–"),
      Took: took(task),
      Attempt: task.attempt > 1 ? number(task.attempt) : null,
      Priority: task.priority ? number(task.priority) : null,
      "Failure budget": budgetWords(task.failure_budget),
      Strategy: strategyWords(task.strategy),
      Wave: waveWords(task),
      Worker: task.worker,
    };
    for (const [name, value] of Object.entries(facts)) {
      const fact = this.#facts.get(name);
      text(fact.value, value ?? "");
      show(fact.row, Boolean(value));
    }
    text(this.copy, shortId(task.task_id));
    const open = !isTerminal(task.status);
    text(this.atOnce, task.concurrency ? number(task.concurrency) : "worker’s default");
    show(this.#facts.get("Nodes at once").row, open || Boolean(task.concurrency));
    show(this.change, open && this.mayChange());
  }

  #renderControls(task) {
    for (const [verb, button] of this.#controls) {
      show(button, this.mayChange() && CONTROLS[verb].on.includes(task.status));
      if (button.disabled !== this.#busy) button.disabled = this.#busy;
    }
    show(this.retry, this.mayChange() && mayRetry(task, this.user()));
    const editable = isTerminal(task.status) && task.failed > 0 && task.action in ACTIONS;
    show(this.again, this.mayChange() && editable);
    show(this.rollback, this.mayChange() && mayRollBack(task));
    for (const button of [this.retry, this.again, this.rollback, this.change]) button.disabled = this.#busy;
  }

  /** Refreshes what changes with time alone. */
  tick(now = Date.now()) {
    const task = this.#id && this.store.get(this.#id);
    if (!task) return;
    const submitted = submittedAt(task);
    const ago = age(submitted, now);
    text(this.#facts.get("Submitted").value, ago === "now" ? "just now" : `${ago} ago`);
    attr(this.#facts.get("Submitted").value, "title", moment(submitted));
    text(this.pace, paceWords(task, this.rateOf(task.task_id)));
    if (isStalled(task)) text(this.stall.lastElementChild, stallWords(task, now));
  }

  /** Lays an event of the shown task over its items. What only the record says of an end is read from there. */
  onEvent(event, gap) {
    this.items.apply(event, gap);
    if (isTerminal(event.status)) this.refresh();
  }

  /** A retry of the shown task began or ended. */
  onRetryEvent(event) {
    if (isTerminal(event.status) || event.type === "queued" || event.type === "started") this.refresh();
  }

  async #control(verb) {
    const task = this.store.get(this.#id);
    if (!(await ask(question(verb, task)))) return;
    const seen = this.store.seen();
    await this.#doing(async () => this.store.merge(await this.api.control(task.task_id, verb), seen));
    await this.refresh();
  }

  async #changeConcurrency() {
    const task = this.store.get(this.#id);
    const answer = await askNumber(question("concurrency", task));
    if (!answer) return;
    const seen = this.store.seen();
    await this.#doing(async () =>
      this.store.merge(await this.api.concurrency(task.task_id, answer.value), seen),
    );
  }

  /** The key lives as long as the question: the same answer sent twice is one retry. */
  async #retryFailed() {
    const task = this.store.get(this.#id);
    if (!(await ask(question("retry", task)))) return;
    await this.#doing(async () => this.onRetry(await this.api.retry(task.task_id, newKey())));
  }

  async #repeatFailed() {
    const task = this.store.get(this.#id);
    await this.#doing(async () => this.onRepeat(task, await this.#items(task, "failed")));
  }

  async #rollBack() {
    const task = this.store.get(this.#id);
    // All nodes, since one that failed may be cordoned too. What the task did not cordon is left alone by the action.
    await this.#doing(async () => this.onRepeat(rollBackOf(task), await this.#items(task)));
  }

  /** All items of a task, or those in a state, page by page. */
  async #items(task, state) {
    const ended = [];
    let after = null;
    do {
      const { items, next = null } = await this.api.items(task.task_id, {
        state,
        after,
        limit: FAILED_PAGE,
      });
      ended.push(...items);
      after = next;
    } while (after !== null);
    return ended;
  }

  /** Runs what a button asked for, with all buttons off meanwhile. */
  async #doing(work) {
    this.#busy = true;
    this.render();
    try {
      await work();
    } catch (problem) {
      if (problem.status === 403) this.onForbidden();
      toast(problem.message, "bad");
    }
    this.#busy = false;
    this.render();
  }
}

function paceWords(task, perSecond) {
  if (isTerminal(task.status)) return "";
  const left = remaining(perSecond, pending(task));
  return left === null ? "" : `${rate(perSecond)} · about ${duration(left)} left`;
}

/** How long the task worked, once the record says so. */
function took({ started_at: started, finished_at: finished }) {
  return started && finished ? duration(Date.parse(finished) - Date.parse(started)) : null;
}

/** The parameters of an action in a line. */
function parameterWords(parameters) {
  if (!parameters) return null;
  const texts = { ...parameters.labels, ...parameters.annotations };
  const labels = Object.entries(texts).map(([key, value]) => `${key}=${value}`);
  const taints = (parameters.taints ?? []).map(
    ({ key, value, effect }) => `${key}${value ? `=${value}` : ""}${effect ? `:${effect}` : ""}`,
  );
  const words = [...labels, ...(parameters.keys ?? []), ...taints];
  if (parameters.overwrite) words.push("(overwrite)");
  if (parameters.from) words.push(`from ${parameters.from}`);
  if (parameters.ignore_daemonsets) words.push("DaemonSets stay");
  if (parameters.delete_emptydir_data) words.push("emptyDir data goes");
  if (parameters.force) words.push("pods of nobody go");
  if (parameters.pod_selector) words.push(`only ${parameters.pod_selector}`);
  if (parameters.timeout_seconds) words.push(`${duration(parameters.timeout_seconds * 1000)} for each node`);
  if (parameters.foreign) words.push("cordons of others too");
  if (parameters.of_task) words.push(`cordons of task ${shortId(parameters.of_task)}`);
  return words.join(", ");
}
