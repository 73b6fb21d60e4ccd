// What the model thought at a token: its probability, and alternatives to go on from. One card for the whole page.

import { count, h, percent } from "./dom.js";
import { bits, isText, spoken, visible } from "./tokens.js";

const ALTERNATIVES = 10;
const SHOW_MS = 90; // so that a pointer that passes by opens nothing
const HIDE_MS = 250; // so that it can move from the token to the card

export class Card {
  #element = h("div", { className: "card", role: "dialog", hidden: true, "aria-label": "Token" });
  #anchor = null;
  #isPinned = false;
  #timer = 0;
  #width = 0;

  constructor() {
    document.body.append(this.#element);
    this.#element.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    this.#element.addEventListener("pointerleave", () => this.leave());
    this.#element.addEventListener("keydown", (event) => this.#onKey(event));
    document.addEventListener("focusin", (event) => {
      if (!this.#element.contains(event.target) && event.target !== this.#anchor) this.hide();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!this.#element.contains(event.target) && event.target !== this.#anchor) this.hide();
    });
    // Its place depends on the width alone; the height of a phone's window changes as one scrolls.
    new ResizeObserver(([{ contentRect: { width } }]) => {
      if (width !== this.#width) this.hide();
      this.#width = width;
    }).observe(document.documentElement);
  }

  get isOpen() {
    return !this.#element.hidden;
  }

  /** Show the card soon, for a pointer that rests at a token. */
  hover(anchor, token, pick) {
    clearTimeout(this.#timer);
    if (!this.#isPinned) this.#timer = setTimeout(() => this.show(anchor, token, pick), SHOW_MS);
  }

  leave() {
    clearTimeout(this.#timer);
    if (!this.#isPinned) this.#timer = setTimeout(() => this.hide(), HIDE_MS);
  }

  /**
   * Show the card at a token.
   *
   * `pick` is called with an alternative and its logprob; a pinned card stays when the pointer leaves.
   */
  show(anchor, token, pick, { pinned = false } = {}) {
    clearTimeout(this.#timer);
    this.#anchor?.classList.remove("open");
    this.#anchor = anchor;
    this.#isPinned = pinned;
    anchor.classList.add("open");
    this.#element.replaceChildren(...this.#content(token, pick));
    this.#element.hidden = false;
    this.#place(anchor);
  }

  hide() {
    clearTimeout(this.#timer);
    this.#anchor?.classList.remove("open");
    this.#anchor = null;
    this.#isPinned = false;
    this.#element.hidden = true;
  }

  /** Move the focus into the card; it stays until it is closed. */
  enter() {
    this.#isPinned = true;
    this.#buttons()[0]?.focus();
  }

  #content(token, pick) {
    const known = token.logprob !== null;
    const line = known ? `${percent(Math.exp(token.logprob))} · ${bits(token.logprob).toFixed(1)} bits` : "nothing predicts it";
    const joint = token.size > 1 ? ` · ${token.size} tokens` : "";
    const head = h("p", { className: "what", role: "status" }, h("b", {}, visible(token.text)), h("span", {}, line + joint));
    const from = token.span && token.span.kind !== "new" ? [h("p", { className: "from" }, wherefrom(token.span))] : [];
    const others = (token.top ?? []).filter(([name]) => name !== token.text).slice(0, ALTERNATIVES);
    const list = h("ol", {}, ...others.map((other) => h("li", {}, this.#alternative(other, pick))));
    return [head, ...from, ...(others.length ? [list] : [])];
  }

  #alternative([name, logprob], pick) {
    const share = Math.exp(logprob);
    const bar = h("span", { className: "bar" });
    bar.style.width = `${100 * share}%`;
    return h("button", {
      type: "button",
      disabled: !isText(name),
      title: isText(name) ? "" : "no text of its own: a part of a letter, or a sign",
      "aria-label": `${spoken(name)}, ${percent(share)}`,
      onclick: () => pick(name, logprob),
    }, bar, h("span", { className: "name" }, visible(name)), h("span", { className: "share" }, percent(share)));
  }

  #buttons() {
    return [...this.#element.querySelectorAll("button:enabled")];
  }

  #onKey(event) {
    const buttons = this.#buttons();
    const at = buttons.indexOf(document.activeElement);
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) {
      event.preventDefault();
      buttons[(at + steps[event.key] + buttons.length) % buttons.length]?.focus();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      const anchor = this.#anchor;
      anchor?.focus();
      this.hide();
    } else if (event.key === "Tab") {
      this.#anchor?.focus(); // the browser moves on from there
    }
  }

  /** Below the token, or above it where there is more room. */
  #place(anchor) {
    const token = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
    const { width, height } = this.#element.getBoundingClientRect();
    const below = token.bottom + height < innerHeight || token.top < height;
    const left = Math.max(8, Math.min(token.left, document.documentElement.clientWidth - width - 8));
    this.#element.style.left = `${left + scrollX}px`;
    this.#element.style.top = `${(below ? token.bottom : token.top - height) + scrollY}px`;
  }
}

/** Say of a copied or close passage where it is in the training text. */
function wherefrom({ kind, source, line, occurrences, similarity }) {
  const often = occurrences > 1 ? `, ${count(occurrences)} times there` : "";
  return kind === "copied" ? `copied from ${source}:${line}${often}` : `${percent(similarity)} like ${source}:${line}`;
}
