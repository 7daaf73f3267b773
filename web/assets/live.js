// When to connect, when to wait and when to give up: the live connection as a pure state machine.
//
// `next(state, input)` gives the next state and what to do. Time and chance are inputs. The driver is socket.js.

export const WAIT_BASE_MS = 250;
export const WAIT_MAX_MS = 15_000;
/** A connection that held this long starts the back-off over; one that breaks at once keeps backing off. */
export const STEADY_MS = 5_000;

export const initial = () => ({
  phase: "idle",
  failures: 0,
  openedAt: null,
  reason: null,
  until: null,
  hello: null,
});

/** Full jitter: anything from nothing to the doubled ceiling, so that many tabs do not come back together. */
export function backOff(failures, random) {
  return Math.floor(random * Math.min(WAIT_MAX_MS, WAIT_BASE_MS * 2 ** Math.min(failures, 16)));
}

/** Whether a close code forbids to come back by ourselves. */
export const isFinal = (code) => code >= 4500 && code <= 4999;

function wait(state, { now, random, atLeast = 0 }, reason) {
  const ms = Math.max(atLeast, backOff(state.failures, random));
  const waiting = {
    ...state,
    phase: "waiting",
    failures: state.failures + 1,
    openedAt: null,
    reason,
    until: now + ms,
  };
  return [waiting, [{ do: "wait", ms }]];
}

const ask = (state) => [{ ...state, phase: "asking", until: null }, [{ do: "ticket" }]];

/** How long a server that stops asks this client to wait: it spreads its clients over time. */
const askedFor = (reason) => Number(/retry_ms=(\d{1,6})\b/.exec(reason ?? "")?.[1] ?? 0);

function closed(state, input) {
  if (isFinal(input.code)) {
    const reason = input.reason || `closed by the server (${input.code})`;
    return [{ ...state, phase: "refused", openedAt: null, reason }, []];
  }
  const steady = state.openedAt !== null && input.now - state.openedAt >= STEADY_MS;
  const atLeast = Math.min(WAIT_MAX_MS, askedFor(input.reason));
  return wait(
    { ...state, failures: steady ? 0 : state.failures },
    { ...input, atLeast },
    input.reason || "connection lost",
  );
}

const HANDLERS = {
  start: (state) => (["idle", "refused", "signed-out"].includes(state.phase) ? ask(initial()) : [state, []]),
  stop: (state) => [{ ...state, phase: "idle", until: null }, [{ do: "close" }]],
  /** Somebody looks again, or the network is back: there is no reason to wait any longer. */
  hurry: (state) => (state.phase === "waiting" ? ask(state) : [state, []]),
  elapsed: (state) => (state.phase === "waiting" ? ask(state) : [state, []]),
  ticket: (state, { ticket }) =>
    state.phase === "asking" ? [{ ...state, phase: "connecting" }, [{ do: "connect", ticket }]] : [state, []],
  denied: (state) => (state.phase === "asking" ? [{ ...state, phase: "signed-out" }, []] : [state, []]),
  unavailable: (state, input) =>
    state.phase === "asking"
      ? wait(state, { ...input, atLeast: input.retryAfterMs ?? 0 }, input.reason)
      : [state, []],
  hello: (state, { now, hello }) =>
    state.phase === "connecting"
      ? [{ ...state, phase: "open", openedAt: now, reason: null, hello }, []]
      : [state, []],
  /** A connection that says nothing for too long is dropped; its close is not waited for. */
  silent: (state, input) => {
    if (!["connecting", "open"].includes(state.phase)) return [state, []];
    const [waiting, effects] = closed(state, { ...input, code: 1006, reason: "no answer" });
    return [waiting, [{ do: "close" }, ...effects]];
  },
  closed: (state, input) =>
    ["connecting", "open"].includes(state.phase) ? closed(state, input) : [state, []],
};

/** The next state and the effects to run, in order. An input that does not fit the phase changes nothing. */
export function next(state, input) {
  return HANDLERS[input.type](state, input);
}
