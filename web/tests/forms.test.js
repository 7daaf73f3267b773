import assert from "node:assert/strict";
import { test } from "node:test";

import { problemOf, query } from "../assets/api.js";
import { bodyOf, faultsOf, fieldOf, parametersOf, rowsOf, wordsOf } from "../assets/draft.js";
import { Selection, cordonWords, indexed, rowsInView, search } from "../assets/nodes.js";
import { whyNoSubmit, whyNot } from "../assets/rights.js";
import { Session, payloadOf } from "../assets/session.js";

const row = (key, value = "", effect = "") => ({ key, value, effect });
const values = (more) => ({
  cluster: "prod",
  nodes: ["a"],
  action: "cordon",
  rows: [],
  switches: {},
  reason: " ",
  priority: "",
  concurrency: "",
  budget: { failed: "", percent: "", consecutive: "", then: "pause" },
  strategy: { canary: "", waves: "", soak: "", most: "", gate: "none", order: [], windows: "" },
  ...more,
});

test("each action sends its own parameters and no other", () => {
  assert.deepEqual(parametersOf("cordon", [row("a", "b")], { overwrite: true, foreign: true }), {});
  assert.deepEqual(parametersOf("label", [row("a", "b"), row("")], { overwrite: true }), {
    labels: { a: "b" },
    overwrite: true,
  });
  assert.deepEqual(parametersOf("unlabel", [row("a")], { overwrite: true }), { keys: ["a"] });
  assert.deepEqual(parametersOf("taint", [row("a", "", "NoExecute")], {}), {
    taints: [{ key: "a", value: "", effect: "NoExecute" }],
    overwrite: false,
  });
  assert.deepEqual(parametersOf("untaint", [row("a"), row("b", "", "NoSchedule")], {}), {
    taints: [{ key: "a" }, { key: "b", effect: "NoSchedule" }],
  });
});

test("annotations and copied taints are sent as they are meant", () => {
  assert.deepEqual(parametersOf("annotate", [row("a", "b c")], { overwrite: true }), {
    annotations: { a: "b c" },
    overwrite: true,
  });
  assert.deepEqual(parametersOf("unannotate", [row("a")]), { keys: ["a"] });
  assert.deepEqual(parametersOf("copy_taints", [], { from: "n1" }), { from: "n1", overwrite: false });
  const rows = [row("a", "b c", "")];
  assert.deepEqual(rowsOf(parametersOf("annotate", rows)), rows);
  assert.deepEqual(faultsOf(values({ action: "copy_taints" })).map((fault) => fault.field), ["from"]);
  assert.deepEqual(faultsOf(values({ action: "annotate" })).map((fault) => fault.field), ["annotations"]);
});

test("an uncordon is of Milepost's cordons, of everybody's, or of one task's", () => {
  assert.deepEqual(parametersOf("uncordon", []), {});
  assert.deepEqual(parametersOf("uncordon", [], { foreign: true, overwrite: true }), { foreign: true });
  assert.deepEqual(parametersOf("uncordon", [], { foreign: true, ofTask: "t" }), { of_task: "t" });
});

test("a drain sends what is set and leaves the rest to its defaults", () => {
  const none = { ignore_daemonsets: false, force: false, pod_selector: "", timeout_seconds: "" };
  assert.deepEqual(parametersOf("drain", [], { drain: none }), {});
  const some = { ...none, ignore_daemonsets: true, pod_selector: "app=web", timeout_seconds: "90" };
  const drain = { ...some, grace_period_seconds: "0" };
  const expected = { ignore_daemonsets: true, pod_selector: "app=web", timeout_seconds: 90, grace_period_seconds: 0 };
  assert.deepEqual(parametersOf("drain", [], { drain }), expected);
  assert.equal(fieldOf({ field: "parameters.timeout_seconds", reason: "x" }), "timeout_seconds");
});

test("what a user may not do on a cluster is told with what it takes and who gives it", () => {
  const access = { role: "operator", may: ["force"] };
  assert.equal(whyNot(access, "force", "prod"), null);
  assert.equal(whyNot(undefined, "force", "prod"), null, "the server has the last word");
  const why = whyNot(access, "bypass-pdb", "prod");
  assert.match(why, /capability bypass-pdb on prod.*auth\.grants/);
  assert.equal(whyNoSubmit(access, "prod"), null);
  assert.match(whyNoSubmit({ role: "viewer", may: [] }, "prod"), /only look at prod/);
});

test("a cordon says whose it is, since when and why", () => {
  const node = { cordoned_by: "ada", cordoned_at: "2026-01-02T03:04:05Z", cordon_task: "t", cordon_reason: "disk" };
  assert.equal(cordonWords(node), "Cordoned by ada (Milepost task t) since 2026-01-02T03:04:05Z: disk");
  assert.equal(cordonWords({ cordoned_by: "kubectl-cordon" }), "Cordoned by kubectl-cordon, not by Milepost");
  assert.equal(cordonWords({ cordon_reason: "fan" }), "Cordoned by somebody else, not by Milepost: fan");
});

test("parameters come back as the rows they were made of", () => {
  const rows = [row("a", "1", ""), row("b", "", "")];
  assert.deepEqual(rowsOf(parametersOf("label", rows, { overwrite: true })), rows);
  const taints = [row("a", "x", "NoExecute"), row("b", "", "NoSchedule")];
  assert.deepEqual(rowsOf(parametersOf("taint", taints)), taints);
  assert.deepEqual(rowsOf(parametersOf("untaint", [row("a")], {})), [row("a")]);
  assert.deepEqual(rowsOf(parametersOf("unlabel", [row("a")], {})), [row("a")]);
  assert.deepEqual(rowsOf(undefined), []);
});

test("what is left empty is left out of the body", () => {
  const sent = JSON.parse(JSON.stringify(bodyOf(values())));
  assert.deepEqual(sent, { cluster_name: "prod", node_names: ["a"] });
  assert.equal(bodyOf(values({ priority: "-5" })).priority, -5);
});

test("a strategy is sent with what is set, and nothing that is not", () => {
  const sent = (strategy) =>
    JSON.parse(JSON.stringify(bodyOf(values({ strategy: { ...values().strategy, ...strategy } })))).strategy;
  assert.equal(sent({}), undefined);
  assert.deepEqual(sent({ canary: "1", waves: "5, 10%", soak: "0.5", gate: "each", order: ["zones"] }), {
    canary: 1,
    waves: [5, "10%"],
    soak_ms: 500,
    gate: "each",
    order: ["zones"],
  });
  const windows = "Mon-Fri 22:00-04:00 Europe/Berlin; 12:00-13:00";
  assert.deepEqual(sent({ most: "10%", windows }), {
    max_unavailable: "10%",
    windows: ["Mon-Fri 22:00-04:00 Europe/Berlin", "12:00-13:00"],
  });
  assert.equal(fieldOf({ field: "strategy.windows[0]", reason: "" }), "strategy");
  assert.equal(wordsOf({ field: "strategy.windows[0]", reason: "has no times" }), "windows[0] has no times");
});

test("a failure budget is sent with the limits that are set, and a zero is one", () => {
  const sent = (budget) =>
    JSON.parse(JSON.stringify(bodyOf(values({ budget: { ...values().budget, ...budget } })))).failure_budget;
  assert.equal(sent({ then: "abort" }), undefined);
  assert.deepEqual(sent({ failed: "0" }), { failed: 0, then: "pause" });
  assert.deepEqual(sent({ percent: "5", consecutive: "3", then: "abort" }), {
    percent: 5,
    consecutive: 3,
    then: "abort",
  });
  assert.equal(fieldOf({ field: "failure_budget.percent", reason: "" }), "failure_budget");
  assert.equal(wordsOf({ field: "failure_budget.percent", reason: "is too much" }), "percent is too much");
});

test("slips are found before the server is asked", () => {
  const fields = (more) => faultsOf(values(more)).map((fault) => fault.field);
  assert.deepEqual(fields(), []);
  assert.deepEqual(fields({ cluster: "", nodes: [] }), ["cluster_name", "node_names"]);
  assert.deepEqual(fields({ action: "label", rows: [row("")] }), ["labels"]);
  assert.deepEqual(fields({ action: "label", rows: [row("", "v")] }), ["labels"]);
  assert.deepEqual(fields({ action: "label", rows: [row("a", "1"), row("a", "2")] }), ["labels"]);
  assert.deepEqual(fields({ action: "untaint", rows: [row("", "", "NoSchedule")] }), ["taints"]);
});

test("a fault finds its field, and keeps what it says about the inside of it", () => {
  const fault = (field) => ({ field, reason: "is wrong" });
  assert.equal(fieldOf(fault("node_names[3]")), "node_names");
  assert.equal(fieldOf(fault("items[3]")), "node_names");
  assert.equal(fieldOf(fault("parameters.labels.example.com/a")), "labels");
  assert.equal(fieldOf(fault("cluster")), "cluster_name");
  assert.equal(fieldOf(fault("Idempotency-Key")), null);
  assert.equal(wordsOf(fault("parameters.labels.example.com/a")), "example.com/a is wrong");
  assert.equal(wordsOf(fault("node_names[3]")), "[3] is wrong");
  assert.equal(wordsOf(fault("reason")), "is wrong");
});

test("problem details are read, and their absence is survived", () => {
  const problem = problemOf(422, null, {
    title: "Unprocessable",
    detail: "two fields",
    errors: [{ field: "a", reason: "b" }],
  });
  assert.deepEqual([problem.message, problem.faults], ["two fields", [{ field: "a", reason: "b" }]]);
  assert.equal(problemOf(502, null, null).message, "The server answered 502");
  assert.equal(problemOf(503, "2", {}).retryAfterMs, 2000);
  assert.equal(problemOf(503, "Wed, 21 Oct 2026 07:28:00 GMT", {}).retryAfterMs, null);
});

test("a query leaves out what is not given", () => {
  assert.equal(query({ before: null, limit: 5, state: "" }), "?limit=5");
  assert.equal(query({ after: 0 }), "?after=0");
  assert.equal(query({}), "");
});

const NODES = indexed([
  { name: "a", ready: true, unschedulable: false, roles: ["worker"], labels: { zone: "x1" }, taints: [] },
  {
    name: "b",
    ready: false,
    unschedulable: true,
    roles: ["worker"],
    labels: { zone: "x2" },
    taints: ["t=:NoSchedule"],
  },
  { name: "c", ready: true, unschedulable: true, roles: [], labels: {}, taints: [] },
  { name: "d", ready: true, unschedulable: false, roles: [], labels: {}, taints: [] },
]);
const names = (nodes) => nodes.map((node) => node.name).join("");

test("nodes are found by name, role, label and taint", () => {
  const none = new Selection();
  assert.equal(names(search(NODES, "all", "worker", none)), "ab");
  assert.equal(names(search(NODES, "all", "ZONE=x2 noschedule", none)), "b");
  assert.equal(names(search(NODES, "cordoned", "", none)), "bc");
  assert.equal(names(search(NODES, "not ready", "", none)), "b");
});

test("a range takes the state of its anchor, in either direction", () => {
  const chosen = new Selection();
  chosen.toggle("c");
  chosen.extend("a", NODES);
  assert.deepEqual([...chosen.names].sort(), ["a", "b", "c"]);
  chosen.toggle("b");
  chosen.extend("d", NODES);
  assert.deepEqual([...chosen.names], ["a"]);
});

test("a selection outlives a search and forgets nodes that are gone", () => {
  const chosen = new Selection();
  chosen.add(NODES);
  chosen.remove(search(NODES, "cordoned", "", chosen));
  assert.deepEqual([...chosen.names], ["a", "d"]);
  chosen.retain(NODES.slice(0, 2));
  assert.equal(names(search(NODES, "selected", "", chosen)), "a");
});

test("only rows in view are drawn", () => {
  assert.deepEqual(rowsInView(0, 340, 34, 1000, 0), { first: 0, last: 10 });
  assert.deepEqual(rowsInView(340, 340, 34, 15, 2), { first: 8, last: 15 });
  assert.deepEqual(rowsInView(0, 340, 34, 0), { first: 0, last: 0 });
});

const jwt = (payload) => `h.${Buffer.from(JSON.stringify(payload)).toString("base64url")}.s`;

function session(hash, stored) {
  const kept = new Map(stored ? [["milepost.token", stored]] : []);
  const storage = {
    getItem: (k) => kept.get(k) ?? null,
    setItem: (k, v) => kept.set(k, v),
    removeItem: (k) => kept.delete(k),
  };
  const shown = [];
  const past = { replaceState: (_state, _title, address) => shown.push(address) };
  return { session: new Session(storage, { hash, pathname: "/", search: "" }, past), kept, shown };
}

test("a token in the fragment is kept and taken out of the address", () => {
  const { session: found, kept, shown } = session(`#token=${jwt({ sub: "ada", role: "operator" })}`);
  assert.equal(found.user, "ada");
  assert.ok(found.mayChange);
  assert.deepEqual(shown, ["/"]);
  assert.equal(kept.size, 1);
  found.signOut();
  assert.equal(kept.size, 0);
});

test("a viewer is offered no changes, and a refusal holds for any token", () => {
  assert.ok(!session("", jwt({ role: "viewer" })).session.mayChange);
  const { session: opaque } = session("", "opaque");
  assert.ok(opaque.mayChange);
  opaque.refuseChanges();
  assert.ok(!opaque.mayChange);
});

test("any text has a payload or none", () => {
  for (const text of ["", "a", "a.b.c", "a.bnVsbA.c", "..", "a.%%.c"]) assert.deepEqual(payloadOf(text), {});
  assert.equal(payloadOf(jwt({ sub: "Zoë" })).sub, "Zoë");
});
