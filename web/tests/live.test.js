import assert from "node:assert/strict";
import { test } from "node:test";

import { STEADY_MS, WAIT_BASE_MS, WAIT_MAX_MS, backOff, initial, isFinal, next } from "../assets/live.js";

/** Runs inputs through the machine; gives back the last state and all effects. */
function run(...inputs) {
  let state = initial();
  const effects = [];
  for (const input of inputs) {
    const [after, todo] = next(state, { now: 0, random: 0.5, ...input });
    state = after;
    effects.push(...todo);
  }
  return { state, effects, last: effects.at(-1) };
}

const OPEN = [{ type: "start" }, { type: "ticket", ticket: "t" }, { type: "hello", hello: { replica: "g" } }];

test("a ticket is asked for, then used, then the hello opens", () => {
  const { state, effects } = run(...OPEN);
  assert.deepEqual(effects, [{ do: "ticket" }, { do: "connect", ticket: "t" }]);
  assert.equal(state.phase, "open");
});

test("the back-off is full jitter under a doubling ceiling", () => {
  assert.equal(backOff(0, 0), 0);
  assert.equal(backOff(0, 0.999), Math.floor(WAIT_BASE_MS * 0.999));
  assert.equal(backOff(3, 0.5), WAIT_BASE_MS * 4);
  assert.equal(backOff(40, 0.5), WAIT_MAX_MS / 2);
});

test("every kind of break comes back, with a fresh ticket", () => {
  for (const code of [1000, 1001, 1006, 1011, 1012, 4000, 4008, 4499]) {
    const { state, last } = run(...OPEN, { type: "closed", code });
    assert.deepEqual([state.phase, last.do], ["waiting", "wait"], `${code}`);
    assert.deepEqual(next(state, { type: "elapsed", now: 0, random: 0 })[1], [{ do: "ticket" }]);
  }
});

test("a final code does not come back by itself, only when the user wants", () => {
  for (const code of [4500, 4999]) {
    const { state, last } = run(...OPEN, { type: "closed", code, reason: "no" });
    assert.equal(state.phase, "refused");
    assert.equal(state.reason, "no");
    assert.notEqual(last.do, "wait");
    assert.equal(next(state, { type: "elapsed" })[0], state);
    assert.equal(next(state, { type: "hurry" })[0], state);
    assert.deepEqual(next(state, { type: "start" })[1], [{ do: "ticket" }]);
  }
  assert.ok(!isFinal(4499) && isFinal(4500) && isFinal(4999) && !isFinal(5000));
});

test("only a connection that held starts the back-off over", () => {
  const breaks = { type: "closed", code: 1006 };
  const again = [{ type: "elapsed" }, { type: "ticket", ticket: "t" }, { type: "hello", hello: {} }];
  const flapping = run(...OPEN, breaks, ...again, breaks, ...again, breaks).state;
  assert.equal(flapping.failures, 3);
  const held = run(...OPEN, breaks, ...again, { ...breaks, now: STEADY_MS }).state;
  assert.equal(held.failures, 1);
});

test("a server that asks for patience gets it", () => {
  const { state, last } = run(
    { type: "start" },
    { type: "unavailable", retryAfterMs: 7_000, reason: "busy" },
  );
  assert.deepEqual(last, { do: "wait", ms: 7_000 });
  assert.equal(state.until, 7_000);
});

test("a server that stops says when to come back", () => {
  const { last } = run(...OPEN, { type: "closed", code: 1012, reason: "restarting; retry_ms=2500" });
  assert.deepEqual(last, { do: "wait", ms: 2500 });
});

test("a refused token ends in signed-out until the next start", () => {
  const { state } = run({ type: "start" }, { type: "denied" });
  assert.equal(state.phase, "signed-out");
  assert.deepEqual(next(state, { type: "hurry" })[1], []);
  assert.deepEqual(next(state, { type: "start" })[1], [{ do: "ticket" }]);
});

test("a silent connection is dropped without waiting for its close", () => {
  const { effects } = run(...OPEN, { type: "silent" });
  assert.deepEqual(
    effects.slice(-2).map((effect) => effect.do),
    ["close", "wait"],
  );
});

test("inputs that come late change nothing", () => {
  const { state } = run(...OPEN, { type: "closed", code: 1006 });
  for (const type of ["ticket", "hello", "closed", "denied", "unavailable", "silent", "start"]) {
    const [after, effects] = next(state, { type, now: 0, random: 0.5, code: 1006 });
    assert.deepEqual([after, effects], [state, []], type);
  }
});
