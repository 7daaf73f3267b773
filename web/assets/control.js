// What can be done about a task, and the words for it and for what came of it. Pure.

import { actionWord } from "./draft.js";
import { duration, number, plural } from "./format.js";
import { isTerminal, pending } from "./store.js";

/** What a button does, and in which statuses it is offered. */
export const CONTROLS = {
  pause: { icon: "pause", word: "Pause", on: ["queued", "running"] },
  resume: { icon: "play", word: "Resume", on: ["paused"] },
  cancel: { icon: "stop", word: "Cancel", on: ["queued", "running", "paused"] },
};

/** Most nodes at once that may be asked for. */
export const CONCURRENCY_MAX = 1_000;

/** What is asked before a control is sent. */
export function question(verb, task) {
  const left = plural(pending(task), "node");
  const what = `${actionWord(task.action).toLowerCase()} on ${task.cluster}`;
  const anew = task.failure_budget ? " Its failure budget begins anew." : "";
  return {
    pause: {
      title: `Pause ${what}?`,
      body: `Nodes in flight finish. The other ${left} wait until somebody resumes.`,
      yes: "Pause",
    },
    resume: { title: `Resume ${what}?`, body: `${left} to go.${anew}`, yes: "Resume" },
    cancel: {
      title: `Cancel ${what}?`,
      body: `Nodes in flight finish, the rest of the ${left} to go is left as it is. What is done stays done. A cancelled task cannot be resumed.`,
      yes: "Cancel task",
      danger: true,
    },
    retry: {
      title: `Retry ${what}?`,
      body: `A further task does the same to the ${plural(failedNow(task), "node")} that failed. This one stays as it is.`,
      yes: "Retry failed",
    },
    concurrency: {
      title: "How many nodes at once?",
      body: "Takes effect within a second. Nodes in flight finish. Empty is as many as the worker allows.",
      yes: "Change",
      number: { label: "Nodes at once", value: task.concurrency ?? null, min: 1, max: CONCURRENCY_MAX },
    },
  }[verb];
}

/** How many nodes failed by their newest results, those of retries included. */
export const failedNow = (task) => task.merged?.failed ?? task.failed;

/** Whether the nodes that failed may be tried again: by who submitted the task, once it and its retries are over. */
export function mayRetry(task, user) {
  const mine = !task.owner || !user || task.owner === user;
  const over = isTerminal(task.status) && (task.retries ?? []).every((retry) => isTerminal(retry.status));
  return mine && over && failedNow(task) > 0;
}

/** A failure budget in a line. */
export function budgetWords(budget) {
  if (!budget) return null;
  const limits = [
    [budget.failed, (n) => (n === 0 ? "no node" : plural(n, "node"))],
    [budget.percent, (n) => `${n} %`],
    [budget.consecutive, (n) => `${number(n)} in a row`],
  ];
  const told = limits.filter(([limit]) => limit !== null && limit !== undefined);
  const then = budget.then === "abort" ? "then called off" : "then paused";
  return `${told.map(([limit, words]) => words(limit)).join(" or ")} may fail, ${then}`;
}

/** A strategy in a line. */
export function strategyWords(strategy) {
  if (!strategy) return null;
  const gates = { first: "resumed by hand after the first wave", each: "resumed by hand after each wave" };
  return [
    strategy.canary && `canary of ${number(strategy.canary)}`,
    strategy.waves?.length && `waves of ${strategy.waves.join(", ")}`,
    ...(strategy.order ?? []).map((rule) => rule.replaceAll("_", " ")),
    strategy.soak_ms && `${duration(strategy.soak_ms)} between waves`,
    gates[strategy.gate],
    strategy.max_unavailable && `at most ${strategy.max_unavailable} unavailable`,
    ...(strategy.windows ?? []),
  ]
    .filter(Boolean)
    .join("; ");
}

/** Where a task stands that runs in waves. */
export const waveWords = (task) =>
  task.wave && !isTerminal(task.status) ? `${number(task.wave.number)} of ${number(task.wave.of)}` : null;

/** What came of a task and its retries together. */
export function mergedWords({ total, succeeded, failed, skipped, cancelled }) {
  const rest = [
    [failed, "failed"],
    [skipped, "skipped"],
    [cancelled, "cancelled"],
  ].filter(([n]) => n > 0);
  return [
    `${number(succeeded)} of ${plural(total, "node")} succeeded`,
    ...rest.map(([n, word]) => `${number(n)} ${word}`),
  ].join(", ");
}

/** Nodes in work that are named. */
const NAMED_MAX = 5;

/** How long nothing has happened, and what is in work as far as this browser was told. */
export function stallWords(task, now) {
  const quiet = `No node has finished for ${duration(Math.max(0, now - Date.parse(task.stalled_since)))}.`;
  const names = task.in_work ?? [];
  if (names.length === 0) return quiet;
  const more = names.length > NAMED_MAX ? ` and ${number(names.length - NAMED_MAX)} more` : "";
  return `${quiet} In work: ${names.slice(0, NAMED_MAX).join(", ")}${more}.`;
}

/** Whether a task is over and may have left cordons that can be taken back: a node that could not be drained is cordoned too. */
export const mayRollBack = (task) =>
  isTerminal(task.status) &&
  ["cordon", "drain"].includes(task.action) &&
  task.succeeded + (task.action === "drain" ? task.failed : 0) > 0;

/** What the form is filled with to take back the cordons of a task, and nobody else's. */
export const rollBackOf = (task) => ({
  cluster: task.cluster,
  action: "uncordon",
  parameters: { of_task: task.task_id },
  reason: `Roll back: ${task.reason ?? task.task_id}`.slice(0, 500),
  concurrency: task.concurrency,
});
