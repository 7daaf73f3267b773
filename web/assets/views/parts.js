// Small parts that several views share: choices, questions, toasts, and words for screen readers.

import { h, icon, show, text } from "../dom.js";
import { sentence } from "../format.js";

/** A row of radio buttons of which one holds. Gives back its node and a function that rewords a choice. */
export function choices(name, label, values, onChange) {
  const words = new Map();
  const options = values.map((value, place) => {
    const input = h("input", {
      type: "radio",
      name,
      value,
      checked: place === 0,
      onchange: () => onChange(value),
    });
    words.set(value, h("span", {}, sentence(value)));
    return h("label", {}, input, words.get(value));
  });
  const node = h("div.choices", { role: "radiogroup", "aria-label": label }, options);
  const choose = (value) => {
    for (const input of node.querySelectorAll("input")) input.checked = input.value === value;
  };
  return { node, choose, reword: (value, said) => text(words.get(value), said) };
}

const byId = (id) => document.getElementById(id);

/** Opens the dialog with these words, and resolves once it is closed to whether the user said yes. */
function open({ title, body, yes, danger = false }) {
  const dialog = byId("confirm");
  text(byId("confirm-title"), title);
  text(byId("confirm-text"), body);
  text(byId("confirm-yes"), yes);
  byId("confirm-yes").classList.toggle("danger", danger);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Asks before something is done. Resolves to whether the user said yes. */
export function ask(question) {
  show(byId("confirm-field"), false);
  byId("confirm-number").disabled = true;
  return open(question);
}

/** Asks for a whole number, or none. Resolves to `{ value }`, or to nothing when the user did not say yes. */
export async function askNumber(question) {
  const { label, value, min, max } = question.number;
  const input = byId("confirm-number");
  text(byId("confirm-label"), label);
  Object.assign(input, { disabled: false, min, max, value: value ?? "" });
  show(byId("confirm-field"), true);
  const answer = open(question);
  input.select();
  return (await answer) ? { value: input.value === "" ? null : Number(input.value) } : null;
}

const TOASTS_MAX = 3;
const TOAST_MS = 8_000;

/** Says something without moving the page. `kind` is `bad` for a failure. */
export function toast(words, kind = "") {
  const node = h("div.toast", {}, h("p", {}, words));
  if (kind) node.classList.add(kind);
  node.append(
    h(
      "button.quiet.square",
      { type: "button", "aria-label": "Dismiss", onclick: () => node.remove() },
      icon("close"),
    ),
  );
  const place = byId("toasts");
  place.append(node);
  while (place.children.length > TOASTS_MAX) place.firstElementChild.remove();
  setTimeout(() => node.remove(), TOAST_MS);
}

const SAY_EVERY_MS = 5_000;
let waiting = null;
let quietUntil = 0;

/** Tells screen readers, politely and at most every five seconds; of several waiting sentences the last one is said. */
export function announce(words) {
  const now = Date.now();
  const mustStart = waiting === null;
  waiting = words;
  if (mustStart) setTimeout(sayIt, Math.max(0, quietUntil - now));
}

function sayIt() {
  text(byId("announcer"), waiting);
  waiting = null;
  quietUntil = Date.now() + SAY_EVERY_MS;
}
