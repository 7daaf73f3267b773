import assert from "node:assert/strict";
import { test } from "node:test";

import {
  budgetWords,
  failedNow,
  mayRetry,
  mayRollBack,
  mergedWords,
  question,
  rollBackOf,
  stallWords,
} from "../assets/control.js";
import { Store, isStalled, matches } from "../assets/store.js";

const ID = "0190a000-0000-7000-8000-000000000001";
const PARENT = "0190a000-0000-7000-8000-000000000002";
const task = (more = {}) => ({
  task_id: ID,
  attempt: 1,
  status: "running",
  action: "cordon",
  cluster: "prod",
  current: 0,
  total: 10,
  succeeded: 0,
  failed: 0,
  skipped: 0,
  cancelled: 0,
  ...more,
});
const event = (seq, more = {}) => ({ type: "progress", seq, items: [], position: `e.${seq}-0`, ...task(), ...more });

test("a stall begins with an event and ends with the first one that does not say so", () => {
  const store = new Store();
  const since = "2026-11-23T08:00:00Z";
  store.apply(event(1));
  const items = ["a", "b", "c", "d", "e", "f"].map((name) => ({ name, state: "running" }));
  store.apply(event(2, { type: "stalled", stalled_since: since, message: "no item finished", items }));
  assert.ok(isStalled(store.get(ID)));
  assert.equal(store.get(ID).message, null, "the sentence is about the event");
  store.merge(task(), store.seen());
  assert.ok(isStalled(store.get(ID)), "the record does not know of it");
  assert.ok(matches(store.get(ID), "all", "stalled"));
  const said = stallWords(store.get(ID), Date.parse(since) + 45_000);
  assert.equal(said, "No node has finished for 45 s. In work: a, b, c, d, e and 1 more.");
  assert.match(stallWords({ stalled_since: since }, 0), /^No node has finished for 0 s\.$/);
  store.apply(event(3, { current: 1, succeeded: 1 }));
  assert.ok(!isStalled(store.get(ID)));
});

test("a snapshot says whether a task is stalled, and an ended one never is", () => {
  const store = new Store();
  const view = (seq, more) => ({ type: "snapshot", position: "e.1-0", tasks: [{ ...task(more), seq }] });
  store.apply(view(2, { stalled_since: "2026-11-23T08:00:00Z" }));
  assert.ok(isStalled(store.get(ID)));
  store.apply(view(3));
  assert.ok(!isStalled(store.get(ID)));
  assert.ok(!isStalled(task({ status: "paused", stalled_since: "2026-11-23T08:00:00Z" })));
});

test("what an event does not repeat is kept: parent, nodes at once, and why a task is paused", () => {
  const store = new Store();
  const why = "the failure budget is used up: 3 failed, and 2 may";
  store.apply(event(1, { parent_id: PARENT }));
  store.apply(event(2, { type: "concurrency_changed", concurrency: 7 }));
  store.apply(event(3, { type: "paused", status: "paused", message: why }));
  store.apply(event(4, { status: "paused" }));
  const { parent_id, concurrency, message } = store.get(ID);
  assert.deepEqual([parent_id, concurrency, message], [PARENT, 7, why]);
  store.apply(event(5));
  assert.equal(store.get(ID).message, null, "it goes on: the reason is over");
  store.apply(event(6, { type: "concurrency_changed" }));
  assert.equal(store.get(ID).concurrency, null);
  assert.ok(matches(store.get(ID), "all", "retry"));
});

test("the record's words win: a sentence and a number that are gone there are gone", () => {
  const store = new Store();
  store.apply(event(1, { type: "paused", status: "paused", message: "why" }));
  store.merge({ ...task({ status: "running" }), concurrency: 5 }, store.seen());
  assert.deepEqual([store.get(ID).message, store.get(ID).concurrency], [null, 5]);
  store.merge(task(), store.seen());
  assert.equal(store.get(ID).concurrency, null);
});

test("a retry is offered to who submitted, when all is over and something failed by the newest results", () => {
  const over = { status: "completed_with_errors", failed: 2, owner: "ada" };
  assert.ok(mayRetry(task(over), "ada"));
  assert.ok(!mayRetry(task(over), "bob"));
  assert.ok(!mayRetry(task({ ...over, status: "running" }), "ada"));
  assert.ok(!mayRetry(task({ ...over, retries: [{ status: "running" }] }), "ada"));
  const retried = { ...over, retries: [{ status: "completed" }], merged: { failed: 0 } };
  assert.ok(!mayRetry(task(retried), "ada"));
  assert.equal(failedNow(task({ ...over, merged: { failed: 1 } })), 1);
  assert.match(question("retry", task(over)).body, /the 2 nodes that failed/);
});

test("budgets and merged results are told in a line", () => {
  assert.equal(budgetWords(null), null);
  assert.equal(budgetWords({ failed: 1, then: "pause" }), "1 node may fail, then paused");
  assert.equal(
    budgetWords({ failed: 0, percent: 5, consecutive: 3, then: "abort" }),
    "no node or 5 % or 3 in a row may fail, then called off",
  );
  const counts = { total: 12, succeeded: 9, failed: 2, skipped: 0, cancelled: 1 };
  assert.equal(mergedWords(counts), "9 of 12 nodes succeeded, 2 failed, 1 cancelled");
});

test("what a task cordoned can be rolled back once it is over, and nothing else", () => {
  const over = { status: "cancelled", succeeded: 2, reason: "kernel" };
  assert.ok(mayRollBack(task(over)) && mayRollBack(task({ ...over, action: "drain" })));
  assert.ok(!mayRollBack(task({ ...over, status: "running" })));
  assert.ok(!mayRollBack(task({ ...over, action: "label" })));
  assert.ok(!mayRollBack(task({ ...over, succeeded: 0 })));
  assert.ok(!mayRollBack(task({ ...over, succeeded: 0, failed: 1 })));
  assert.ok(mayRollBack(task({ ...over, action: "drain", succeeded: 0, failed: 1 })));
  const form = rollBackOf(task(over));
  assert.deepEqual([form.action, form.parameters, form.reason], ["uncordon", { of_task: ID }, "Roll back: kernel"]);
  assert.equal(rollBackOf(task({ ...over, reason: "r".repeat(500) })).reason.length, 500);
});
