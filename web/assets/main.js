// Puts the dashboard together: session, connection, store and views, and which view the address asks for.

import { Api } from "./api.js";
import { h, perFrame, show } from "./dom.js";
import { actionWord } from "./draft.js";
import { number, plural, statusWord } from "./format.js";
import * as pace from "./pace.js";
import { Session } from "./session.js";
import { LiveConnection } from "./socket.js";
import { Store, isTerminal, pending } from "./store.js";
import { showConnection, showTheme, topBar } from "./views/top.js";
import { TaskList } from "./views/list.js";
import { announce, toast } from "./views/parts.js";
import { SignIn } from "./views/signin.js";
import { SubmitPage } from "./views/submit.js";
import { TaskPanel } from "./views/task.js";

const OLDER_PAGE = 50;
const OLDER_MAX = 200;
const TICK_MS = 1_000;
/** With fewer finished tasks than this in a snapshot, there are no older ones to load. */
const OLDER_FROM = 10;
/** A watched task's progress is said to screen readers in steps of this many percent. */
const SAY_STEP = 10;
/** A connection that comes back at once is not worth a word. */
const SAY_LOST_FROM = 3;

class Dashboard {
  #session = new Session();
  #store = new Store();
  #api = new Api(
    () => this.#session.token,
    () => this.#askToken("This token is not accepted."),
  );
  #samples = new Map();
  #asked = new Set();
  #learning = Promise.resolve();
  #phase = "idle";
  #lost = false;
  #user = null;
  /** Whose tasks are shown, or `null` for one's own. */
  #owner = new URLSearchParams(location.search).get("owner") || null;
  #listScroll = 0;
  #said = { id: null, step: 0 };
  #render = perFrame(() => this.#paint());

  constructor() {
    const rateOf = (id) => this.#rateOf(id);
    const onForbidden = () => this.#forbid();
    this.list = new TaskList({
      store: this.#store,
      rateOf,
      older: () => this.#older(OLDER_PAGE),
      owner: this.#owner,
      onOwner: (owner) => this.#watch(owner),
    });
    this.panel = new TaskPanel({
      store: this.#store,
      api: this.#api,
      rateOf,
      mayChange: () => this.#session.mayChange,
      user: () => this.#session.user,
      onForbidden,
      onRetry: (task) => this.#submitted(task),
      onRepeat: (task, nodes) => this.#repeat(task, nodes),
    });
    this.submit = new SubmitPage({ api: this.#api, onForbidden, onDone: (task) => this.#submitted(task) });
    this.signIn = new SignIn((token) => this.#signedIn(token));
    this.board = h("div.board", { hidden: true }, this.list.node, this.panel.node);
    document.getElementById("main").append(this.board, this.submit.node, this.signIn.node);
    this.live = new LiveConnection({
      ticket: () => this.#api.ticket(),
      address: (ticket) => this.#address(ticket),
      busy: () =>
        this.#store.list().some((task) => task.status === "running" || task.status === "cancelling"),
      onFrame: (frame) => this.#frame(frame),
      onState: (state) => this.#connection(state),
      onDenied: () => this.#askToken("This token is not accepted."),
    });
    this.top = topBar({ onConnection: () => this.#reconnect(), onSignOut: () => this.#signOut() });
  }

  start() {
    showTheme();
    addEventListener("hashchange", () => this.#route());
    addEventListener("keydown", (event) => this.#shortcut(event));
    setInterval(() => this.#tick(), TICK_MS);
    if (this.#session.token) this.#begin();
    else this.#askToken("");
  }

  #begin() {
    this.#user = this.#session.user;
    this.signIn.close();
    this.#permit();
    this.#route();
    this.live.start();
  }

  #permit() {
    show(this.list.submit, this.#maySubmit);
    show(this.list.others, this.#session.mayWatchOthers || this.#owner !== null);
    show(this.top.signOut, Boolean(this.#session.token));
    this.top.signOut.title = this.#session.user ? `Sign out ${this.#session.user}` : "Sign out";
  }

  /** What one submits is one's own and would not be seen among the tasks of another. */
  get #maySubmit() {
    return this.#session.mayChange && this.#owner === null;
  }

  /** Shows the tasks of another user, or with no name one's own, by starting over. */
  #watch(owner) {
    const address = new URL(location.pathname, location.href);
    if (owner && owner !== this.#user) address.searchParams.set("owner", owner);
    location.assign(address.href);
  }

  #forbid() {
    this.#session.refuseChanges();
    this.#permit();
    this.#render();
  }

  // Signing in and out.

  #signedIn(token) {
    const before = this.#user;
    this.#session.signIn(token);
    // Nothing of another user may stay on the page.
    if (before !== null && before !== this.#session.user) location.reload();
    else this.#begin();
  }

  #askToken(why) {
    this.#session.signOut();
    this.live.stop();
    this.#permit();
    for (const node of [this.board, this.submit.node]) show(node, false);
    this.signIn.open(why);
  }

  /** Forgets everything of this user by starting over. */
  #signOut() {
    this.#session.signOut();
    location.replace(location.pathname);
  }

  // The live connection.

  #address(ticket) {
    const address = new URL("/api/v1/live/ws", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("ticket", ticket);
    if (this.#owner) address.searchParams.set("owner", this.#owner);
    if (this.#store.position) address.searchParams.set("position", this.#store.position);
    return address.href;
  }

  #reconnect() {
    this.live.hurry();
    this.live.start();
  }

  #connection(state) {
    const [before, after] = [this.#phase, state.phase];
    this.#phase = after;
    showConnection(this.top, state, Date.now());
    if (after === "waiting" && state.failures === SAY_LOST_FROM) this.#sayLost(true);
    if (before !== "open" && after === "open") this.#opened();
    if (state.phase === "refused")
      toast(`The live connection has ended: ${state.reason}. Numbers may be old.`, "bad");
  }

  /** Progress flows again; what was read in pages may have changed meanwhile. */
  #opened() {
    this.panel.items.again();
    this.#sayLost(false);
  }

  #sayLost(lost) {
    if (this.#lost !== lost) announce(lost ? "Connection lost. Reconnecting." : "Connected again.");
    this.#lost = lost;
  }

  #frame(frame) {
    const before = frame.task_id ? this.#store.get(frame.task_id) : null;
    const known = this.#store.size;
    const { changed, gaps, replaced } = this.#store.apply(frame);
    if (changed.length === 0 && !replaced) return;
    const now = performance.now();
    for (const id of changed)
      this.#samples.set(id, pace.sample(this.#samples.get(id) ?? [], now, this.#store.get(id).current));
    if (replaced) this.#replaced(known);
    else this.#event(frame, before, gaps.length > 0);
    this.#render();
  }

  #event(event, before, gap) {
    const task = this.#store.get(event.task_id);
    if (event.task_id === this.panel.id) this.panel.onEvent(event, gap);
    if (event.parent_id && event.parent_id === this.panel.id) this.panel.onRetryEvent(event);
    if (!before) this.#learning = this.#learning.then(() => this.#learn(event.task_id));
    if (isTerminal(event.status)) this.#announceEnd(task);
    else if (event.task_id === this.panel.id) this.#announceProgress(task);
  }

  /** A snapshot took the place of everything: read again what it does not hold. */
  #replaced(known) {
    for (const id of this.#samples.keys()) if (!this.#store.get(id)) this.#samples.delete(id);
    this.#asked.clear();
    this.panel.refresh();
    const ended = this.#store.list().filter((task) => isTerminal(task.status)).length;
    show(this.list.more, ended >= OLDER_FROM);
    const missing = known - this.#store.size;
    if (missing > 0) this.#older(Math.min(OLDER_MAX, missing));
  }

  /** Reads the words of a task of which only events were seen. Once per task, one after the other. */
  async #learn(id) {
    if (this.#asked.has(id)) return;
    this.#asked.add(id);
    const seen = this.#store.seen();
    try {
      this.#store.merge(await this.#api.task(id), seen, true);
      this.#render();
    } catch {
      // The events themselves are enough to show the task.
    }
  }

  #announceProgress(task) {
    const step = Math.floor((task.current * 100) / Math.max(1, task.total) / SAY_STEP);
    if (this.#said.id === task.task_id && this.#said.step === step) return;
    const first = this.#said.id !== task.task_id;
    this.#said = { id: task.task_id, step };
    if (!first) announce(`${number(task.current)} of ${plural(task.total, "node")} done`);
  }

  #announceEnd(task) {
    const failed = task.failed > 0 ? `, ${plural(task.failed, "node")} failed` : "";
    announce(`${actionWord(task.action)} on ${task.cluster}: ${statusWord(task.status)}${failed}`);
  }

  async #older(limit) {
    this.list.older.disabled = true;
    const seen = this.#store.seen();
    try {
      const { tasks, next } = await this.#api.tasks({
        owner: this.#owner,
        before: this.#store.floor,
        limit,
      });
      this.#store.older(tasks, next, seen);
      show(this.list.more, Boolean(next));
    } catch (problem) {
      toast(problem.message, "bad");
    }
    this.list.older.disabled = false;
    this.#render();
  }

  // What is shown.

  #route() {
    if (!this.#session.token) return;
    const [, place = "", id = null] = location.hash.slice(1).split("/");
    const submitting = place === "new" && this.#maySubmit;
    const chosen = place === "tasks" ? id : null;
    if (!this.board.hidden && this.panel.id === null) this.#listScroll = scrollY;
    show(this.board, !submitting);
    this.board.classList.toggle("split", chosen !== null);
    this.list.choose(chosen);
    if (chosen !== this.panel.id) this.#choose(chosen);
    scrollTo(0, chosen === null && !submitting ? this.#listScroll : 0);
    if (submitting) this.submit.open();
    else this.submit.close();
  }

  /** Opens a task or, for `null`, closes the open one. */
  #choose(id) {
    const before = this.panel.id;
    this.panel.show(id);
    if (id === null) this.list.focus(before);
    else this.list.reveal(id);
  }

  #submitted(task) {
    this.#store.merge(task, new Map(), true);
    this.#render();
    location.hash = `#/tasks/${task.task_id}`;
  }

  #repeat(task, nodes) {
    this.submit.repeat(task, nodes);
    location.hash = "#/new";
  }

  #shortcut(event) {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.ctrlKey || event.metaKey || event.altKey || typing || !this.#session.token) return;
    if (event.key === "Escape" && this.panel.id) location.hash = "#/";
    if (event.key === "n" && this.#maySubmit) location.hash = "#/new";
    if (event.key === "/" && !this.board.hidden) {
      event.preventDefault();
      this.list.search.focus();
    }
  }

  #rateOf(id) {
    return pace.rate(this.#samples.get(id) ?? [], performance.now());
  }

  #paint() {
    this.list.render();
    this.panel.render();
    this.#summarise();
  }

  #tick() {
    this.list.tick();
    this.panel.tick();
    showConnection(this.top, this.live.state, Date.now());
  }

  #summarise() {
    const active = this.#store.list().filter((task) => !isTerminal(task.status));
    const left = active.reduce((sum, task) => sum + pending(task), 0);
    const words =
      active.length === 0
        ? "Nothing is running"
        : `${plural(active.length, "active task")} · ${plural(left, "node")} to go`;
    this.top.say(words);
    const title = active.length === 0 ? "Milepost" : `(${number(active.length)}) Milepost`;
    if (document.title !== title) document.title = title;
  }
}

new Dashboard().start();
