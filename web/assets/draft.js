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
  copy_taints: {
    word: "Copy taints",
    help: "Adds the taints of one node to others, without those that controllers keep.",
    parameters: null,
    from: true,
    overwrite: true,
  },
  annotate: { word: "Annotate", help: "Sets annotations on nodes.", parameters: "annotations", overwrite: true },
  unannotate: { word: "Remove annotations", help: "Removes annotations from nodes, by key.", parameters: "keys" },
};

/** What one row of each kind of parameters is called, and the rows as a whole. */
export const ROWS = {
  labels: { one: "label", all: "Labels" },
  keys: { one: "key", all: "Keys" },
  taints: { one: "taint", all: "Taints" },
  annotations: { one: "annotation", all: "Annotations" },
};

export const actionWord = (action) =>
  ACTIONS[action]?.word ?? action.charAt(0).toUpperCase() + action.slice(1);

const filled = (row) => Object.values(row).some((value) => value !== "");

/**
 * The parameters of an action from the form's rows `{key, value, effect}` and its switches. Rows left empty do not count.
 */
export function parametersOf(
  action,
  rows,
  { overwrite = false, foreign = false, ofTask = null, from = "", drain = {} } = {},
) {
  const used = rows.filter((row) => filled({ key: row.key, value: row.value ?? "" }));
  const more = ACTIONS[action].overwrite ? { overwrite } : {};
  switch (action) {
    case "uncordon":
      return ofTask ? { of_task: ofTask } : foreign ? { foreign } : {};
    case "drain":
      return drainOf(drain);
    case "label":
      return { labels: Object.fromEntries(used.map((row) => [row.key, row.value])), ...more };
    case "annotate":
      return { annotations: Object.fromEntries(used.map((row) => [row.key, row.value])), ...more };
    case "copy_taints":
      return { from, ...more };
    case "unannotate":
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
  const { labels = {}, annotations = {}, keys = [], taints = [] } = parameters ?? {};
  const row = (key, value = "", effect = "") => ({ key, value: value ?? "", effect: effect ?? "" });
  return [
    ...Object.entries(labels ?? {}).map(([key, value]) => row(key, value)),
    ...Object.entries(annotations ?? {}).map(([key, value]) => row(key, value)),
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

/** A number, or a text such as `10%`; the server says what is wrong with any other. */
const amount = (text) => (/^\d+$/.test(text) ? Number(text) : text);

const listed = (text, separator) =>
  text
    .split(separator)
    .map((part) => part.trim())
    .filter((part) => part !== "");

/** The strategy of a submit, or nothing when nothing is held back. */
function strategyOf({ canary, waves, soak, most, gate, order, windows }) {
  const strategy = {
    canary: canary === "" ? undefined : amount(canary),
    waves: waves === "" ? undefined : listed(waves, ",").map(amount),
    soak_ms: soak === "" ? undefined : Math.round(Number(soak) * 1000),
    max_unavailable: most === "" ? undefined : amount(most),
    gate: gate === "none" ? undefined : gate,
    order: order.length === 0 ? undefined : order,
    windows: windows === "" ? undefined : listed(windows, ";"),
  };
  return Object.values(strategy).some((value) => value !== undefined) ? strategy : undefined;
}

/** The body of a submit. */
export function bodyOf({ cluster, nodes, action, rows, switches, reason, priority, concurrency, budget, strategy }) {
  return {
    cluster_name: cluster,
    node_names: nodes,
    reason: reason.trim() || undefined,
    priority: whole(priority),
    concurrency: whole(concurrency),
    failure_budget: budgetOf(budget),
    strategy: strategyOf(strategy),
    ...parametersOf(action, rows, switches),
  };
}

/** Faults that need no server to be found, so that the usual slips are answered at once. */
export function faultsOf({ cluster, nodes, action, rows, switches }) {
  const faults = [];
  const add = (field, reason) => faults.push({ field, reason });
  const kind = ACTIONS[action].parameters;
  const used = rows.filter((row) => filled({ key: row.key, value: row.value ?? "" }));
  if (!cluster) add("cluster_name", "choose a cluster");
  if (nodes.length === 0) add("node_names", "select at least one node");
  if (kind && used.length === 0)
    add(kind, `give at least one ${ROWS[kind].one}`);
  if (kind && used.some((row) => row.key === "")) add(kind, "every row needs a key");
  if (ACTIONS[action].from && !switches?.from) add("from", "name the node whose taints are copied");
  if (["label", "annotate"].includes(action) && new Set(used.map((row) => row.key)).size < used.length)
    add(kind, `the key of a ${ROWS[kind].one} is given twice`);
  return faults;
}

const FIELDS = [
  "cluster_name",
  "node_names",
  "reason",
  "priority",
  "concurrency",
  "failure_budget",
  "strategy",
  "labels",
  "keys",
  "taints",
  "annotations",
  "from",
  "overwrite",
  "foreign",
  "of_task",
  "grace_period_seconds",
  "timeout_seconds",
  "ignore_daemonsets",
  "delete_emptydir_data",
  "force",
  "bypass_pdb",
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
