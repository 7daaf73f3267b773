import assert from "node:assert/strict";
import { test } from "node:test";

import { Check } from "../lib/check.js";
import { itemEnded, readEvent, taskEnded } from "../lib/event.js";
import { read as readMilepost, token } from "../sides/milepost.js";
import { read as readSocketIo } from "../sides/socketio.js";

const item = (seq, index = seq - 1) => readEvent(itemEnded("t", index, `item-${index}`, seq, 2));
const end = readEvent(taskEnded("t", 2));

function judge(...frames) {
  const check = new Check();
  frames.forEach((frame) => check.frame(frame));
  return check.verdict("t", 2);
}

test("a perfect run is exact", () => {
  assert.deepEqual(judge(item(1), item(2), end), {
    faults: { lost: 0, doubled: 0, reordered: 0, backward: 0, foreign: 0 },
    unlisted: 0,
    exact: true,
  });
});

test("every kind of fault is seen", () => {
  assert.equal(judge(item(1), item(2)).faults.lost, 1, "the end counts too");
  assert.equal(judge(item(2), end).faults.lost, 1, "the first event counts too");
  assert.equal(judge(item(1), end).faults.lost, 1);
  assert.equal(judge(item(1), item(1), item(2), end).faults.doubled, 2, "the event and the item");
  assert.equal(judge(item(2), item(1), end).faults.reordered, 1);
  assert.equal(judge(item(1), item(2), { ...end, current: 1 }).faults.backward, 1);
  assert.equal(judge(item(1), { ...item(2), task: "x" }, end).faults.foreign, 1);
  assert.ok([judge(), judge(item(1), item(2), item(2), end)].every(({ exact }) => !exact));
});

test("a frame that stands for several events loses none, and the record has its items", () => {
  const merged = { ...item(2), merged: 2 };
  const verdict = judge(merged, end);
  assert.deepEqual([verdict.exact, verdict.unlisted], [true, 1]);
});

test("numbers begin again with an attempt", () => {
  const queued = { task: "t", attempt: 0, seq: 1, current: 0, items: [], terminal: false };
  assert.ok(judge(queued, item(1), item(2), end).exact);
  assert.equal(judge(item(1), { ...queued, seq: 2 }, item(2), end).faults.reordered, 1);
});

test("frames of all sides are read into the same", () => {
  const event = itemEnded("t", 4, "item-4", 5, 9);
  const expected = {
    task: "t",
    attempt: 1,
    seq: 5,
    merged: 1,
    current: 5,
    items: [{ index: 4, doneUs: event.items[0].done_us }],
    terminal: false,
  };
  assert.deepEqual(readMilepost(JSON.stringify({ position: "p", ...event })), expected);
  assert.deepEqual(readSocketIo(`42${JSON.stringify(["event", event, "7-0"])}`), expected);
  assert.equal(readMilepost('{"type":"hello","recovered":false}'), undefined);
  assert.equal(readMilepost('{"type":"snapshot","tasks":[]}'), undefined);
  const started = { ...event, items: [{ index: 1, state: "running" }] };
  assert.deepEqual(readMilepost(JSON.stringify(started)).items, [], "an item that begins is no result");
});

test("Socket.IO's pings are answered", () => {
  const sent = [];
  assert.equal(readSocketIo("2", { send: (text) => sent.push(text) }), undefined);
  assert.deepEqual(sent, ["3"]);
});

test("a token says who and until when", () => {
  const [, claims] = token("u7", 1_000_000).split(".");
  assert.deepEqual(JSON.parse(Buffer.from(claims, "base64url")), { sub: "u7", role: "operator", exp: 87_400 });
});
