// The node picker: a list of any length of which only the rows in view exist, chosen by mouse or keyboard.

import { attr, h, icon, show, text } from "../dom.js";
import { number, plural } from "../format.js";
import { FILTERS, Selection, cordonWords, indexed, kinds, rowsInView, search, staleWords } from "../nodes.js";
import { choices } from "./parts.js";

const ROW = 34;

export class NodePicker {
  #nodes = [];
  #shown = [];
  #filter = "all";
  #active = 0;
  #rows = new Map();
  selection = new Selection();

  /** `onChange()` is called when the selection changed, `onDetail(node)` when somebody wants to know more of a node. */
  constructor(onChange, onDetail) {
    Object.assign(this, { onChange, onDetail });
    this.#build();
  }

  #build() {
    this.words = h("input", {
      type: "search",
      placeholder: "Name, role, label=value, taint",
      "aria-label": "Search nodes",
      autocomplete: "off",
    });
    this.words.addEventListener("input", () => this.#search());
    this.filter = choices("node-filter", "Show nodes", [...Object.keys(FILTERS), "selected"], (value) => {
      this.#filter = value;
      this.#search();
    });
    this.kinds = Object.fromEntries(
      ["role", "zone"].map((kind) => [
        kind,
        h("select", { "aria-label": `Show nodes of a ${kind}`, onchange: () => this.#search(), hidden: true }),
      ]),
    );
    this.stale = h("p.stale", { role: "status", hidden: true });
    this.count = h("p", { "aria-live": "polite" });
    this.all = h(
      "button",
      { type: "button", onclick: () => this.#change(() => this.selection.add(this.#shown)) },
      "Select all",
    );
    this.none = h(
      "button.quiet",
      { type: "button", onclick: () => this.#change(() => this.#clear()) },
      "Clear",
    );
    this.space = h("div.nodes-all", { role: "presentation" });
    this.empty = h("div.empty");
    this.list = h(
      "div.nodes",
      {
        role: "listbox",
        tabindex: 0,
        id: "field-node_names",
        "aria-multiselectable": "true",
        "aria-label": "Nodes",
        "aria-describedby": "node-keys",
      },
      this.space,
      this.empty,
    );
    this.list.addEventListener("scroll", () => this.#draw());
    this.list.addEventListener("click", (event) => this.#click(event));
    this.list.addEventListener("mousedown", (event) => event.shiftKey && event.preventDefault());
    this.list.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(this.list);
    const keys = h(
      "span.unseen",
      { id: "node-keys" },
      "Arrow keys move, space selects, shift and space selects a range, control and A selects all shown, enter tells more of a node.",
    );
    const head = h(
      "div.picker-head",
      {},
      h("div.search", {}, icon("search"), this.words),
      this.filter.node,
      this.kinds.role,
      this.kinds.zone,
    );
    this.node = h(
      "div.picker",
      {},
      head,
      this.stale,
      h("div.picker-bar", {}, this.count, this.none, this.all),
      this.list,
      keys,
    );
  }

  get names() {
    const chosen = this.#nodes.filter((node) => this.selection.has(node.name));
    return chosen.map((node) => node.name);
  }

  /** Takes the nodes of a cluster; names that are still there stay selected. */
  load(nodes, freshness) {
    this.update(indexed(nodes), freshness);
    this.list.scrollTop = 0;
  }

  /** Takes the nodes as they are by now. What is selected, in view and in focus stays so. */
  update(nodes, freshness) {
    const active = this.#shown[this.#active]?.name;
    const selected = this.selection.size;
    this.#nodes = nodes;
    this.selection.retain(nodes);
    this.#offerKinds();
    this.#search();
    const place = this.#shown.findIndex((node) => node.name === active);
    if (place >= 0) this.#active = place;
    this.#draw();
    this.#sayStale(freshness);
    if (selected !== this.selection.size) this.onChange();
  }

  /** Old nodes say so; a list that was read once is as current as the reading. */
  #sayStale(freshness) {
    const words = staleWords(freshness);
    text(this.stale, words);
    show(this.stale, words !== "");
  }

  /** The roles and zones that there are, each with its number; none where there is nothing to choose. */
  #offerKinds() {
    for (const [kind, select] of Object.entries(this.kinds)) {
      const there = kinds(this.#nodes, kind);
      const said = JSON.stringify(there);
      if (select.dataset.said === said) continue;
      select.dataset.said = said;
      const chosen = select.value;
      const options = there.map(([name, n]) => h("option", { value: name }, `${name} (${number(n)})`));
      select.replaceChildren(h("option", { value: "" }, `All ${kind}s`), ...options);
      select.value = there.some(([name]) => name === chosen) ? chosen : "";
      show(select, there.length > 1);
    }
  }

  /** Selects nothing and shows all, as for a new batch. */
  reset() {
    this.words.value = "";
    this.filter.choose("all");
    this.#filter = "all";
    for (const select of Object.values(this.kinds)) select.value = "";
    this.selection.clear();
    this.#search();
  }

  /** Says something in the place of the nodes. */
  say(words) {
    this.#nodes = [];
    this.#offerKinds();
    this.#sayStale();
    this.#search();
    text(this.empty, words);
  }

  #clear() {
    const { role, zone } = this.kinds;
    const searching =
      this.words.value !== "" || !["all", "selected"].includes(this.#filter) || role.value || zone.value;
    if (searching) this.selection.remove(this.#shown);
    else this.selection.clear();
  }

  #change(work) {
    work();
    if (this.#filter === "selected") this.#search();
    else this.#draw();
    this.#recount();
    this.onChange();
  }

  #search() {
    const chosen = { role: this.kinds.role.value, zone: this.kinds.zone.value };
    this.#shown = search(this.#nodes, this.#filter, this.words.value, this.selection, chosen);
    this.#active = Math.min(this.#active, Math.max(0, this.#shown.length - 1));
    this.space.style.height = `${this.#shown.length * ROW}px`;
    show(this.empty, this.#shown.length === 0);
    text(this.empty, this.#nodes.length === 0 ? "This cluster has no nodes." : "No node matches.");
    this.#draw();
    this.#recount();
  }

  #recount() {
    const shown = this.#shown.length === this.#nodes.length ? "" : ` · ${number(this.#shown.length)} shown`;
    text(
      this.count,
      `${number(this.selection.size)} of ${plural(this.#nodes.length, "node")} selected${shown}`,
    );
    text(this.all, shown === "" ? "Select all" : `Select ${number(this.#shown.length)} shown`);
    text(this.none, shown === "" ? "Clear" : "Clear shown");
    this.all.disabled = this.#shown.length === 0;
    this.none.disabled = this.selection.size === 0;
  }

  #draw() {
    const { first, last } = rowsInView(this.list.scrollTop, this.list.clientHeight, ROW, this.#shown.length);
    for (const [place, row] of this.#rows) {
      if (place < first || place >= last) {
        row.remove();
        this.#rows.delete(place);
      }
    }
    for (let place = first; place < last; place += 1) this.#drawRow(place);
    attr(this.list, "aria-activedescendant", this.#shown.length > 0 ? `node-${this.#active}` : null);
  }

  #drawRow(place) {
    const node = this.#shown[place];
    let row = this.#rows.get(place);
    if (!row) {
      row = nodeRow(place);
      this.#rows.set(place, row);
      this.space.append(row);
    }
    if (row.shown !== node) fillRow(row, node);
    attr(row, "aria-selected", String(this.selection.has(node.name)));
    attr(row, "aria-setsize", this.#shown.length);
    row.classList.toggle("active", place === this.#active);
  }

  #click(event) {
    const row = event.target.closest(".node");
    if (!row) return;
    const place = Number(row.dataset.place);
    if (event.target.closest(".more")) this.onDetail(this.#shown[place]);
    else this.#choose(place, event.shiftKey);
  }

  #choose(place, range) {
    const { name } = this.#shown[place];
    this.#active = place;
    this.#change(() => (range ? this.selection.extend(name, this.#shown) : this.selection.toggle(name)));
  }

  #key(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW) - 1);
    const end = this.#shown.length - 1;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -end, End: end };
    const all = event.key === "a" && (event.ctrlKey || event.metaKey);
    if (!(event.key in steps) && ![" ", "Enter"].includes(event.key) && !all) return;
    event.preventDefault();
    if (event.key === "Enter") return end < 0 ? undefined : this.onDetail(this.#shown[this.#active]);
    if (all) return this.#change(() => this.selection.add(this.#shown));
    if (end < 0) return undefined;
    if (event.key === " ") return this.#choose(this.#active, event.shiftKey);
    return this.#move(Math.min(end, Math.max(0, this.#active + steps[event.key])), event.shiftKey);
  }

  #move(place, range) {
    this.#active = place;
    const top = place * ROW;
    const { scrollTop, clientHeight } = this.list;
    if (top < scrollTop) this.list.scrollTop = top;
    if (top + ROW > scrollTop + clientHeight) this.list.scrollTop = top + ROW - clientHeight;
    if (range) this.#choose(place, true);
    else this.#draw();
  }
}

function nodeRow(place) {
  const row = h(
    "div.node",
    { role: "option", id: `node-${place}`, "aria-posinset": place + 1 },
    h("span.box", {}, icon("check")),
    h("span.mono.cut"),
    h("span.roles.cut"),
    h("span.tag"),
    h("span.tag"),
    h("span.more", { title: "More of this node (Enter)", "aria-hidden": "true" }, icon("next")),
  );
  row.dataset.place = place;
  row.style.top = `${place * ROW}px`;
  return row;
}

/** Writes a node into a row, changing only what is different. */
function fillRow(row, node) {
  const [, name, roles, ready, cordoned] = row.children;
  row.shown = node;
  row.dataset.name = node.name;
  text(name, node.name);
  attr(name, "title", node.name);
  text(roles, (node.roles ?? []).join(", "));
  text(ready, node.ready ? (node.problems?.[0] ?? "Ready") : "Not ready");
  ready.classList.toggle("bad", !node.ready);
  ready.classList.toggle("warn", node.ready && node.problems?.length > 0);
  text(cordoned, node.unschedulable ? "Cordoned" : "");
  attr(cordoned, "title", node.unschedulable ? cordonWords(node) : null);
  cordoned.classList.toggle("warn", node.unschedulable);
}
