// Choosing nodes: search, filters and the selection, apart from how they are drawn. Pure.

export const FILTERS = {
  all: () => true,
  ready: (node) => node.ready,
  "not ready": (node) => !node.ready,
  cordoned: (node) => node.unschedulable,
  schedulable: (node) => !node.unschedulable,
};

/** Whose cordon a cordoned node has, since when and why. */
export function cordonWords({ cordoned_by: by, cordoned_at: at, cordon_task: task, cordon_reason: reason }) {
  const whose = task ? ` (Milepost task ${task})` : ", not by Milepost";
  const since = at ? ` since ${at}` : "";
  return `Cordoned by ${by ?? "somebody else"}${whose}${since}${reason ? `: ${reason}` : ""}`;
}

function haystack(node) {
  const labels = Object.entries(node.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  const cordon = [node.cordon_reason, node.cordoned_by, node.cordon_task].filter(Boolean);
  return [node.name, ...(node.roles ?? []), ...labels, ...(node.taints ?? []), ...cordon, node.version ?? ""]
    .join(" ")
    .toLowerCase();
}

/** A node with its search text made once. */
export const withText = (node) => ({ ...node, haystack: haystack(node) });

export const indexed = (nodes) => nodes.map(withText);

const ZONE = "topology.kubernetes.io/zone";

/** What a choice of role or zone goes by. */
export const KINDS = {
  role: (node) => (node.roles?.length > 0 ? node.roles : ["no role"]),
  zone: (node) => (node.labels?.[ZONE] ? [node.labels[ZONE]] : []),
};

/** How many nodes there are of each role or zone, by name. */
export function kinds(nodes, kind) {
  const counts = new Map();
  for (const name of nodes.flatMap(KINDS[kind])) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].sort(([one], [other]) => (one < other ? -1 : 1));
}

/**
 * The nodes that pass a filter, are of the chosen role and zone (`chosen`, empty for all), and hold every word of the search
 * (in a name, role, label, taint, cordon or version).
 */
export function search(nodes, filter, words, selected, chosen = {}) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const passes = filter === "selected" ? (node) => selected.has(node.name) : FILTERS[filter];
  const of = Object.entries(chosen).filter(([, name]) => name);
  return nodes.filter(
    (node) =>
      passes(node) &&
      of.every(([kind, name]) => KINDS[kind](node).includes(name)) &&
      wanted.every((word) => node.haystack.includes(word)),
  );
}

/** That the nodes may be old, since when and why; empty when they are current. */
export function staleWords({ stale, silent_ms: ms, cause } = {}) {
  if (!stale) return "";
  const ago = ms < 120_000 ? `${Math.round(ms / 1000)} seconds` : `${Math.round(ms / 60_000)} minutes`;
  return `The cluster was last heard of ${ago} ago, so this list may be old${cause ? `: ${cause}` : "."}`;
}

/** The selection, by name. It keeps names that the current search hides. */
export class Selection {
  names = new Set();
  #anchor = null;

  has(name) {
    return this.names.has(name);
  }

  get size() {
    return this.names.size;
  }

  toggle(name) {
    this.#set(name, !this.has(name));
    this.#anchor = name;
  }

  /** Gives everything from the anchor to `name`, in the order shown, the state of the anchor. */
  extend(name, shown) {
    const places = shown.map((node) => node.name);
    const [from, to] = [places.indexOf(this.#anchor), places.indexOf(name)];
    if (from < 0 || to < 0) return this.toggle(name);
    const on = this.has(this.#anchor);
    for (const place of places.slice(Math.min(from, to), Math.max(from, to) + 1)) this.#set(place, on);
  }

  add(nodes) {
    for (const node of nodes) this.names.add(node.name);
  }

  remove(nodes) {
    for (const node of nodes) this.names.delete(node.name);
  }

  clear() {
    this.names.clear();
    this.#anchor = null;
  }

  /** Forgets names that are no longer there. */
  retain(nodes) {
    const there = new Set(nodes.map((node) => node.name));
    this.names = new Set([...this.names].filter((name) => there.has(name)));
  }

  #set(name, on) {
    if (on) this.names.add(name);
    else this.names.delete(name);
  }
}

/** Which rows of a long list to draw: those in view and a few around them. */
export function rowsInView(scrollTop, height, rowHeight, count, around = 8) {
  const first = Math.max(0, Math.floor(scrollTop / rowHeight) - around);
  const last = Math.min(count, Math.ceil((scrollTop + height) / rowHeight) + around);
  return { first, last };
}
