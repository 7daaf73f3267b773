// Asks for a token when there is none or it is no longer accepted.

import { h, text } from "../dom.js";

export class SignIn {
  /** `onToken(token)` is called with what the user pasted. */
  constructor(onToken) {
    this.token = h("input", {
      id: "token",
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      "aria-describedby": "token-why",
    });
    this.why = h("p.fault", { id: "token-why", role: "alert" });
    const form = h(
      "form",
      {},
      h("div.field", {}, h("label", { for: "token" }, "Token"), this.token),
      this.why,
      h("button.primary", { type: "submit" }, "Sign in"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = this.token.value.trim();
      if (token === "") return;
      this.token.value = "";
      onToken(token);
    });
    const how = h(
      "p.muted",
      {},
      "Paste a bearer token. It stays in this tab and is forgotten when the tab is closed. For development, ",
      h("code", {}, "milepost token"),
      " makes one.",
    );
    this.node = h(
      "section.card.sign-in",
      { "aria-label": "Sign in", hidden: true },
      h("h1", {}, "Sign in"),
      how,
      form,
    );
  }

  open(why) {
    this.node.hidden = false;
    text(this.why, why);
    this.token.focus();
  }

  close() {
    this.node.hidden = true;
  }
}
