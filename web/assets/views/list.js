// The list of tasks: filter, search, one live row per task.

import { arrange, attr, h, icon, show, text } from "../dom.js";
import { actionWord } from "../draft.js";
import { age, duration, moment, number, rate } from "../format.js";
import { remaining } from "../pace.js";
import { isStalled, isTerminal, matches, pending, submittedAt } from "../store.js";
import { Bar, StatusMark } from "./bar.js";
import { choices } from "./parts.js";

class TaskRow {
  #shown = null;
  #status = new StatusMark();
  #bar = new Bar();
  #parts = {
    action: h("b"),
    cluster: h("span.cut"),
    retry: h("span.retry", { title: "A retry of another task" }, icon("retry"), "retry"),
    reason: h("div.reason.cut"),
    succeeded: h("span"),
    failed: h("span.failed"),
    skipped: h("span"),
    amount: h("div.amount"),
    narrowAmount: h("span.narrow.end"),
    narrowLeft: h("span.narrow"),
    rate: h("div.rate"),
    left: h("div.left"),
    age: h("div.age"),
  };

  constructor(id) {
    const p = this.#parts;
    const tally = h("div.tally", {}, p.succeeded, p.failed, p.skipped, p.narrowAmount, p.narrowLeft);
    const what = h("div.what", {}, h("div.title", {}, p.action, p.cluster, p.retry), p.reason);
    const marks = h("div.marks", {}, this.#bar.node, tally);
    this.link = h(
      "a.task",
      { href: `#/tasks/${id}` },
      this.#status.node,
      what,
      marks,
      p.amount,
      p.rate,
      p.left,
      p.age,
    );
    this.node = h("li", { "data-task": id }, this.link);
  }

  /** Shows a task. Tasks are replaced when they change, so the same one again needs no work. */
  update(task, perSecond, chosen) {
    attr(this.link, "aria-current", chosen ? "page" : null);
    if (task === this.#shown) return;
    this.#shown = task;
    const p = this.#parts;
    this.#status.update(isStalled(task) ? "stalled" : task.status);
    this.#bar.update(task);
    show(p.retry, Boolean(task.parent_id));
    text(p.action, actionWord(task.action));
    text(p.cluster, task.cluster);
    text(p.reason, task.error ?? task.message ?? task.reason ?? "");
    text(p.succeeded, `${number(task.succeeded)} ok`);
    text(p.failed, task.failed > 0 ? `${number(task.failed)} failed` : "");
    text(p.skipped, task.skipped > 0 ? `${number(task.skipped)} skipped` : "");
    text(p.amount, `${number(task.current)} / ${number(task.total)}`);
    text(p.narrowAmount, `${number(task.current)} / ${number(task.total)}`);
    this.tick(task, perSecond);
  }

  /** Refreshes what changes with time alone. */
  tick(task, perSecond, now = Date.now()) {
    const moving = !isTerminal(task.status);
    const left = moving ? remaining(perSecond, pending(task)) : null;
    const submitted = submittedAt(task);
    text(this.#parts.rate, moving ? rate(perSecond) : "");
    text(this.#parts.left, left === null ? (moving ? "–" : "") : duration(left));
    text(this.#parts.narrowLeft, left === null ? age(submitted, now) : `${duration(left)} left`);
    text(this.#parts.age, age(submitted, now));
    attr(this.#parts.age, "title", moment(submitted));
  }
}

export class TaskList {
  #rows = new Map();
  #list = h("ul", { "aria-label": "Tasks" });
  #filter = "all";
  #words = "";
  #chosen = null;

  /**
   * `rateOf(id)` gives items per second or `null`; `older()` loads a page of older tasks. `owner` is whose tasks they are,
   * or `null` for one's own, and `onOwner(name)` is called to look at those of another.
   */
  constructor({ store, rateOf, older, owner, onOwner }) {
    this.store = store;
    this.rateOf = rateOf;
    this.owner = owner;
    this.#build(older, onOwner);
  }

  /** A field for the name of a user whose tasks to show; empty for one's own. */
  #whose(onOwner) {
    const field = h("input", {
      type: "search",
      id: "owner",
      value: this.owner ?? "",
      placeholder: "Tasks of another user",
      "aria-label": "Show the tasks of this user",
      autocomplete: "off",
      spellcheck: "false",
    });
    const form = h("form.search", {}, icon("eye"), field);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onOwner(field.value.trim());
    });
    field.addEventListener("search", () => field.value === "" && this.owner && onOwner(""));
    return form;
  }

  #build(older, onOwner) {
    const filter = choices("filter", "Show", ["all", "active", "failed"], (value) => {
      this.#filter = value;
      this.render();
    });
    this.search = h("input", {
      type: "search",
      placeholder: "Search tasks",
      "aria-label": "Search tasks",
      autocomplete: "off",
    });
    this.search.addEventListener("input", () => {
      this.#words = this.search.value;
      this.render();
    });
    this.submit = h("a.button.primary", { href: "#/new" }, icon("plus"), "New batch");
    this.others = this.#whose(onOwner);
    const tools = h(
      "div.tools",
      {},
      h("h1", {}, this.owner ? `Tasks of ${this.owner}` : "Tasks"),
      filter.node,
      h("div.search", {}, icon("search"), this.search),
      this.others,
      this.submit,
    );
    const names = ["Status", "Task", "Progress", "Done", "Rate", "Left", "Age"];
    this.heads = h(
      "div.heads",
      { "aria-hidden": "true" },
      names.map((name) => h("span", {}, name)),
    );
    this.empty = h("div.empty");
    this.older = h("button", { type: "button", onclick: older }, "Load older tasks");
    this.more = h("div.more", {}, this.older);
    this.#list.addEventListener("keydown", (event) => this.#walk(event));
    this.node = h(
      "section.list",
      { "aria-label": "Tasks" },
      tools,
      h("div.card.rows", {}, this.heads, this.#list, this.empty),
      this.more,
    );
  }

  /** Arrow keys walk through the rows. */
  #walk(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const row = step && event.target.closest("li")?.[step];
    if (!row) return;
    event.preventDefault();
    row.firstElementChild.focus();
  }

  choose(id) {
    this.#chosen = id;
    this.render();
  }

  /** Scrolls the list so that the row of a task can be seen. */
  reveal(id) {
    this.#rows.get(id)?.node.scrollIntoView({ block: "nearest" });
  }

  /** Gives the focus back to the row of a task that was looked at. */
  focus(id) {
    this.#rows.get(id)?.link.focus({ preventScroll: true });
  }

  /** Brings rows and their order up to date. */
  render() {
    const tasks = this.store.list().filter((task) => matches(task, this.#filter, this.#words));
    const rows = tasks.map((task) => this.#row(task.task_id));
    arrange(
      this.#list,
      rows.map((row) => row.node),
    );
    for (const [place, row] of rows.entries()) this.#update(row, tasks[place]);
    for (const id of this.#rows.keys()) if (!this.store.get(id)) this.#rows.delete(id);
    show(this.heads, tasks.length > 0);
    show(this.empty, tasks.length === 0);
    this.#explain();
  }

  #row(id) {
    if (!this.#rows.has(id)) this.#rows.set(id, new TaskRow(id));
    return this.#rows.get(id);
  }

  #update(row, task) {
    row.update(task, this.rateOf(task.task_id), task.task_id === this.#chosen);
  }

  #explain() {
    const none = this.store.list().length === 0;
    const batch = this.owner ? `What ${this.owner} submits` : "A batch you submit";
    const words = none
      ? ["No tasks yet", `${batch} appears here and moves as it runs.`]
      : ["Nothing matches", "Change the filter or the search."];
    if (this.empty.textContent !== words.join(""))
      this.empty.replaceChildren(h("b", {}, words[0]), h("span", {}, words[1]));
  }

  /** Refreshes ages, rates and times left. */
  tick() {
    for (const [id, row] of this.#rows) {
      const task = this.store.get(id);
      if (task && row.node.isConnected) row.tick(task, this.rateOf(id));
    }
  }
}
