import assert from "node:assert/strict";
import { test } from "node:test";

import { problemOf } from "../assets/api.js";
import {
  changeParts,
  countsOf,
  courseOf,
  differencesOf,
  nowWords,
  planBodyOf,
  podsWords,
  troubleFirst,
  warningsOf,
} from "../assets/plan.js";

const summary = {
  nodes: 3, change: 1, already: 0, skip: 0, fail: 1, missing: 1, unknown: 0, evictions: 9, held_by_budgets: 1,
};
const plan = {
  refused: undefined,
  missing: [{ verb: "create", resource: "pods/eviction", namespace: "shop" }],
  warnings: ["w"],
  summary,
  waves: [3],
  order: "as given",
  estimate: { seconds: 90, says: "a guess" },
};

test("the body of a batch becomes that of a plan, and what is not common is a parameter", () => {
  const body = { cluster_name: "prod", node_names: ["a"], reason: undefined, labels: { a: "b" }, overwrite: true };
  assert.deepEqual(planBodyOf("label", body), {
    action: "label",
    cluster: "prod",
    items: ["a"],
    parameters: { labels: { a: "b" }, overwrite: true },
  });
  assert.deepEqual(planBodyOf("cordon", { cluster_name: "prod", node_names: ["a"], concurrency: 2 }), {
    action: "cordon",
    cluster: "prod",
    items: ["a"],
    concurrency: 2,
  });
});

test("a plan is counted, warned of and described in words", () => {
  assert.deepEqual(countsOf(plan).map((count) => count.words), [
    "1 to change", "1 would fail", "1 not there", "9 pods to evict",
  ]);
  assert.deepEqual(warningsOf(plan), [
    "A right is missing: create on pods/eviction in namespace shop",
    "w",
    "Disruption budgets let no pod go now on 1 node",
  ]);
  const refused = { ...plan, refused: "why", missing: [{ verb: "patch", resource: "nodes" }], warnings: [] };
  assert.equal(warningsOf(refused)[0], "Nothing would be done: why");
  assert.equal(warningsOf(refused).length, 2, "a right is named once");
  assert.deepEqual(courseOf(plan), ["Order: as given.", "About 90 s: a guess."]);
  assert.match(courseOf({ ...plan, waves: [1, 2, 2, 2, 2, 2, 1] })[0], /in 7 waves of 1, 2, 2, 2, 2, 2, …/);
});

test("trouble comes first and the rest keeps its order", () => {
  const nodes = [
    { name: "a", outcome: "change" },
    { name: "b", outcome: "fail" },
    { name: "c", outcome: "already" },
    { name: "d", outcome: "change", budgets: [{ blocks: true }] },
  ];
  assert.deepEqual(troubleFirst(nodes).map((node) => node.name), ["b", "d", "a", "c"]);
});

test("a node, its changes and its pods are told", () => {
  assert.equal(nowWords(undefined), "");
  const now = { ready: true, unschedulable: true, cordoned: "ada: disk", zone: "z" };
  assert.equal(nowWords(now), "Ready, zone z, cordoned by ada: disk");
  const cordon = { field: "unschedulable", after: "true" };
  assert.deepEqual(changeParts(cordon), { what: "schedulable", before: "yes", after: "no" });
  const label = { field: "label", key: "a", before: "b" };
  assert.deepEqual(changeParts(label), { what: "label a", before: "b", after: null });
  const later = { field: "annotation", key: "t", at_run: true };
  assert.equal(changeParts(later).after, "set when it is done");
  const group = { fate: "evict", class: "empty_dir", count: 3, names: ["s/a", "s/b"] };
  assert.deepEqual(podsWords(group), {
    head: "Evicted: 3 pods, emptyDir data is lost",
    names: "s/a, s/b and 1 more",
  });
});

test("a refused plan brings what became different", () => {
  const nodes = [{ name: "n1", planned: "cordon", now: "another node of this name: cordon" }];
  const body = { title: "Conflict", plan: { hash: "a", differences: { task: ["t"], nodes, more: 2 } } };
  const problem = problemOf(409, null, body);
  assert.deepEqual(differencesOf(problem.plan), [
    "t", "n1: cordon → another node of this name: cordon", "and 2 more nodes",
  ]);
  assert.deepEqual(differencesOf(problemOf(409, null, { title: "Conflict" }).plan), []);
  assert.deepEqual(differencesOf({ hash: "a" }), []);
});
