// A progress bar with a segment per outcome, and the words and icon of a status.

import { attr, h, icon, text } from "../dom.js";
import { number, statusWord } from "../format.js";

const SEGMENTS = ["succeeded", "failed", "skipped", "cancelled"];

const STATUS_ICONS = {
  queued: "queued",
  pending: "queued",
  running: "play",
  paused: "pause",
  stalled: "warn",
  cancelling: "stop",
  completed: "check",
  succeeded: "check",
  completed_with_errors: "warn",
  failed: "cross",
  skipped: "skip",
  cancelled: "stop",
};

export class Bar {
  #segments = SEGMENTS.map((name) => h(`span.${name}`));

  constructor(big = false) {
    this.node = h(
      big ? "div.bar.big" : "div.bar",
      { role: "progressbar", "aria-valuemin": 0 },
      this.#segments,
    );
  }

  update(task) {
    attr(this.node, "aria-label", `${task.action} on ${task.cluster}`);
    attr(this.node, "aria-valuemax", task.total);
    attr(this.node, "aria-valuenow", task.current);
    attr(this.node, "aria-valuetext", barWords(task));
    for (const [place, name] of SEGMENTS.entries()) {
      const width = `${(task[name] * 100) / Math.max(1, task.total)}%`;
      if (this.#segments[place].style.width !== width) this.#segments[place].style.width = width;
    }
  }
}

function barWords(task) {
  const failed = task.failed > 0 ? `, ${number(task.failed)} failed` : "";
  return `${number(task.current)} of ${number(task.total)} done${failed}`;
}

/** The status of a task or the state of an item: an icon and a word, never colour alone. */
export class StatusMark {
  #word = h("span");
  #shown = null;

  constructor() {
    this.node = h("span.status", {}, this.#word);
  }

  update(status) {
    if (status === this.#shown) return;
    this.#shown = status;
    attr(this.node, "data-status", status);
    text(this.#word, statusWord(status));
    this.node.replaceChildren(icon(STATUS_ICONS[status] ?? "queued"), this.#word);
  }
}
