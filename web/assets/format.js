// Words and numbers for people. Pure: the time of day is passed in.

const whole = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

const STATUS_WORDS = {
  queued: "Queued",
  running: "Running",
  paused: "Paused",
  stalled: "Stalled",
  cancelling: "Cancelling",
  completed: "Completed",
  completed_with_errors: "Partly failed",
  failed: "Failed",
  cancelled: "Cancelled",
};

export const number = (n) => whole.format(n);

export const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

export const sentence = (word) => word.charAt(0).toUpperCase() + word.slice(1).replaceAll("_", " ");

export const statusWord = (status) => STATUS_WORDS[status] ?? sentence(String(status));

/** A length of time in one unit, coarse enough not to flicker. */
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 100) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`;
}

/** How long ago `then` was (both in milliseconds). */
export function age(then, now) {
  const ms = now - then;
  return ms < 5_000 ? "now" : duration(ms);
}

/** Items per second; a dash when nothing is known or nothing moves. */
export function rate(perSecond) {
  if (!(perSecond > 0)) return "–";
  const shown = perSecond >= 10 ? number(Math.round(perSecond)) : perSecond.toFixed(1);
  return `${shown}/s`;
}

export const moment = (ms) => clock.format(new Date(ms));

export const shortId = (id) => id.slice(-8);
