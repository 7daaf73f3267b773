// Drives the live connection: runs what live.js decides against the network and the browser's clock.

import { initial, next } from "./live.js";

/** A connection attempt without a first frame for this long is dropped. */
const HELLO_WITHIN_MS = 15_000;
/** Pages do not see pings. So silence for this long is answered with a new connection, which resumes at no loss. */
const SILENCE_MAX_MS = { busy: 60_000, idle: 300_000 };
const LOOK_EVERY_MS = 5_000;
/** A timer this late means that the machine slept; whatever connection there was is gone. */
const SLEPT_MS = 90_000;

export class LiveConnection {
  #state = initial();
  #socket = null;
  #timer = null;
  #watchdog = null;
  #heardAt = 0;
  #lookedAt = Date.now();
  #hooks;

  /**
   * `hooks`: `ticket()` resolves to a ticket or throws a Problem; `address(ticket)` gives the address with the last
   * position in it; `busy()` says whether progress is expected; `onFrame(frame)`; `onState(state)`; `onDenied()` when the token is
   * no longer good.
   */
  constructor(hooks) {
    this.#hooks = hooks;
    addEventListener("online", () => this.hurry());
    addEventListener("offline", () => this.#input({ type: "silent" }));
    document.addEventListener(
      "visibilitychange",
      () => document.visibilityState === "visible" && this.hurry(),
    );
    setInterval(() => this.#look(), LOOK_EVERY_MS);
  }

  get state() {
    return this.#state;
  }

  start() {
    this.#input({ type: "start" });
  }

  stop() {
    this.#input({ type: "stop" });
  }

  /** Connects now if it would otherwise wait. */
  hurry() {
    this.#input({ type: "hurry" });
  }

  #look() {
    const now = Date.now();
    const slept = now - this.#lookedAt > SLEPT_MS;
    const silent = now - this.#heardAt > (this.#hooks.busy() ? SILENCE_MAX_MS.busy : SILENCE_MAX_MS.idle);
    this.#lookedAt = now;
    if (this.#state.phase === "open" && (slept || silent)) this.#input({ type: "silent" });
  }

  #input(input) {
    const before = this.#state;
    const [state, effects] = next(before, { now: Date.now(), random: Math.random(), ...input });
    this.#state = state;
    if (state.phase !== "waiting") clearTimeout(this.#timer);
    for (const effect of effects) this.#run(effect);
    if (state !== before) this.#hooks.onState(this.#state);
  }

  #run(effect) {
    if (effect.do === "ticket") this.#askTicket();
    if (effect.do === "connect") this.#connect(effect.ticket);
    if (effect.do === "close") this.#drop();
    if (effect.do === "wait") this.#timer = setTimeout(() => this.#input({ type: "elapsed" }), effect.ms);
  }

  async #askTicket() {
    try {
      this.#input({ type: "ticket", ticket: await this.#hooks.ticket() });
    } catch (problem) {
      if (problem.status === 401) {
        this.#input({ type: "denied" });
        this.#hooks.onDenied();
        return;
      }
      this.#input({ type: "unavailable", reason: problem.message, retryAfterMs: problem.retryAfterMs });
    }
  }

  #connect(ticket) {
    const socket = new WebSocket(this.#hooks.address(ticket));
    this.#socket = socket;
    const mine = (work) => (event) => this.#socket === socket && work(event);
    socket.onmessage = mine((event) => this.#frame(event.data));
    socket.onclose = mine((event) => {
      this.#drop();
      this.#input({ type: "closed", code: event.code, reason: event.reason });
    });
    this.#watchdog = setTimeout(
      mine(() => this.#input({ type: "silent" })),
      HELLO_WITHIN_MS,
    );
  }

  #frame(data) {
    const frame = JSON.parse(data);
    this.#heardAt = Date.now();
    if (frame.type === "hello") {
      clearTimeout(this.#watchdog);
      this.#input({ type: "hello", hello: frame });
    }
    this.#hooks.onFrame(frame);
  }

  #drop() {
    clearTimeout(this.#watchdog);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }
}
