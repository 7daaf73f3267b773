// One page of a task's items: what the record said, with what was seen live laid over it. Pure.
//
// Only the items of the page are kept, so the size is bounded by the page. A result is given once: a page that was
// read from a record that lags never takes back a result that was already seen.

import { duration } from "./format.js";

const ENDED = new Set(["succeeded", "failed", "skipped", "cancelled"]);

export const isEnded = (state) => ENDED.has(state);

export class ItemPage {
  #items = new Map();
  #attempt = 0;

  /** Items in order of index. */
  list() {
    return [...this.#items.values()];
  }

  /** Whether something on the page may still change. */
  get unfinished() {
    return this.list().some((item) => !isEnded(item.state));
  }

  /** Takes a page as it was read. `same` says that it is the same page as before, read again. */
  load(items, same) {
    const known = same ? this.#items : new Map();
    this.#items = new Map(items.map((item) => [item.index, this.#keepSeen(known.get(item.index), item)]));
  }

  #keepSeen(seen, item) {
    const ahead = seen && !isEnded(item.state) && seen.state !== "pending";
    return ahead ? { ...item, state: seen.state, effect: seen.effect, error: seen.error, step: seen.step } : item;
  }

  /** Lays the changes of an event over the page. Gives back the indices that changed. */
  apply(event) {
    if (event.attempt > this.#attempt) this.#begin(event.attempt);
    const changed = [];
    for (const change of event.items ?? []) {
      const item = this.#items.get(change.index);
      if (!item || isEnded(item.state)) continue;
      const { state, effect = null, error = null, step = null } = change;
      this.#items.set(change.index, { ...item, state, effect, error, step });
      changed.push(change.index);
    }
    return changed;
  }

  /** A new attempt: whatever the one before had in hand is pending again. */
  #begin(attempt) {
    this.#attempt = attempt;
    for (const [index, item] of this.#items) {
      if (item.state === "running") this.#items.set(index, { ...item, state: "pending", step: null });
    }
  }
}

/** How long something has lasted, in words that do not change every second for long. */
const lasting = (since, now) => `since ${duration(Math.max(0, now - Date.parse(since)))}`;

const obstacleWords = ({ by, pods, since }, now) => `${pods > 1 ? `${pods} ` : ""}blocked by ${by} ${lasting(since, now)}`;

/** What an item in work is at: `evicting 3, blocked by budget web since 12 s, gone 14 of 18`. */
export function stepWords(step, now) {
  if (!step) return "";
  if (!step.pods) return step.doing;
  const { evicting, failed, waiting, gone, total } = step.pods;
  const parts = [
    evicting > 0 && `evicting ${evicting}`,
    ...(step.obstacles ?? []).map((obstacle) => obstacleWords(obstacle, now)),
    failed > 0 && `failed ${failed}`,
    waiting > 0 && `waiting ${waiting}`,
    `gone ${gone} of ${total}`,
  ];
  return parts.filter(Boolean).join(", ");
}

/** What the cluster says of the obstacles of a step, for those who want to know more. */
export const obstacleDetail = (step) =>
  (step?.obstacles ?? []).map(({ pod, why }) => (why ? `${pod}: ${why}` : pod)).join("\n");
