import assert from "node:assert/strict";
import { test } from "node:test";

import { EventReader, NodeBook, waitMs } from "../assets/follow.js";
import { indexed, kinds, search, staleWords } from "../assets/nodes.js";
import { outcomeWords, podWords, resourceWords } from "../assets/views/node.js";

const node = (name, more = {}) => ({
  name,
  ready: true,
  unschedulable: false,
  roles: ["worker"],
  labels: { "topology.kubernetes.io/zone": "a" },
  taints: [],
  ...more,
});

test("events are read however they are cut", () => {
  const text = 'retry: 2000\n\n: still here\n\nevent: added\ndata: {"type":"added"}\n\nevent: reset\ndata: {"type":"reset"}\n\n';
  for (let size = 1; size < text.length; size += 1) {
    const reader = new EventReader();
    const frames = [];
    for (let at = 0; at < text.length; at += size) frames.push(...reader.feed(text.slice(at, at + size)));
    assert.deepEqual(frames, [{ type: "added" }, { type: "reset" }]);
  }
});

test("a book holds what the stream has told, and a snapshot counts once it is whole", () => {
  const book = new NodeBook();
  assert.equal(book.apply({ type: "snapshot", nodes: [node("b")], more: true }), false);
  assert.deepEqual(book.list(), []);
  assert.equal(book.apply({ type: "snapshot", nodes: [node("a")] }), true);
  const names = () => book.list().map(({ name }) => name);
  assert.deepEqual(names(), ["a", "b"]);
  assert.equal(book.apply({ type: "updated", node: node("b", { unschedulable: true }), changed: [] }), true);
  assert.equal(book.apply({ type: "added", node: node("aa") }), true);
  assert.equal(book.apply({ type: "deleted", name: "a" }), true);
  assert.equal(book.apply({ type: "deleted", name: "a" }), false);
  assert.equal(book.apply({ type: "of a newer gateway" }), false);
  assert.deepEqual(names(), ["aa", "b"]);
  assert.equal(book.list()[1].unschedulable, true);
  const [aa] = book.list();
  book.apply({ type: "reset" });
  book.apply({ type: "snapshot", nodes: [node("aa"), node("c")] });
  assert.equal(book.list()[0], aa, "a node that is as it was is not drawn anew");
  assert.deepEqual(names(), ["aa", "c"]);
  assert.equal(book.apply({ type: "freshness", stale: true, silent_ms: 1 }), true);
  assert.equal(book.freshness.stale, true);
});

test("nodes are chosen by role and zone beside the words", () => {
  const nodes = indexed([
    node("one"),
    node("two", { roles: ["control-plane", "worker"], labels: { "topology.kubernetes.io/zone": "b" } }),
    node("three", { roles: [], labels: {} }),
  ]);
  assert.deepEqual(kinds(nodes, "role"), [
    ["control-plane", 1],
    ["no role", 1],
    ["worker", 2],
  ]);
  assert.deepEqual(kinds(nodes, "zone"), [
    ["a", 1],
    ["b", 1],
  ]);
  const found = (words, chosen) => search(nodes, "all", words, new Set(), chosen).map(({ name }) => name);
  assert.deepEqual(found("", { role: "worker", zone: "" }), ["one", "two"]);
  assert.deepEqual(found("", { role: "worker", zone: "b" }), ["two"]);
  assert.deepEqual(found("", { role: "no role" }), ["three"]);
  assert.deepEqual(found("two", { role: "worker" }), ["two"]);
});

test("old nodes say so, with since when and why", () => {
  assert.equal(staleWords({ stale: false, silent_ms: 9_000_000 }), "");
  assert.equal(staleWords(undefined), "");
  const words = staleWords({ stale: true, silent_ms: 42_400, cause: "connection refused" });
  assert.equal(words, "The cluster was last heard of 42 seconds ago, so this list may be old: connection refused");
  assert.match(staleWords({ stale: true, silent_ms: 600_000 }), /10 minutes ago, so this list may be old\.$/);
});

test("pauses grow to a bound", () => {
  assert.equal(waitMs(0, 0), 500);
  assert.equal(waitMs(3, 1), 4_000);
  assert.equal(waitMs(30, 1), 15_000);
});

test("pods and resources in words", () => {
  assert.equal(podWords(null), "The pods could not be read right now.");
  assert.equal(podWords({ count: 0, more: false, pods: [] }), "No pods");
  const pods = ["Running", "Running", "Pending"].map((phase) => ({ phase }));
  assert.equal(podWords({ count: 3, more: false, pods }), "3 pods: 1 pending, 2 running");
  assert.match(podWords({ count: 3, more: true, pods }), /^More than 3 pods/);
  const words = resourceWords({ capacity: { cpu: "8", pods: "110" }, allocatable: { cpu: "7500m", pods: "110" } });
  assert.equal(words, "cpu 7500m of 8, pods 110");
});

test("what came of a node is told in words", () => {
  assert.equal(outcomeWords({ state: "succeeded", effect: "changed" }), "Succeeded");
  assert.equal(outcomeWords({ state: "succeeded", effect: "already" }), "Succeeded, nothing to change");
  assert.equal(outcomeWords({ state: "failed", error: "no room" }), "Failed: no room");
  assert.equal(outcomeWords({ state: "pending" }), "Pending");
});
