// What a batch would do, node by node, before it is done.

import { h, icon, show, text } from "../dom.js";
import { number } from "../format.js";
import {
  changeParts,
  countsOf,
  courseOf,
  differencesOf,
  nowWords,
  outcomeWord,
  podsWords,
  troubleFirst,
  warningsOf,
} from "../plan.js";

/** Nodes that are shown; trouble comes first. */
const SHOWN_MAX = 200;

export class PlanView {
  constructor() {
    this.title = h("h2", { tabindex: -1 });
    this.differences = h("div.plan-differences", { role: "alert", hidden: true });
    this.counts = h("ul.plan-counts");
    this.warnings = h("ul.plan-warnings");
    this.course = h("p.hint");
    this.nodes = h("div.plan-nodes");
    this.more = h("p.hint", { hidden: true });
    this.hash = h("code.plan-hash");
    this.node = h(
      "section.card.plan",
      { hidden: true, "aria-label": "Plan" },
      h("div.plan-head", {}, this.title, this.hash),
      this.differences,
      this.warnings,
      this.counts,
      this.course,
      this.nodes,
      this.more,
    );
  }

  /** Shows a plan; `change` says how it differs from the one that was agreed to. */
  load(plan, words, change = null) {
    text(this.title, `${words}: nothing is done yet`);
    text(this.hash, plan.hash.slice(0, 12));
    this.hash.title = plan.hash;
    this.#showDifferences(change);
    const line = (name, words) => h("li", { "data-outcome": name }, words);
    this.counts.replaceChildren(...countsOf(plan).map(({ name, words }) => line(name, words)));
    this.warnings.replaceChildren(...warningsOf(plan).map((words) => h("li", {}, icon("warn"), words)));
    text(this.course, courseOf(plan).join(" "));
    const inWaves = plan.waves.length > 1;
    const shown = troubleFirst(plan.nodes).slice(0, SHOWN_MAX);
    this.nodes.replaceChildren(...shown.map((node) => nodeOf(node, inWaves)));
    const more = plan.nodes.length - shown.length;
    text(this.more, `And ${number(more)} more nodes.`);
    show(this.more, more > 0);
    show(this.node, true);
    this.title.focus({ preventScroll: true });
  }

  #showDifferences(change) {
    show(this.differences, change !== null);
    if (change === null) return;
    const lines = differencesOf(change).map((line) => h("li", {}, line));
    this.differences.replaceChildren(
      h("strong", {}, "The plan is not what it was, and nothing was submitted. This is the plan of now."),
      h("ul", {}, lines),
    );
  }
}

function nodeOf(node, inWaves) {
  const wave = inWaves ? h("span.plan-wave", {}, `Wave ${number(node.wave)}`) : null;
  const summary = h(
    "summary",
    {},
    h("span.plan-name", {}, node.name),
    h("span.plan-outcome", { "data-outcome": node.outcome }, outcomeWord(node.outcome)),
    h("span.plan-says", {}, node.says),
    wave,
  );
  // What is inside is made when it is looked at: plans may have thousands of nodes.
  const details = h("details", {}, summary);
  details.addEventListener("toggle", () => details.append(insideOf(node)), { once: true });
  return details;
}

function insideOf(node) {
  const parts = [];
  if (node.now) parts.push(h("p", {}, nowWords(node.now)));
  for (const warning of node.warnings ?? []) parts.push(h("p.plan-warning", {}, icon("warn"), warning));
  for (const budget of node.budgets ?? [])
    parts.push(h("p.plan-warning", {}, icon("warn"), `Budget ${budget.budget} ${budget.why}`));
  if (node.changes?.length > 0) parts.push(changesOf(node.changes));
  for (const group of node.pods ?? []) {
    const { head, names } = podsWords(group);
    parts.push(h("p.plan-pods", {}, h("strong", {}, head), h("span", {}, names)));
  }
  if (parts.length === 0) parts.push(h("p", {}, "There is nothing more to say of it."));
  return h("div.plan-inside", {}, parts);
}

function changesOf(changes) {
  const value = (text) => (text === null ? h("em", {}, "none") : h("code", {}, text === "" ? '""' : text));
  const rows = changes.map((change) => {
    const { what, before, after } = changeParts(change);
    return h("li", {}, h("span", {}, what), h("span", {}, value(before), " → ", value(after)));
  });
  return h("ul.plan-changes", {}, rows);
}
