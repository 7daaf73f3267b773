// A task's relatives: the one it retries, its own retries, and what came of them together.

import { arrange, h, icon, show, text } from "../dom.js";
import { mergedWords } from "../control.js";
import { number, shortId } from "../format.js";
import { StatusMark } from "./bar.js";

export class Family {
  #rows = new Map();
  #parent = h("a.mono");
  #list = h("ul.retries", { "aria-label": "Retries" });
  #merged = h("p.merged");

  constructor() {
    this.of = h("p.retry-of", {}, icon("retry"), h("span", {}, "Retry of "), this.#parent);
    this.node = h("div.family", { hidden: true }, this.of, this.#list, this.#merged);
  }

  update(task) {
    const retries = task.retries ?? [];
    show(this.node, Boolean(task.parent_id) || retries.length > 0);
    show(this.of, Boolean(task.parent_id));
    if (task.parent_id) {
      this.#parent.href = `#/tasks/${task.parent_id}`;
      text(this.#parent, shortId(task.parent_id));
    }
    show(this.#list, retries.length > 0);
    arrange(
      this.#list,
      retries.map((retry) => this.#row(retry)),
    );
    show(this.#merged, Boolean(task.merged));
    if (task.merged) text(this.#merged, `With its retries: ${mergedWords(task.merged)}.`);
  }

  #row(retry) {
    if (!this.#rows.has(retry.task_id)) this.#rows.set(retry.task_id, new RetryRow(retry.task_id));
    const row = this.#rows.get(retry.task_id);
    row.update(retry);
    return row.node;
  }
}

class RetryRow {
  #status = new StatusMark();
  #words = h("span.muted");

  constructor(id) {
    const link = h("a.mono", { href: `#/tasks/${id}` }, shortId(id));
    this.node = h("li", {}, h("span", {}, "Retry "), link, this.#status.node, this.#words);
  }

  update({ status, succeeded, failed, total }) {
    this.#status.update(status);
    const bad = failed > 0 ? `, ${number(failed)} failed` : "";
    text(this.#words, `${number(succeeded)} of ${number(total)} ok${bad}`);
  }
}
