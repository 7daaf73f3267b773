// The tasks as this browser knows them: a fold of frames, the same one the server makes. No IO and no clock.
//
// A task is identified by its id and a fact about it by (task, attempt, seq). What is late or repeated changes nothing,
// terminal states are never left, and counts never fall inside an attempt. Items are not here: see items.js.

const TERMINAL = new Set(["completed", "completed_with_errors", "failed", "cancelled"]);
const FIELDS = [
  "task_id",
  "attempt",
  "seq",
  "status",
  "action",
  "cluster",
  "current",
  "total",
  "succeeded",
  "failed",
  "skipped",
  "cancelled",
  "current_node",
  "error",
  "message",
  "stalled_since",
  "wave",
  "waits_for",
  "updated_at",
];
const COUNTS = ["current", "succeeded", "failed", "skipped", "cancelled"];
/** Tasks kept; past it the oldest finished ones are forgotten. */
export const TASKS_MAX = 2_000;

export const isTerminal = (status) => TERMINAL.has(status);

export const isFailed = (task) =>
  task.failed > 0 || task.status === "failed" || task.status === "completed_with_errors";

/** Whether a worker holds the task and no item of it has finished for long. */
export const isStalled = (task) =>
  Boolean(task.stalled_since) && (task.status === "running" || task.status === "cancelling");

export const pending = (task) => Math.max(0, task.total - task.current);

/** When a task was submitted, in milliseconds: told by the server, or read from its id (a UUID of version 7). */
export function submittedAt(task) {
  const told = task.created_at ? Date.parse(task.created_at) : Number.NaN;
  return Number.isNaN(told) ? parseInt(task.task_id.replaceAll("-", "").slice(0, 12), 16) : told;
}

const newer = (a, b) => a.attempt > b.attempt || (a.attempt === b.attempt && a.seq > b.seq);

/** Whether `facts` of the same attempt know of fewer finished items, so that they are older. */
const isBehind = (task, facts) => facts.attempt === task.attempt && facts.current < task.current;

/** `facts` with the counts of `task` where those are further, in the same attempt. */
function forward(task, facts) {
  if (!isBehind(task, facts)) return facts;
  return { ...facts, ...Object.fromEntries(COUNTS.map((name) => [name, task[name]])) };
}

/** Names of the items that an event tells of as running. */
const runningOf = (event) =>
  (event.items ?? []).filter((item) => item.state === "running").map((item) => item.name);

function ofEvent(event) {
  const task = {};
  for (const field of FIELDS) task[field] = event[field] ?? null;
  task.updated_at = event.timestamp ?? null;
  task.parent_id = event.parent_id ?? null;
  task.concurrency = event.concurrency ?? null;
  // The sentence of another event is about the event, not about why the task has its status.
  if (event.type !== "paused" && event.type !== "cancelling") task.message = null;
  task.in_work = event.type === "stalled" ? runningOf(event) : null;
  return task;
}

/** What an event does not repeat: words that hold until another event changes them. */
function kept(task, event, facts) {
  return {
    current_node: facts.current_node ?? task.current_node,
    wave: facts.wave ?? task.wave,
    message: facts.message ?? (facts.status === task.status ? task.message : null),
    in_work: facts.in_work ?? (facts.stalled_since ? task.in_work : null),
    parent_id: facts.parent_id ?? task.parent_id,
    concurrency: event.type === "concurrency_changed" ? facts.concurrency : task.concurrency,
  };
}

/** Whether items ended that neither this event nor one before it named: events were missed, merged or shortened. */
function isGap(task, event) {
  const expected = event.attempt === task.attempt ? task.seq + 1 : 1;
  const ended = (event.items ?? []).filter(
    (item) => item.state !== "running" && item.state !== "pending",
  ).length;
  return event.seq !== expected || (event.merged ?? 1) > 1 || event.current - task.current > ended;
}

/**
 * Folds an event into what is known of its task (`null` when nothing is).
 * `gap` says that its items may have changed without this browser having seen it. A view of the record carries no event
 * number, so an event that comes after it may be older all the same: one that knows of fewer finished items is.
 */
export function foldEvent(task, event) {
  if (!task) return { task: ofEvent(event), changed: true, gap: event.attempt > 0 || event.seq > 1 };
  if (isTerminal(task.status) || !newer(event, task)) return { task, changed: false, gap: false };
  if (isBehind(task, event)) return { task, changed: false, gap: false };
  const facts = ofEvent(event);
  return { task: { ...task, ...facts, ...kept(task, event, facts) }, changed: true, gap: isGap(task, event) };
}

/**
 * Merges a view that was read from the server into what is known; `before` is what was known when it was asked for. Its
 * words are always taken. A view of the same attempt without an event number is from the record: its status is at least
 * as new as what was known before, its counts may be older. Events that came since then may be newer than the view, and
 * those that will come tell the rest.
 */
export function mergeView(task, read, before = task) {
  const view = { seq: 0, current_node: null, message: null, concurrency: null, parent_id: null, ...read };
  // The record does not know of stalls; a view with a number was seen live and does.
  if (view.seq > 0) view.stalled_since ??= null;
  // Nor of what a worker waits for; it does of what nobody claims yet.
  if (view.seq > 0 || view.status !== "running") view.waits_for ??= null;
  if (!task) return view;
  const words = { ...view, ...Object.fromEntries(FIELDS.map((field) => [field, task[field]])) };
  if (isTerminal(task.status)) return { ...task, ...words };
  if (newer(view, task) || isTerminal(view.status)) return { ...task, ...forward(task, view) };
  if (!before || newer(task, before)) return { ...task, ...words, concurrency: task.concurrency };
  if (view.attempt < task.attempt || view.seq > 0) return { ...task, ...words };
  return {
    ...task,
    ...forward(task, view),
    seq: task.seq,
    current_node: view.current_node ?? task.current_node,
  };
}

const NOTHING = Object.freeze({ changed: [], gaps: [], replaced: false });

/** All tasks of the user, and the position up to which they are folded. */
export class Store {
  #tasks = new Map();
  #listed = new Set();
  /** Ids of listed tasks, newest first; made when it is asked for. */
  #order = null;
  /** Tasks of a snapshot of which more parts are to come. */
  #parts = [];
  /** Where the live connection continues. */
  position = null;
  /** The oldest task of the list's unbroken part: older ones are asked for before this one. */
  floor = null;

  get(id) {
    return this.#tasks.get(id) ?? null;
  }

  /** How many tasks are listed. */
  get size() {
    return this.#listed.size;
  }

  /** Listed tasks, newest first. */
  list() {
    this.#order ??= [...this.#listed].sort().reverse();
    return this.#order.map((id) => this.#tasks.get(id));
  }

  /** Takes a frame of the live connection. Gives back which tasks changed, and of which events are missing. */
  apply(frame) {
    if (frame.type === "hello") return this.#begin(frame);
    if (frame.type === "snapshot") return this.#part(frame);
    if (!frame.task_id) return NOTHING;
    this.position = frame.position;
    const { task, changed, gap } = foldEvent(this.get(frame.task_id), frame);
    if (changed) this.#put(task, true);
    return { changed: changed ? [task.task_id] : [], gaps: gap ? [task.task_id] : [], replaced: false };
  }

  /** What is known now: to be kept while something is read from the server, and given back with what was read. */
  seen() {
    return new Map(this.#tasks);
  }

  /** Takes a page of older tasks. `next` is where the page after it continues, or nothing. */
  older(views, next, seen) {
    for (const view of views) this.merge(view, seen, true);
    this.floor = next ?? this.floor;
  }

  /** Takes one view that was read on its own; it is listed only if it was before, or when asked for. */
  merge(view, seen, listed = false) {
    const id = view.task_id;
    this.#put(mergeView(this.get(id), view, seen.get(id) ?? null), listed);
  }

  /** Only a connection that continues is a place to continue from; otherwise the snapshot will be. */
  #begin(hello) {
    this.#parts = [];
    if (hello.recovered) this.position = hello.position;
    return NOTHING;
  }

  #part(frame) {
    this.#parts.push(...frame.tasks);
    if (frame.more) return NOTHING;
    const tasks = this.#parts;
    this.#parts = [];
    this.position = frame.position;
    return this.#replace(tasks);
  }

  #replace(tasks) {
    const known = this.#tasks;
    this.#tasks = new Map();
    this.#listed = new Set();
    this.#order = null;
    for (const view of tasks) this.#put(mergeView(known.get(view.task_id) ?? null, view), true);
    const ended = tasks.filter((view) => isTerminal(view.status)).map((view) => view.task_id);
    this.floor = ended.sort()[0] ?? null;
    const ids = [...this.#tasks.keys()];
    return { changed: ids, gaps: [], replaced: true };
  }

  #put(task, listed) {
    this.#tasks.set(task.task_id, task);
    if (listed && !this.#listed.has(task.task_id)) {
      this.#listed.add(task.task_id);
      this.#order = null;
    }
    if (this.#tasks.size > TASKS_MAX) this.#forgetOldest();
  }

  #forgetOldest() {
    const ended = [...this.#tasks.values()]
      .filter((task) => isTerminal(task.status))
      .map((task) => task.task_id);
    for (const id of ended.sort().slice(0, this.#tasks.size - TASKS_MAX)) {
      this.#tasks.delete(id);
      this.#listed.delete(id);
    }
    this.#order = null;
  }
}

/** Whether a task passes the list's filter and search text. */
export function matches(task, filter, words) {
  if (filter === "active" && isTerminal(task.status)) return false;
  if (filter === "failed" && !isFailed(task)) return false;
  if (words === "") return true;
  const marks = `${isStalled(task) ? "stalled" : ""} ${task.parent_id ? "retry" : ""}`;
  const where =
    `${task.action} ${task.cluster} ${task.status} ${marks} ${task.reason ?? ""} ${task.task_id}`.toLowerCase();
  return words
    .toLowerCase()
    .split(/\s+/)
    .every((word) => where.includes(word));
}
