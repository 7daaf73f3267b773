import assert from "node:assert/strict";
import { test } from "node:test";

import { Store, TASKS_MAX, foldEvent, matches, mergeView, submittedAt } from "../assets/store.js";

const ID = "0190a000-0000-7000-8000-000000000001";
const id = (n) => `0190a000-${String(n).padStart(4, "0")}-7000-8000-000000000000`;

function facts(attempt, seq, succeeded, more = {}) {
  return {
    task_id: ID,
    attempt,
    seq,
    status: "running",
    action: "cordon",
    cluster: "prod",
    current: succeeded,
    total: 10,
    succeeded,
    failed: 0,
    skipped: 0,
    cancelled: 0,
    ...more,
  };
}

const event = (attempt, seq, succeeded, more = {}) => ({
  type: "progress",
  items: [{ state: "succeeded" }],
  ...facts(attempt, seq, succeeded, more),
  position: `e.${seq}-0`,
});
const snapshot = (...tasks) => ({ type: "snapshot", position: "e.0-0", tasks });

test("repeats and late events change nothing", () => {
  const store = new Store();
  for (const seq of [1, 2, 3]) assert.deepEqual(store.apply(event(1, seq, seq)).changed, [ID]);
  for (const seq of [3, 2, 1]) assert.deepEqual(store.apply(event(1, seq, seq)).changed, []);
  assert.equal(store.get(ID).current, 3);
});

test("a bar never falls inside an attempt, whatever the order of events and views", () => {
  let seed = 7;
  const random = (n) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
  for (let round = 0; round < 200; round += 1) {
    const store = new Store();
    let before = { attempt: 0, current: 0 };
    for (let step = 0; step < 60; step += 1) {
      const seq = 1 + random(10);
      const attempt = 1 + random(2);
      const kind = random(3);
      if (kind === 0) store.apply(event(attempt, seq, seq));
      else if (kind === 1) store.apply(snapshot(facts(attempt, random(2) * seq, seq)));
      else store.merge(facts(attempt, 0, seq), store.seen());
      const { attempt: now, current } = store.get(ID);
      assert.ok(now >= before.attempt);
      assert.ok(now > before.attempt || current >= before.current, `${before.current} -> ${current}`);
      before = { attempt: now, current };
    }
  }
});

test("a terminal state is never left", () => {
  const store = new Store();
  store.apply(event(1, 5, 10, { status: "completed", type: "complete" }));
  store.apply(event(2, 1, 0));
  store.merge(facts(1, 0, 4, { reason: "why" }), store.seen());
  assert.equal(store.get(ID).status, "completed");
  assert.equal(store.get(ID).current, 10);
  assert.equal(store.get(ID).reason, "why");
});

test("gaps are seen: a hole, a merged frame, a beginning that was missed", () => {
  const known = facts(1, 4, 4);
  assert.equal(foldEvent(known, event(1, 5, 5)).gap, false);
  assert.equal(foldEvent(known, event(1, 6, 5)).gap, true);
  assert.equal(foldEvent(known, event(1, 5, 5, { merged: 3 })).gap, true);
  assert.equal(foldEvent(known, event(1, 5, 7)).gap, true);
  assert.equal(foldEvent(known, event(1, 5, 5, { items: undefined })).gap, true);
  assert.equal(foldEvent(known, event(2, 1, 4)).gap, false);
  assert.equal(foldEvent(known, event(2, 2, 4)).gap, true);
  assert.equal(foldEvent(null, event(0, 1, 0)).gap, false);
  assert.equal(foldEvent(null, event(1, 9, 3)).gap, true);
});

test("a snapshot takes the place of everything, but not of newer counts", () => {
  const store = new Store();
  store.apply({ ...event(1, 1, 1), task_id: id(1) });
  store.apply(event(1, 8, 8));
  const { replaced } = store.apply(snapshot(facts(1, 0, 5, { status: "paused" })));
  assert.ok(replaced);
  assert.equal(store.get(id(1)), null);
  assert.deepEqual([store.get(ID).current, store.get(ID).status, store.get(ID).seq], [8, "paused", 8]);
});

test("a snapshot in parts counts once its last part is there", () => {
  const store = new Store();
  store.apply({ type: "hello", recovered: false, position: "e.5-0" });
  assert.equal(store.apply({ ...snapshot(facts(1, 1, 1)), more: true }).replaced, false);
  assert.deepEqual([store.position, store.list().length], [null, 0]);
  store.apply(snapshot(facts(1, 1, 1, { task_id: id(1) })));
  assert.deepEqual([store.position, store.list().length], ["e.0-0", 2]);
});

test("a hello that continues is a place to continue from", () => {
  const store = new Store();
  store.apply({ type: "hello", recovered: true, position: "e.5-0" });
  assert.equal(store.position, "e.5-0");
});

test("an answer that an event overtook says nothing of the status", () => {
  const store = new Store();
  store.apply(event(1, 3, 2));
  const seen = store.seen();
  store.apply(event(1, 4, 3, { status: "paused", type: "paused", message: "three failed" }));
  store.merge(facts(1, 0, 3, { status: "running", reason: "why" }), seen);
  const { status, message, reason, current } = store.get(ID);
  assert.deepEqual([status, message, reason, current], ["paused", "three failed", "why", 3]);
  store.merge(facts(1, 0, 3, { status: "queued" }), store.seen());
  assert.equal(store.get(ID).status, "queued");
});

test("an answer that came before the first event is overtaken too, but not an end", () => {
  const store = new Store();
  const seen = store.seen();
  store.apply(event(1, 4, 3, { status: "paused", type: "paused" }));
  store.merge(facts(1, 0, 3), seen);
  assert.equal(store.get(ID).status, "paused");
  store.merge(facts(1, 0, 10, { status: "completed" }), seen);
  assert.equal(store.get(ID).status, "completed");
});

test("an event that knows less than the record came late and changes nothing", () => {
  const store = new Store();
  store.apply(snapshot(facts(1, 0, 5, { status: "paused" })));
  assert.deepEqual(store.apply(event(1, 1, 0)).changed, []);
  assert.deepEqual([store.get(ID).status, store.get(ID).current], ["paused", 5]);
  assert.deepEqual(store.apply(event(1, 6, 5)).gaps, [ID]);
});

test("the end of a task in the record wins over a view that was live", () => {
  const ended = mergeView(facts(1, 8, 8), facts(1, 0, 9, { status: "cancelled", cancelled: 1, current: 10 }));
  assert.deepEqual([ended.status, ended.current], ["cancelled", 10]);
});

test("a view of a newer attempt that carries no event number starts the numbers over", () => {
  const store = new Store();
  store.apply(event(1, 40, 4));
  const { seq, ...read } = facts(2, 0, 4);
  store.merge(read, store.seen());
  assert.deepEqual([seq, store.get(ID).seq], [0, 0]);
  assert.deepEqual(store.apply(event(2, 1, 5)).changed, [ID]);
});

test("every frame moves the position on, also one that changes nothing", () => {
  const store = new Store();
  store.apply(snapshot());
  assert.equal(store.position, "e.0-0");
  store.apply(event(1, 2, 2));
  store.apply({ ...event(1, 1, 1), position: "e.9-0" });
  assert.equal(store.position, "e.9-0");
});

test("a task that was only looked at is not listed", () => {
  const store = new Store();
  store.merge(facts(1, 0, 1), store.seen());
  assert.equal(store.list().length, 0);
  store.apply(event(1, 5, 5));
  assert.equal(store.list().length, 1);
});

test("older pages continue where the unbroken part ends", () => {
  const store = new Store();
  const ended = (n) => facts(1, 0, 10, { task_id: id(n), status: "completed" });
  store.apply(snapshot(facts(1, 1, 1, { task_id: id(2) }), ended(7), ended(8)));
  assert.equal(store.floor, id(7));
  store.older([ended(6), ended(5)], id(5), store.seen());
  assert.equal(store.floor, id(5));
  assert.deepEqual(
    store.list().map((task) => task.task_id),
    [8, 7, 6, 5, 2].map(id),
  );
});

test("memory is bounded: the oldest finished tasks are forgotten, active ones are not", () => {
  const store = new Store();
  store.apply(snapshot(facts(1, 1, 1, { task_id: id(0) })));
  for (let n = 1; n <= TASKS_MAX + 5; n += 1)
    store.apply({ ...event(1, 1, 10), task_id: id(n), status: "completed" });
  assert.equal(store.list().length, TASKS_MAX);
  assert.ok(store.get(id(0)));
  assert.equal(store.get(id(1)), null);
});

test("the time of submit comes from the record, else from the id", () => {
  assert.equal(submittedAt({ task_id: ID, created_at: "2026-11-23T08:00:00Z" }), Date.UTC(2026, 10, 23, 8));
  assert.equal(submittedAt({ task_id: ID }), 0x0190a0000000);
});

test("filter and search", () => {
  const task = facts(1, 1, 1, { reason: "Kernel update" });
  assert.ok(matches(task, "active", "kernel cordon"));
  assert.ok(!matches(task, "failed", ""));
  assert.ok(!matches({ ...task, status: "completed" }, "active", ""));
  assert.ok(!matches(task, "all", "kernel staging"));
});
