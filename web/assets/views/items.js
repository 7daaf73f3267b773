// The table of a task's items: one page at a time, filtered by state, live.

import { arrange, attr, h, icon, perFrame, show, text } from "../dom.js";
import { number } from "../format.js";
import { ItemPage, obstacleDetail, stepWords } from "../items.js";
import { isTerminal } from "../store.js";
import { StatusMark } from "./bar.js";
import { choices } from "./parts.js";

const PAGE = 100;
const STATES = ["all", "pending", "succeeded", "failed", "skipped", "cancelled"];
/** The record follows the live events by a moment; a page is read again this long after something was missed. */
const SETTLE_MS = 700;
/** A page that could not be read is read again this long after. */
const RETRY_MS = 5_000;

class ItemRow {
  #shown = null;
  #status = new StatusMark();
  #name = h("td.mono");
  #why = h("td.why");

  constructor(index) {
    this.node = h(
      "tr",
      {},
      h("td.mono", {}, number(index + 1)),
      this.#name,
      h("td", {}, this.#status.node),
      this.#why,
    );
  }

  /** Shows an item. Items are replaced when they change, so the same one again needs no work. */
  update(item) {
    if (item === this.#shown) return;
    this.#shown = item;
    text(this.#name, item.name);
    this.#status.update(item.state);
    const doing = item.state === "running" ? stepWords(item.step, Date.now()) : "";
    text(this.#why, item.error ?? (item.effect === "already" ? "was already so" : doing));
    attr(this.#why, "title", doing ? obstacleDetail(item.step) || null : null);
    attr(this.node, "class", item.state);
  }
}

export class ItemTable {
  #id = null;
  #state = "all";
  /** The `after` of each page up to the shown one. */
  #trail = [null];
  #page = new ItemPage();
  #rows = new Map();
  #next = null;
  #timer = null;
  #reading = 0;
  #counts = null;
  #soon = perFrame(() => this.#render());

  constructor(api) {
    this.api = api;
    this.filter = choices("item-state", "Items", STATES, (state) => this.#go(state, [null]));
    this.back = h(
      "button.quiet.square",
      {
        type: "button",
        "aria-label": "Page before",
        onclick: () => this.#go(this.#state, this.#trail.slice(0, -1)),
      },
      icon("back"),
    );
    this.next = h(
      "button.quiet.square",
      { type: "button", "aria-label": "Next page", onclick: () => this.#forward() },
      icon("next"),
    );
    this.place = h("span", { "aria-live": "off" });
    this.tbody = h("tbody");
    this.empty = h("div.empty");
    const heads = ["#", "Node", "State", "Detail"].map((name) => h("th", { scope: "col" }, name));
    this.table = h("table.items", {}, h("thead", {}, h("tr", {}, heads)), this.tbody);
    const pages = h("div.pages", {}, this.place, this.back, this.next);
    this.node = h(
      "section",
      { "aria-label": "Items" },
      h("div.items-tools", {}, this.filter.node, pages),
      this.table,
      this.empty,
    );
  }

  open(id) {
    this.#id = id;
    this.#counts = null;
    this.filter.choose("all");
    this.#go("all", [null]);
  }

  /** Shows nothing and reads nothing any more. */
  close() {
    this.#id = null;
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#reading += 1;
  }

  #go(state, trail) {
    this.#state = state;
    this.#trail = trail;
    this.#read(false);
  }

  #forward() {
    if (this.#next !== null) this.#go(this.#state, [...this.#trail, this.#next]);
  }

  /** Reads the shown page. An answer that comes after a newer question is dropped. */
  async #read(same) {
    clearTimeout(this.#timer);
    this.#timer = null;
    const reading = ++this.#reading;
    const asked = {
      state: this.#state === "all" ? null : this.#state,
      after: this.#trail.at(-1),
      limit: PAGE,
    };
    try {
      const answer = await this.api.items(this.#id, asked);
      if (reading !== this.#reading) return;
      this.#page.load(answer.items, same);
      this.#next = answer.next ?? null;
      this.#render();
      // What ended just before was neither in the record yet nor laid over a page that did not exist.
      if (!same && this.#page.unfinished) this.#settle();
    } catch (problem) {
      if (reading !== this.#reading) return;
      if (!same) this.#fail(problem);
      else if (problem.status === 0 || problem.status === 429 || problem.status >= 500)
        this.#settle(RETRY_MS);
    }
  }

  #fail(problem) {
    this.#page.load([], false);
    this.#render();
    text(this.empty, problem.status === 404 ? "" : problem.message);
  }

  /** Reads the page again soon; many requests become one, and the last one always counts. */
  #settle(after = SETTLE_MS) {
    this.#timer ??= setTimeout(() => this.#read(true), after);
  }

  /** Lays an event over the page. `gap` says that events were missed. */
  apply(event, gap) {
    const changed = this.#page.apply(event);
    const filtered = this.#state !== "all" && (event.items ?? []).length > 0;
    if (gap || filtered || isTerminal(event.status)) this.#settle();
    if (changed.length > 0) this.#soon();
  }

  /** Takes the task's counts, for the words on the filter. Counts that changed without items call for a new read. */
  count(task) {
    const counts = {
      pending: Math.max(0, task.total - task.current),
      succeeded: task.succeeded,
      failed: task.failed,
      skipped: task.skipped,
      cancelled: task.cancelled,
      all: task.total,
    };
    for (const state of STATES) {
      const word = state.charAt(0).toUpperCase() + state.slice(1);
      this.filter.reword(state, counts[state] > 0 ? `${word} ${number(counts[state])}` : word);
    }
    if (this.#counts && this.#counts.failed !== counts.failed && this.#state === "failed") this.#settle();
    this.#counts = counts;
    this.#renderPlace();
  }

  /** The server restarted the story: everything on the page may be old. */
  again() {
    if (this.#id !== null) this.#settle();
  }

  #render() {
    const items = this.#page.list();
    const rows = items.map((item) => this.#row(item));
    arrange(
      this.tbody,
      rows.map((row) => row.node),
    );
    const shown = new Set(items.map((item) => item.index));
    for (const index of this.#rows.keys()) if (!shown.has(index)) this.#rows.delete(index);
    show(this.table, items.length > 0);
    show(this.empty, items.length === 0);
    text(this.empty, this.#state === "all" ? "No items." : `No ${this.#state} items.`);
    this.#renderPlace();
  }

  #row(item) {
    const row = this.#rows.get(item.index) ?? new ItemRow(item.index);
    this.#rows.set(item.index, row);
    row.update(item);
    return row;
  }

  #renderPlace() {
    const items = this.#page.list();
    const before = (this.#trail.length - 1) * PAGE;
    const total = this.#counts?.[this.#state] ?? 0;
    const range =
      items.length === 0
        ? ""
        : `${number(before + 1)}–${number(before + items.length)} of ${number(Math.max(total, before + items.length))}`;
    text(this.place, range);
    this.back.disabled = this.#trail.length === 1;
    this.next.disabled = this.#next === null;
    show(this.back.parentElement, this.#trail.length > 1 || items.length > 0);
  }
}
