// What the submit form means: from its values to a request, and from a fault in the answer back to a field. Pure.

export const ACTIONS = {
  cordon: { word: "Cordon", help: "Marks nodes unschedulable. Running pods stay.", parameters: null },
  uncordon: {
    word: "Uncordon",
    help: "Makes nodes schedulable again that Milepost cordoned, and skips others.",
    parameters: null,
    foreign: true,
  },
  drain: {
    word: "Drain",
    help: "Marks nodes unschedulable and evicts their pods, within what disruption budgets allow.",
    parameters: null,
    drain: true,
  },
  label: { word: "Label", help: "Sets labels on nodes.", parameters: "labels", overwrite: true },
  unlabel: { word: "Remove labels", help: "Removes labels from nodes, by key.", parameters: "keys" },
  taint: {
    word: "Taint",
    help: "Sets taints on nodes. NoExecute evicts running pods.",
    parameters: "taints",
    overwrite: true,
  },
  untaint: {
    word: "Remove taints",
    help: "Removes taints from nodes, by key and effect.",
    parameters: "taints",
  },
};

export const actionWord = (action) =>
  ACTIONS[action]?.word ?? action.charAt(0).toUpperCase() + action.slice(1);

const filled = (row) => Object.values(row).some((value) => value !== "");

/**
 * The parameters of an action from the form's rows `{key, value, effect}` and its switches. Rows left empty do not count.
 */
export function parametersOf(action, rows, { overwrite = false, foreign = false, ofTask = null, drain = {} } = {}) {
  const used = rows.filter((row) => filled({ key: row.key, value: row.value ?? "" }));
  const more = ACTIONS[action].overwrite ? { overwrite } : {};
  switch (action) {
    case "uncordon":
      return ofTask ? { of_task: ofTask } : foreign ? { foreign } : {};
    case "drain":
      return drainOf(drain);
    case "label":
      return { labels: Object.fromEntries(used.map((row) => [row.key, row.value])), ...more };
    case "unlabel":
      return { keys: used.map((row) => row.key) };
    case "taint":
      return { taints: used.map(({ key, value, effect }) => ({ key, value, effect })), ...more };
    case "untaint":
      return { taints: used.map(({ key, effect }) => (effect ? { key, effect } : { key })) };
    default:
      return {};
  }
}

/** The parameters of a drain from what its fields hold: what is left empty is left out. */
function drainOf(fields) {
  const given = Object.entries(fields).filter(([, value]) => value !== "" && value !== false);
  const number = (name, value) => (name.endsWith("_seconds") ? Number(value) : value);
  return Object.fromEntries(given.map(([name, value]) => [name, number(name, value)]));
}

/** The form's rows for parameters that a task was submitted with. */
export function rowsOf(parameters) {
  const { labels = {}, keys = [], taints = [] } = parameters ?? {};
  const row = (key, value = "", effect = "") => ({ key, value: value ?? "", effect: effect ?? "" });
  return [
    ...Object.entries(labels ?? {}).map(([key, value]) => row(key, value)),
    ...(keys ?? []).map((key) => row(key)),
    ...(taints ?? []).map((taint) => row(taint.key, taint.value, taint.effect)),
  ];
}

const whole = (text) => (text === "" ? undefined : Number(text));

/** The failure budget of a submit, or nothing when no limit is set. */
function budgetOf({ failed, percent, consecutive, then }) {
  if (failed === "" && percent === "" && consecutive === "") return undefined;
  return { failed: whole(failed), percent: whole(percent), consecutive: whole(consecutive), then };
}

/** The body of a submit. */
export function bodyOf({ cluster, nodes, action, rows, switches, reason, priority, concurrency, budget }) {
  return {
    cluster_name: cluster,
    node_names: nodes,
    reason: reason.trim() || undefined,
    priority: whole(priority),
    concurrency: whole(concurrency),
    failure_budget: budgetOf(budget),
    ...parametersOf(action, rows, switches),
  };
}

/** Faults that need no server to be found, so that the usual slips are answered at once. */
export function faultsOf({ cluster, nodes, action, rows }) {
  const faults = [];
  const add = (field, reason) => faults.push({ field, reason });
  const kind = ACTIONS[action].parameters;
  const used = rows.filter((row) => filled({ key: row.key, value: row.value ?? "" }));
  if (!cluster) add("cluster_name", "choose a cluster");
  if (nodes.length === 0) add("node_names", "select at least one node");
  if (kind && used.length === 0)
    add(kind, `give at least one ${kind === "taints" ? "taint" : kind === "keys" ? "key" : "label"}`);
  if (kind && used.some((row) => row.key === "")) add(kind, "every row needs a key");
  if (action === "label" && new Set(used.map((row) => row.key)).size < used.length)
    add(kind, "a label key is given twice");
  return faults;
}

const FIELDS = [
  "cluster_name",
  "node_names",
  "reason",
  "priority",
  "concurrency",
  "failure_budget",
  "labels",
  "keys",
  "taints",
  "overwrite",
  "foreign",
  "of_task",
  "grace_period_seconds",
  "timeout_seconds",
  "ignore_daemonsets",
  "delete_emptydir_data",
  "force",
  "pod_selector",
  "skip_wait_for_delete_timeout_seconds",
];
const OTHER_NAMES = { cluster: "cluster_name", items: "node_names" };

/** The form field that a fault belongs to, or `null` for the form as a whole. */
export function fieldOf(fault) {
  const path = fault.field.replace(/^parameters\./, "");
  const head = path.split(/[.[]/, 1)[0];
  const name = OTHER_NAMES[head] ?? head;
  return FIELDS.includes(name) ? name : null;
}

/** A fault as a sentence: what it is about inside its field, then the reason. */
export function wordsOf(fault) {
  const path = fault.field.replace(/^parameters\./, "");
  const inner = path.replace(/^\w+\.?/, "");
  return inner === "" ? fault.reason : `${inner} ${fault.reason}`;
}
