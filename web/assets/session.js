// Who is signed in: a bearer token, kept for this tab only, and what its payload says about the user.
//
// The payload is read to show and hide things. What the user may do is decided by the server alone.

const KEY = "milepost.token";

/** The payload of a JWT, or an empty object for any other token. */
export function payloadOf(token) {
  try {
    const base64 = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const payload = JSON.parse(new TextDecoder().decode(bytes));
    return payload !== null && typeof payload === "object" ? payload : {};
  } catch {
    return {};
  }
}

export class Session {
  #token;
  #readOnly = false;

  /** Takes the token from the address's fragment (and removes it there), else from this tab's storage. */
  constructor(storage = sessionStorage, place = location, past = history) {
    this.storage = storage;
    const found = /^#token=([^&]+)/.exec(place.hash);
    if (found) {
      past.replaceState(null, "", place.pathname + place.search);
      this.signIn(decodeURIComponent(found[1]));
    } else {
      this.#token = storage.getItem(KEY);
    }
  }

  get token() {
    return this.#token;
  }

  get user() {
    return this.#token ? (payloadOf(this.#token).sub ?? null) : null;
  }

  /** Whether changes are offered. An unknown role is not held back: the server answers it. */
  get mayChange() {
    return Boolean(this.#token) && !this.#readOnly && payloadOf(this.#token).role !== "viewer";
  }

  /** Whether the tasks of others are offered. */
  get mayWatchOthers() {
    return Boolean(this.#token) && payloadOf(this.#token).role === "admin";
  }

  /** Takes note that the server refused a change for the user's role. */
  refuseChanges() {
    this.#readOnly = true;
  }

  signIn(token) {
    this.#token = token.trim();
    this.#readOnly = false;
    this.storage.setItem(KEY, this.#token);
  }

  signOut() {
    this.#token = null;
    this.storage.removeItem(KEY);
  }
}
