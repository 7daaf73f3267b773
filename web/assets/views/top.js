// The bar at the top: connection, colour theme, signing out.

import { attr, icon, text } from "../dom.js";

const byId = (id) => document.getElementById(id);

/** Binds the bar's buttons and gives back its parts. */
export function topBar({ onConnection, onSignOut }) {
  const signOut = byId("sign-out");
  signOut.append(icon("exit"));
  signOut.addEventListener("click", onSignOut);
  byId("connection").addEventListener("click", onConnection);
  byId("skip").addEventListener("click", skip);
  byId("theme").addEventListener("click", nextTheme);
  const summary = byId("summary");
  return {
    signOut,
    connection: byId("connection"),
    connectionText: byId("connection-text"),
    say: (words) => text(summary, words),
  };
}

/** Moves on to the content. The address stays: its fragment says what is shown. */
function skip(event) {
  event.preventDefault();
  byId("main").focus();
}

function wordsOf(state, now) {
  const seconds = Math.max(0, Math.ceil(((state.until ?? now) - now) / 1000));
  return {
    idle: "Not connected",
    asking: "Connecting…",
    connecting: "Connecting…",
    open: "Live",
    waiting: navigator.onLine ? (seconds > 0 ? `Retry in ${seconds} s` : "Connecting…") : "Offline",
    refused: "Disconnected",
    "signed-out": "Signed out",
  }[state.phase];
}

/** Says how the live connection is; while it is not, the button connects at once. */
export function showConnection(top, state, now) {
  const can = state.phase === "waiting" || state.phase === "refused";
  const hello = state.hello ? `gateway ${state.hello.replica}, ${state.hello.mode} mode` : "";
  attr(top.connection, "data-phase", state.phase);
  attr(top.connection, "title", can ? `${state.reason ?? ""}. Click to connect now.` : hello);
  top.connection.disabled = !can;
  text(top.connectionText, wordsOf(state, now));
}

// The theme: the system's, or the one chosen here. theme.js applies the choice on the next load.

const THEMES = { auto: "auto", light: "sun", dark: "moon" };

const theme = () => document.documentElement.dataset.theme ?? "auto";

export function showTheme() {
  const button = byId("theme");
  const label = `Colours: ${theme() === "auto" ? "as the system" : theme()}`;
  button.replaceChildren(icon(THEMES[theme()]));
  attr(button, "aria-label", label);
  attr(button, "title", label);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const chosen = names[(names.indexOf(theme()) + 1) % names.length];
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem("milepost.theme", chosen);
  } catch {
    // Without storage the choice holds until the page is left.
  }
  showTheme();
}
