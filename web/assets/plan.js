// A plan in words, and what a submit needs to demand it. Pure.

import { duration, number, plural } from "./format.js";

/** Fields of a batch that are not parameters of its action, by the names of `POST plans`. */
const COMMON = {
  cluster_name: "cluster",
  node_names: "items",
  reason: "reason",
  priority: "priority",
  concurrency: "concurrency",
  failure_budget: "failure_budget",
  strategy: "strategy",
};

/** The body of `POST plans` for the body of a batch: what is no common field is a parameter. */
export function planBodyOf(action, body) {
  const draft = { action };
  const parameters = {};
  for (const [name, value] of Object.entries(body)) {
    if (value === undefined) continue;
    if (Object.hasOwn(COMMON, name)) draft[COMMON[name]] = value;
    else parameters[name] = value;
  }
  if (Object.keys(parameters).length > 0) draft.parameters = parameters;
  return draft;
}

const OUTCOMES = [
  ["change", "to change"],
  ["already", "already so"],
  ["skip", "to skip"],
  ["fail", "would fail"],
  ["missing", "not there"],
  ["unknown", "not looked at"],
];

const OUTCOME_WORDS = {
  change: "Change",
  already: "Already so",
  skip: "Skip",
  fail: "Fails",
  missing: "Not there",
  unknown: "Unknown",
};

export const outcomeWord = (outcome) => OUTCOME_WORDS[outcome] ?? outcome;

/** How many nodes come to what, as chips: the count, its words, and what it is. */
export function countsOf({ summary }) {
  const counts = OUTCOMES.filter(([name]) => summary[name] > 0).map(([name, words]) => ({
    name,
    words: `${number(summary[name])} ${words}`,
  }));
  if (summary.evictions > 0)
    counts.push({ name: "evictions", words: `${plural(summary.evictions, "pod")} to evict` });
  return counts;
}

export const rightWords = ({ verb, resource, namespace }) =>
  `${verb} on ${resource}${namespace ? ` in namespace ${namespace}` : ""}`;

/** What is to be known before anything else. */
export function warningsOf({ refused, missing, warnings, summary }) {
  const lines = [];
  if (refused) lines.push(`Nothing would be done: ${refused}`);
  // What refuses the task names the rights that are missing in the whole cluster.
  for (const right of missing.filter((one) => !refused || one.namespace))
    lines.push(`A right is missing: ${rightWords(right)}`);
  lines.push(...warnings);
  if (summary.held_by_budgets > 0)
    lines.push(`Disruption budgets let no pod go now on ${plural(summary.held_by_budgets, "node")}`);
  return lines;
}

/** The order, the waves and the time it may take, in a sentence each. */
export function courseOf({ order, waves, estimate }) {
  const SHOWN = 6;
  const sizes = waves.slice(0, SHOWN).join(", ") + (waves.length > SHOWN ? ", …" : "");
  const inWaves = waves.length > 1 ? `, in ${number(waves.length)} waves of ${sizes}` : "";
  return [
    `Order: ${order}${inWaves}.`,
    `About ${duration(estimate.seconds * 1000)}: ${estimate.says}.`,
  ];
}

export const isTrouble = ({ outcome, budgets }) =>
  ["fail", "missing", "unknown"].includes(outcome) || (budgets ?? []).some((budget) => budget.blocks);

/** What goes wrong first, the rest in its order. */
export const troubleFirst = (nodes) => [
  ...nodes.filter(isTrouble),
  ...nodes.filter((node) => !isTrouble(node)),
];

/** How a node is now. */
export function nowWords(now) {
  if (!now) return "";
  const zone = now.zone ? `, zone ${now.zone}` : "";
  const cordoned = now.unschedulable ? `, cordoned${now.cordoned ? ` by ${now.cordoned}` : ""}` : "";
  return `${now.ready ? "Ready" : "Not ready"}${zone}${cordoned}`;
}

/** One change as what it is of, its value before and after; `null` for none. */
export function changeParts({ field, key, before, after, at_run: atRun }) {
  if (field === "unschedulable")
    return { what: "schedulable", before: before ? "no" : "yes", after: after ? "no" : "yes" };
  return {
    what: `${field} ${key}`,
    before: before ?? null,
    after: atRun ? "set when it is done" : (after ?? null),
  };
}

const FATES = { evict: "Evicted", leave: "Left", refuse: "In the way" };
const CLASSES = {
  ordinary: "come back elsewhere",
  finished: "finished",
  terminating: "terminating",
  empty_dir: "emptyDir data is lost",
  unmanaged: "nothing makes them anew",
  daemon_set: "of DaemonSets",
  orphan: "of DaemonSets that are gone",
  unclear: "of DaemonSets that cannot be read",
  mirror: "mirrors",
};

/** A group of pods as a heading and its names. */
export function podsWords({ fate, class: kind, count, names }) {
  const more = count > names.length ? ` and ${number(count - names.length)} more` : "";
  return {
    head: `${FATES[fate] ?? fate}: ${plural(count, "pod")}, ${CLASSES[kind] ?? kind}`,
    names: names.join(", ") + more,
  };
}

/** What became different, as lines, from the problem that a submit was answered with. */
export function differencesOf(change) {
  const told = change?.differences;
  if (!told) return [];
  const nodes = told.nodes.map(({ name, planned, now }) => `${name}: ${planned} → ${now}`);
  const more = told.more > 0 ? [`and ${plural(told.more, "more node", "more nodes")}`] : [];
  return [...told.task, ...nodes, ...more];
}
