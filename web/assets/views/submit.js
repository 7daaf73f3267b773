// The form that submits a batch.

import { newKey } from "../api.js";
import { attr, h, icon, perFrame, show, text } from "../dom.js";
import { ACTIONS, ROWS, bodyOf, faultsOf, fieldOf, rowsOf, wordsOf } from "../draft.js";
import { NodeFollower } from "../follow.js";
import { plural } from "../format.js";
import { planBodyOf } from "../plan.js";
import { whyNoSubmit } from "../rights.js";
import { BudgetFields } from "./budget.js";
import { DrainFields } from "./drain.js";
import { StrategyFields } from "./strategy.js";
import { ParameterRows } from "./parameters.js";
import { NodeDialog } from "./node.js";
import { NodePicker } from "./picker.js";
import { PlanView } from "./plan.js";
import { toast } from "./parts.js";
import { TemplateFields } from "./template.js";

/** Faults shown at one field; the rest is counted. */
const FAULTS_SHOWN = 5;

export class SubmitPage {
  #action = "cordon";
  /** The task whose cordons an uncordon is restricted to, when the form was filled with such a task. */
  #ofTask = null;
  #cluster = null;
  /** The nodes of the chosen cluster, as they are followed. */
  #book = null;
  /** What the user may do on each cluster, by its name. */
  #access = {};
  #faults = new Map();
  #busy = false;
  /** Whether the user may only look at the chosen cluster. */
  #denied = false;
  /** The plan that is shown, with the action and the body it was made of. */
  #planned = null;
  /** The key of the body last sent: the same body again is the same task, a changed one is another. */
  #sent = { body: null, key: null };

  /** `onDone(task)` is called with the answer of the server; `onForbidden()` on a 403. */
  constructor({ api, onDone, onForbidden }) {
    Object.assign(this, { api, onDone, onForbidden });
    this.#build();
  }

  #build() {
    this.detail = new NodeDialog({ api: this.api });
    this.picker = new NodePicker(
      () => this.#reword(),
      (node) => this.detail.open(this.cluster.value, node),
    );
    const draw = perFrame(() => this.#book && this.picker.update(this.#book.list(), this.#book.freshness));
    this.follower = new NodeFollower({
      open: (cluster, signal) => this.api.follow(cluster, signal),
      onNodes: (book) => {
        this.#book = book;
        draw();
      },
    });
    this.rows = new ParameterRows();
    this.templates = new TemplateFields((rows) => this.rows.choose(this.#action, rows));
    this.budget = new BudgetFields();
    this.strategy = new StrategyFields();
    this.cluster = h("select", { id: "field-cluster_name" });
    this.cluster.addEventListener("change", () => {
      this.#cluster = this.cluster.value;
      this.#loadNodes(false);
    });
    this.rights = h("p.hint", { "aria-live": "polite" });
    this.reason = h("textarea", {
      id: "field-reason",
      rows: 2,
      maxlength: 500,
      placeholder: "Kernel update, ticket OPS-1234",
    });
    this.priority = h("input", {
      id: "field-priority",
      type: "number",
      min: -100,
      max: 100,
      step: 1,
      placeholder: "0",
      inputmode: "numeric",
    });
    this.concurrency = h("input", {
      id: "field-concurrency",
      type: "number",
      min: 1,
      max: 1000,
      step: 1,
      placeholder: "worker's default",
      inputmode: "numeric",
    });
    this.send = h("button.primary", { type: "submit" });
    this.look = h("button", { type: "button", onclick: () => this.#plan() }, "Plan");
    this.back = h("a.button", { href: "#/" }, "Back");
    this.edit = h("button", { type: "button", onclick: () => this.#leavePlan() }, "Edit");
    this.plan = new PlanView();
    this.problem = h("p.fault", { role: "alert" });
    this.body = h(
      "div.submit-body",
      {},
      h("div.card.side", {}, this.#side()),
      h("div.card", {}, this.#nodesField()),
    );
    const foot = h("div.submit-foot", {}, this.problem, this.back, this.edit, this.look, this.send);
    const head = h("div.submit-head", {}, h("h1", { tabindex: -1 }, "New batch"));
    this.node = h(
      "form.submit",
      { novalidate: true, hidden: true, "aria-label": "New batch" },
      head,
      this.body,
      this.plan.node,
      foot,
    );
    document.body.append(this.detail.node);
    this.node.addEventListener("submit", (event) => this.#submit(event));
    this.#leavePlan();
    this.#choose("cordon");
  }

  #side() {
    const clusterField = this.#field(
      "cluster_name",
      h("label", { for: "field-cluster_name" }, "Cluster"),
      this.cluster,
    );
    clusterField.append(this.rights);
    const reason = this.#field("reason", h("label", { for: "field-reason" }, "Reason"), this.reason);
    const priority = this.#field(
      "priority",
      h("label", { for: "field-priority" }, "Priority"),
      this.priority,
    );
    const concurrency = this.#field(
      "concurrency",
      h("label", { for: "field-concurrency" }, "Nodes at once"),
      this.concurrency,
    );
    return [
      clusterField,
      this.#actionField(),
      this.#parametersField(),
      this.#drainField(),
      reason,
      h("div.pair", {}, priority, concurrency),
      this.#budgetField(),
      this.#strategyField(),
    ];
  }

  #budgetField() {
    const fault = h("p.fault", { id: "fault-failure_budget", hidden: true });
    this.#faults.set("failure_budget", { fault, control: this.budget.node });
    const hint = h("p.hint", {}, "One failure more than any of these stops the batch; nodes in flight finish.");
    return h("fieldset.field", {}, h("legend", {}, "Failures that are tolerated"), this.budget.node, fault, hint);
  }

  #strategyField() {
    const fault = h("p.fault", { id: "fault-strategy", hidden: true });
    this.#faults.set("strategy", { fault, control: this.strategy.node });
    const hint = h("p.hint", {}, "A wave begins when every node of the one before has ended.");
    return h("fieldset.field", {}, h("legend", {}, "Waves and windows"), this.strategy.node, fault, hint);
  }

  #actionField() {
    const options = Object.entries(ACTIONS).map(([action, { word }]) => {
      const input = h("input", {
        type: "radio",
        name: "action",
        value: action,
        onchange: () => this.#choose(action),
      });
      input.checked = action === this.#action;
      return h("label", {}, input, word);
    });
    this.help = h("p.hint");
    return h("fieldset.field", {}, h("legend", {}, "Action"), h("div.actions", {}, options), this.help);
  }

  #parametersField() {
    this.overwrite = h("input", { type: "checkbox", id: "field-overwrite" });
    this.overwriteLine = h("label.check", {}, this.overwrite, "Overwrite other values");
    const fault = h("p.fault", { id: "fault-parameters", hidden: true });
    this.foreign = h("input", { type: "checkbox", id: "field-foreign" });
    this.foreignLine = h("label.check", {}, this.foreign, "Undo cordons of others too");
    this.from = h("input", { id: "field-from", placeholder: "node-001", autocomplete: "off", spellcheck: "false" });
    this.fromLine = h("label", { for: "field-from" }, "Copy from node", this.from);
    for (const field of ["labels", "keys", "taints", "annotations", "overwrite", "foreign", "of_task", "from"])
      this.#faults.set(field, { fault, control: this.rows.node });
    this.parametersField = h(
      "fieldset.field",
      {},
      (this.parametersName = h("legend")),
      this.templates.node,
      this.rows.node,
      this.fromLine,
      this.overwriteLine,
      this.foreignLine,
      fault,
    );
    return this.parametersField;
  }

  #drainField() {
    this.drain = new DrainFields();
    for (const [field, shown] of this.drain.faults) this.#faults.set(field, shown);
    this.drainField = h("fieldset.field", {}, h("legend", {}, "How to drain"), this.drain.node);
    return this.drainField;
  }

  #nodesField() {
    const fault = h("p.fault", { id: "fault-node_names", hidden: true });
    this.#faults.set("node_names", { fault, control: this.picker.list });
    return h("div.field", {}, h("span.label", {}, "Nodes"), fault, this.picker.node);
  }

  #field(name, label, control) {
    const fault = h("p.fault", { id: `fault-${name}`, hidden: true });
    this.#faults.set(name, { fault, control });
    return h("div.field", {}, label, control, fault);
  }

  /** Shows the form with fresh clusters and nodes. */
  async open() {
    show(this.node, true);
    this.#leavePlan();
    this.node.querySelector("h1").focus({ preventScroll: true });
    this.#showFaults([]);
    this.#reword();
    this.#loadTemplates();
    try {
      const { clusters, access } = await this.api.clusters();
      this.#access = access ?? {};
      this.#fillClusters(clusters);
      if (this.#cluster === null && clusters.length > 0) await this.#loadFirst(clusters);
      else await this.#loadNodes(true);
    } catch (problem) {
      this.picker.say(problem.message);
    }
  }

  /** Templates are a help: without them everything can be typed. */
  async #loadTemplates() {
    const { templates } = await this.api.templates().catch(() => ({ templates: [] }));
    this.templates.load(templates);
    this.templates.offer(this.#action);
  }

  close() {
    this.follower.stop();
    this.detail.node.close();
    show(this.node, false);
  }

  /** Fills the form with what a task did, for these of its nodes. To be opened next. */
  repeat(task, nodes) {
    this.#cluster = task.cluster;
    this.#clear();
    this.node.querySelector(`[name="action"][value="${CSS.escape(task.action)}"]`).checked = true;
    this.#choose(task.action);
    this.rows.choose(task.action, rowsOf(task.parameters));
    this.overwrite.checked = task.parameters?.overwrite === true;
    this.foreign.checked = task.parameters?.foreign === true;
    this.drain.choose(task.action === "drain" ? task.parameters : null);
    this.#ofTask = task.parameters?.of_task ?? null;
    this.from.value = task.parameters?.from ?? "";
    this.reason.value = task.reason ?? "";
    this.concurrency.value = task.concurrency ?? "";
    this.budget.choose(task.failure_budget);
    this.strategy.choose(task.strategy);
    this.picker.selection.add(nodes);
  }

  #fillClusters(names) {
    this.cluster.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (names.includes(this.#cluster)) this.cluster.value = this.#cluster;
    if (names.length === 0) this.cluster.append(h("option", { value: "" }, "No cluster is configured"));
  }

  /** Starts with the first cluster that has nodes: one may exist only for actions that need none. */
  async #loadFirst(names) {
    for (const name of names) {
      this.cluster.value = name;
      const empty = await this.#loadNodes(true);
      if (!empty) this.#cluster ??= name;
      if (this.#cluster !== null) return;
    }
  }

  /** Offers what the user may do on a cluster. */
  #offer(cluster) {
    const access = this.#access[cluster];
    this.drain.offer(access, cluster);
    const why = whyNoSubmit(access, cluster);
    this.#denied = why !== null;
    text(this.rights, why);
    this.#enable();
  }

  #enable() {
    for (const button of [this.send, this.look]) button.disabled = this.#busy || this.#denied;
  }

  /**
   * Reads the nodes of the chosen cluster and gives back whether it has none. `keep` says that what is selected may
   * stay so.
   */
  async #loadNodes(keep) {
    const cluster = this.cluster.value;
    this.follower.stop();
    this.#book = null;
    this.#offer(cluster);
    if (!keep) this.picker.selection.clear();
    if (!cluster) {
      this.picker.say("No cluster is configured: the section clusters of the configuration names them.");
      return false;
    }
    let empty = false;
    attr(this.picker.list, "aria-busy", "true");
    try {
      const { nodes, freshness } = await this.api.nodes(cluster);
      empty = nodes.length === 0;
      if (cluster === this.cluster.value) {
        this.picker.load(nodes, freshness);
        if (!this.node.hidden) this.follower.start(cluster);
      }
    } catch (problem) {
      if (cluster === this.cluster.value) this.picker.say(problem.message);
    }
    attr(this.picker.list, "aria-busy", null);
    return empty;
  }

  #choose(action) {
    this.#action = action;
    this.#ofTask = null;
    const { help, parameters, overwrite, foreign, from, drain } = ACTIONS[action];
    text(this.help, help);
    show(this.parametersField, parameters !== null || Boolean(foreign || from));
    show(this.rows.node, parameters !== null);
    text(this.parametersName, ROWS[parameters]?.all ?? (from ? "Taints" : "Whose cordons"));
    show(this.fromLine, Boolean(from));
    show(this.overwriteLine, Boolean(overwrite));
    this.foreign.checked = false;
    show(this.foreignLine, Boolean(foreign));
    show(this.drainField, Boolean(drain));
    this.rows.choose(action);
    this.templates.offer(action);
    this.#showFaults([]);
    this.#reword();
  }

  #reword() {
    const chosen = this.picker.selection.size;
    const word = ACTIONS[this.#action].word;
    const words = chosen === 0 ? word : `${word} · ${plural(chosen, "node")}`;
    const send = this.#planned === null ? words : "Run this plan";
    this.send.replaceChildren(this.#busy ? "Just a moment…" : send);
  }

  #values() {
    return {
      cluster: this.cluster.value,
      nodes: this.picker.names,
      action: this.#action,
      rows: this.rows.values(),
      switches: {
        overwrite: this.overwrite.checked,
        foreign: this.foreign.checked,
        ofTask: this.#ofTask,
        drain: this.drain.values(),
        from: this.from.value.trim(),
      },
      reason: this.reason.value,
      priority: this.priority.value,
      concurrency: this.concurrency.value,
      budget: this.budget.values(),
      strategy: this.strategy.values(),
    };
  }

  async #submit(event) {
    event.preventDefault();
    const asked = this.#planned ?? this.#asked();
    if (this.#busy || asked === null) return;
    this.#setBusy(true);
    await this.#post(asked);
    this.#setBusy(false);
  }

  #unpicked() {
    const field = ACTIONS[this.#action].parameters;
    return this.templates.unpicked.map((key) => ({ field, reason: `of the template: pick a value of ${key}` }));
  }

  /** The action and the body that the form asks for; `null` while something is missing. */
  #asked() {
    const values = this.#values();
    const faults = [...faultsOf(values), ...this.#unpicked()];
    this.#showFaults(faults);
    return faults.length > 0 ? null : { action: values.action, body: bodyOf(values) };
  }

  /** Asks what would be done, and shows that in the place of the form. */
  async #plan(change = null) {
    const asked = this.#planned ?? this.#asked();
    if (this.#busy || asked === null) return;
    this.#setBusy(true);
    try {
      const plan = await this.api.plan(planBodyOf(asked.action, asked.body));
      this.#planned = { ...asked, hash: plan.hash };
      const nodes = plural(plan.summary.nodes, "node");
      this.plan.load(plan, `${ACTIONS[asked.action].word} · ${nodes} of ${plan.cluster}`, change);
      this.#showFaults([]);
      this.#place();
    } catch (problem) {
      if (problem.status === 403) this.onForbidden();
      this.#leavePlan();
      this.#showFaults(problem.faults, problem.message);
    }
    this.#setBusy(false);
  }

  /** Back from the plan to the form, which is as it was. */
  #leavePlan() {
    this.#planned = null;
    this.#place();
    this.#reword();
  }

  #place() {
    const planned = this.#planned !== null;
    show(this.body, !planned);
    show(this.plan.node, planned);
    show(this.edit, planned);
    show(this.back, !planned);
    text(this.look, planned ? "Plan anew" : "Plan");
  }

  async #post({ action, body, hash }) {
    const sent = hash === undefined ? body : { ...body, plan_hash: hash };
    try {
      const task = await this.api.submit(action, sent, this.#keyFor(action, sent));
      this.#clear();
      this.onDone(task);
    } catch (problem) {
      if (problem.plan !== null && problem.plan !== undefined) {
        this.#busy = false;
        await this.#plan(problem.plan);
        return;
      }
      if (problem.status === 403) this.onForbidden();
      if (problem.faults.length > 0) this.#leavePlan();
      this.#showFaults(problem.faults, problem.message);
      if (problem.status === 0)
        toast("It is not known whether the batch was accepted. Submit again: it will not run twice.", "bad");
    }
  }

  #keyFor(action, body) {
    const said = JSON.stringify([action, body]);
    if (this.#sent.body !== said) this.#sent = { body: said, key: newKey() };
    return this.#sent.key;
  }

  #clear() {
    this.#sent = { body: null, key: null };
    this.picker.reset();
    this.reason.value = "";
    this.rows.clear();
    this.templates.clear();
    this.drain.choose(null);
    this.budget.choose(null);
    this.strategy.choose(null);
  }

  #setBusy(busy) {
    this.#busy = busy;
    this.#enable();
    this.edit.disabled = busy;
    this.#reword();
  }

  /** Shows faults at their fields, what has no field at the foot, and moves to the first. */
  #showFaults(faults, problem = "") {
    for (const { fault, control } of this.#faults.values()) {
      show(fault, false);
      attr(control, "aria-invalid", null);
      attr(control, "aria-errormessage", null);
    }
    const loose = faults
      .filter((fault) => fieldOf(fault) === null)
      .map((fault) => `${fault.field} ${fault.reason}`);
    const placed = Map.groupBy(
      faults.filter((fault) => fieldOf(fault) !== null),
      fieldOf,
    );
    for (const [field, list] of placed) this.#showFault(field, list);
    const first = [...placed.keys()][0];
    if (first) this.#faults.get(first).control.focus();
    text(
      this.problem,
      faults.length > 0 && loose.length === 0
        ? "Some fields need another look."
        : [problem, ...loose].filter(Boolean).join(" "),
    );
  }

  #showFault(field, faults) {
    const { fault, control } = this.#faults.get(field);
    const words = faults.slice(0, FAULTS_SHOWN).map(wordsOf);
    if (faults.length > FAULTS_SHOWN) words.push(`and ${faults.length - FAULTS_SHOWN} more`);
    text(fault, words.join("; "));
    show(fault, true);
    attr(control, "aria-invalid", "true");
    attr(control, "aria-errormessage", fault.id);
  }
}
