// How fast a task moves and when it will be done, from what was seen of it lately. Pure.

const WINDOW_MS = 15_000;
const SPACING_MS = 250;
const SPAN_MIN_MS = 1_000;

/**
 * Adds what is known at `now`. Samples are spaced and leave the window, so the list is bounded by the ratio of both.
 * A count that went back belongs to another attempt and starts over.
 */
export function sample(samples, now, current) {
  const last = samples.at(-1);
  if (last && current < last.current) return [{ at: now, current }];
  const kept = samples.filter((s) => s.at >= now - WINDOW_MS);
  if (kept.length > 1 && now - kept.at(-2).at < SPACING_MS) kept.pop();
  return [...kept, { at: now, current }];
}

/** Items per second over the window, or `null` while too little was seen. */
export function rate(samples, now) {
  const first = samples.find((s) => s.at >= now - WINDOW_MS);
  if (!first || now - first.at < SPAN_MIN_MS) return null;
  return ((samples.at(-1).current - first.current) * 1000) / (now - first.at);
}

/** Milliseconds until `pending` items are done, or `null` when that cannot be said. */
export function remaining(perSecond, pending) {
  return perSecond > 0 ? (pending / perSecond) * 1000 : null;
}
