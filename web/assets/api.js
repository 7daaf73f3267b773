// The HTTP API as functions. Every call has a deadline; every failure is a Problem.

const BASE = "/api/v1";
const DEADLINE_MS = 20_000;
/** Nodes asked for at once. */
const NODES_PAGE = 1_000;

/** What went wrong, as problem details (RFC 9457) say it, or as the network does. `status` is 0 without an answer. */
export class Problem extends Error {
  constructor(status, title, { detail = null, faults = [], retryAfterMs = null, plan = null } = {}) {
    super(detail ?? title);
    this.plan = plan;
    this.status = status;
    this.title = title;
    this.faults = faults;
    this.retryAfterMs = retryAfterMs;
  }
}

const isText = (value) => typeof value === "string" && value !== "";

/** Reads a Problem from an answer's status, headers and body. */
export function problemOf(status, retryAfter, body) {
  const told = body !== null && typeof body === "object" ? body : {};
  const faults = Array.isArray(told.errors) ? told.errors : [];
  return new Problem(status, isText(told.title) ? told.title : `The server answered ${status}`, {
    detail: isText(told.detail) ? told.detail : null,
    faults: faults.map((fault) => ({ field: String(fault.field ?? ""), reason: String(fault.reason ?? "") })),
    plan: told.plan ?? null,
    retryAfterMs: /^\d+$/.test(retryAfter ?? "") ? Number(retryAfter) * 1000 : null,
  });
}

/** The query of an address; empty parameters are left out. */
export function query(parameters) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
}

/** A random text for the Idempotency-Key header. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join(
    "",
  );
}

export class Api {
  #token;
  #onDenied;

  /** `token()` gives the bearer token; `onDenied()` is called when the server does not accept it. */
  constructor(token, onDenied) {
    this.#token = token;
    this.#onDenied = onDenied;
  }

  tasks({ owner, before, limit }) {
    return this.#send("GET", `/tasks${query({ owner, before, limit })}`);
  }

  task(id) {
    return this.#send("GET", `/tasks/${encodeURIComponent(id)}`);
  }

  items(id, { state, after, limit }) {
    return this.#send("GET", `/tasks/${encodeURIComponent(id)}/items${query({ state, after, limit })}`);
  }

  clusters() {
    return this.#send("GET", "/clusters");
  }

  /** All nodes of a cluster, page by page, and how current they are. */
  async nodes(cluster) {
    const nodes = [];
    let page = { next: null };
    do {
      const asked = query({ limit: NODES_PAGE, after: page.next });
      page = await this.#send("GET", `/clusters/${encodeURIComponent(cluster)}/nodes${asked}`);
      nodes.push(...page.nodes);
    } while (page.next);
    return { nodes, freshness: page.freshness };
  }

  node(cluster, name) {
    return this.#send("GET", `/clusters/${encodeURIComponent(cluster)}/nodes/${encodeURIComponent(name)}`);
  }

  /** What tasks did to a node, newest first, as far as the caller may know. */
  async history(cluster, node) {
    return (await this.#send("GET", `/audit${query({ cluster, node, limit: 10 })}`)).rows;
  }

  templates() {
    return this.#send("GET", "/templates");
  }

  /** The stream of a cluster's nodes: its body, for as long as it lasts or until `signal`. */
  async follow(cluster, signal) {
    const headers = { Authorization: `Bearer ${this.#token()}`, Accept: "text/event-stream" };
    const address = `${BASE}/live/nodes/${encodeURIComponent(cluster)}`;
    const response = await this.#fetch(address, { headers, cache: "no-store", signal });
    if (response.ok) return response.body;
    const answer = await response.json().catch(() => null);
    throw problemOf(response.status, response.headers.get("Retry-After"), answer);
  }

  /** Asks for `cancel`, `pause` or `resume` of a task. */
  control(id, verb) {
    return this.#send("POST", `/tasks/${encodeURIComponent(id)}/${verb}`);
  }

  /** Changes how many nodes are worked on at once; `null` for as many as the worker allows. */
  concurrency(id, concurrency) {
    return this.#send("POST", `/tasks/${encodeURIComponent(id)}/concurrency`, { concurrency });
  }

  /** Tries what failed again, as a further task. */
  retry(id, key) {
    return this.#send("POST", `/tasks/${encodeURIComponent(id)}/retry`, {}, { "Idempotency-Key": key });
  }

  /** What a submit would do. Changes nothing. */
  plan(body) {
    return this.#send("POST", "/plans", body);
  }

  submit(action, body, key) {
    return this.#send("POST", `/nodes/batch/${action}`, body, { "Idempotency-Key": key });
  }

  /** A ticket for one live connection. A refused token is the caller's to handle. */
  async ticket() {
    return (await this.#exchange("POST", "/live/tickets")).ticket;
  }

  async #send(method, path, body, headers) {
    const token = this.#token();
    try {
      return await this.#exchange(method, path, body, headers);
    } catch (problem) {
      if (problem.status === 401 && token === this.#token()) this.#onDenied();
      throw problem;
    }
  }

  async #exchange(method, path, body, headers = {}) {
    const sent = { Authorization: `Bearer ${this.#token()}`, Accept: "application/json", ...headers };
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const response = await this.#fetch(BASE + path, {
      method,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(DEADLINE_MS),
    });
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw problemOf(response.status, response.headers.get("Retry-After"), answer);
    return answer;
  }

  async #fetch(address, options) {
    try {
      return await fetch(address, options);
    } catch (error) {
      const late = error.name === "TimeoutError";
      throw new Problem(0, late ? "The server did not answer in time" : "The server cannot be reached");
    }
  }
}
