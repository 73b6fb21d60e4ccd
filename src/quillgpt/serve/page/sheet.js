// One model's column: its text, token by token, and the tree of what it has written.

import { complete, stream, trace } from "./api.js";
import { count, h } from "./dom.js";
import { assign, bits, marks, Matcher, textOf } from "./tokens.js";
import { label, Tree } from "./tree.js";

const TOP = 11; // the token itself and ten others
const MOST_TRIES = 5;
const STORE = "quill-tree-"; // before the name of the model
const PAGE = 20; // tokens that PageUp and PageDown pass

/** Return the end of a text and a number of tokens that fit into the context; it is halved as by `quill sample`. */
export function fit(text, tokens, wanted, context) {
  const room = context - tokens;
  if (room >= Math.min(wanted, context / 4)) return { prompt: text, max_tokens: Math.min(wanted, room) };
  const end = text.slice(-Math.max(1, Math.floor((text.length * context) / 2 / tokens)));
  const whole = end.replace(/^[\uDC00-\uDFFF]/, ""); // no half of a pair
  return { prompt: whole, max_tokens: Math.min(wanted, Math.floor(context / 2)) };
}

export class Sheet {
  #tree = new Tree();
  #stopper = null;
  #shown = []; // the tokens on the page
  #at = 0; // the token that Tab leads to
  #growing = []; // the nodes that are written now
  current = null;

  /**
   * `page` has what all sheets share: card, settings(), remember(sheet, node) before a change that can be undone,
   * changed() when writing begins or ends, traces() whether copies are marked, edit(text), problem(message).
   */
  constructor(model, page) {
    this.model = model;
    this.page = page;
    this.text = h("div", { className: "text", role: "group", "aria-label": `Text of ${model.id}` });
    this.status = h("p", { className: "status", role: "status" });
    this.found = h("p", { className: "trace", role: "status", hidden: true });
    const more = h("button", { type: "button", onclick: () => this.#goOn() }, "Go on");
    const edit = h("button", { type: "button", onclick: () => page.edit(textOf(this.#shown)) }, "Edit as text");
    this.actions = h("div", { className: "actions", hidden: true }, more, edit);
    this.list = h("ul", { className: "tree" });
    this.summary = h("summary", {}, "Branches");
    this.branches = h("details", { hidden: true }, this.summary, this.list);
    const about = `${count(model.x_parameters)} parameters, context of ${count(model.x_context)} tokens`;
    this.element = h("section", { className: "sheet", "aria-label": model.id },
      h("header", {}, h("h2", {}, model.id), h("p", { className: "muted" }, about)),
      this.text, this.status, this.found, this.actions, this.branches);
    this.#listen();
    this.#restore();
  }

  get isWriting() {
    return this.#stopper !== null;
  }

  stop() {
    this.#stopper?.abort();
  }

  /** Continue a prompt. One that was continued before keeps its colours and gets another branch. */
  write(prompt, asked) {
    return this.#work(async (signal) => {
      let root = this.#tree.roots.find((node) => node.prompt === prompt);
      if (!root) {
        const tokens = await this.#score(prompt, asked, signal);
        root = Object.assign(this.#tree.add(null, 0, tokens), { prompt });
        root.note = aboutPrompt(tokens);
      }
      this.page.remember(this);
      this.goTo(root);
      if (asked.max_tokens) await this.#grow(root, root.own.length, null, asked, signal);
    });
  }

  #goOn() {
    const [node, asked] = [this.current, this.page.settings()];
    if (!asked) return;
    this.#work(async (signal) => {
      this.page.remember(this);
      await this.#grow(node, this.#tree.tokens(node).length, null, asked, signal);
    });
  }

  /** Go on from an alternative to a token. */
  #pick(index, name, logprob) {
    const asked = this.page.settings();
    if (!asked) return;
    const first = { text: name, logprob, top: this.#shown[index].top, prompt: false, size: 1 };
    const writing = this.#work(async (signal) => {
      this.page.remember(this);
      await this.#grow(this.#tree.origin(this.current, index), index, first, asked, signal);
    });
    this.#focus(index);
    this.page.card.hide();
    return writing;
  }

  /** Show a node. */
  goTo(node) {
    this.current = node;
    this.#shown = [];
    this.#at = 0;
    this.text.replaceChildren();
    this.#append(node ? this.#tree.tokens(node) : []);
    this.#note(node?.note ?? "");
    this.#showWriting();
    this.actions.hidden = !node;
    this.#list();
    this.#keep();
    this.trace();
  }

  /** Keep the tree until the tab is closed, so that loading the page again loses nothing. */
  #keep() {
    if (this.isWriting) return;
    const nodes = [...this.#tree.walk()].map(([, node]) => node);
    try {
      sessionStorage.setItem(STORE + this.model.id, JSON.stringify([this.#tree.pack(), nodes.indexOf(this.current)]));
    } catch {
      sessionStorage.removeItem(STORE + this.model.id); // more than a browser keeps: about 10,000 tokens
    }
  }

  #restore() {
    const kept = sessionStorage.getItem(STORE + this.model.id);
    if (!kept) return;
    const [packed, at] = JSON.parse(kept);
    const nodes = this.#tree.unpack(packed);
    this.goTo(nodes[at] ?? null);
  }

  /** Mark what the shown text has from the training text, as soon as nothing is written, or take the marks away. */
  async trace() {
    const node = this.current;
    this.#mark(null);
    if (!node || !this.page.traces() || this.#growing.includes(node)) return;
    const written = textOf(this.#written());
    if (!written) return;
    try {
      node.trace ??= await trace(this.model.id, written);
    } catch (error) {
      this.page.problem(`${this.model.id}: ${error.message}`);
      return;
    }
    if (node === this.current && this.page.traces()) this.#mark(node.trace);
  }

  #written() {
    return this.#shown.filter((token) => !token.prompt);
  }

  #mark(found) {
    assign(found?.spans ?? [], this.#written());
    this.#shown.forEach((token, i) => {
      const { classList } = this.text.children[i];
      for (const kind of ["copied", "close"]) classList.toggle(kind, token.span?.kind === kind);
    });
    this.found.textContent = found?.sentence ?? "";
    this.found.hidden = !found;
  }

  async #work(work) {
    this.stop();
    const stopper = (this.#stopper = new AbortController());
    this.page.changed();
    try {
      await work(stopper.signal);
    } catch (error) {
      if (!stopper.signal.aborted) this.page.problem(`${this.model.id}: ${error.message}`);
    }
    if (this.#stopper !== stopper) return; // the next work has begun
    this.#stopper = null;
    this.#growing = [];
    this.#showWriting();
    this.#note(this.current?.note ?? "");
    this.#list();
    this.#keep();
    this.page.changed();
    this.trace();
  }

  /** Return a prompt's tokens, each with what the model thinks of it. */
  async #score(prompt, { model: _, ...asked }, signal) {
    this.#note("Reading the text …");
    const { answer, cut } = await this.#fitted(complete, prompt, 0, { ...asked, max_tokens: 0, n: 1, echo: true }, signal);
    const tokens = new Matcher(true).add(answer.choices[0]);
    return cut ? [{ text: prompt.slice(0, cut), logprob: null, top: null, prompt: true, size: 1 }, ...tokens] : tokens;
  }

  /** Write branches, one for each sample; the first is shown. */
  async #grow(parent, keep, first, asked, signal) {
    const before = [...this.#tree.tokens(parent).slice(0, keep), ...(first ? [first] : [])];
    const nodes = Array.from({ length: asked.n ?? 1 }, () => this.#tree.add(parent, keep, first ? [first] : []));
    this.#growing = nodes;
    nodes.forEach((node) => (node.note = "Writing …"));
    this.goTo(nodes[0]);
    const matchers = nodes.map(() => new Matcher(false));
    const size = before.reduce((sum, token) => sum + token.size, 0);
    const all = { began: performance.now(), tokens: 0, seed: null, cut: 0 };
    const each = nodes.map(() => ({ tokens: 0, end: "stopped" }));
    try {
      const { answer, cut } = await this.#fitted(stream, textOf(before), size, { ...asked, max_tokens: asked.max_tokens || 1 }, signal);
      all.cut = cut;
      for await (const event of answer) {
        all.seed = event.x_seed;
        for (const choice of event.choices) {
          const node = nodes[choice.index];
          const tokens = matchers[choice.index].add(choice);
          const number = choice.logprobs?.tokens.length ?? 0;
          all.tokens += number;
          each[choice.index].tokens += number;
          each[choice.index].end = choice.finish_reason ?? "stopped";
          node.own.push(...tokens);
          if (node === this.current) this.#append(tokens);
        }
      }
    } finally {
      nodes.forEach((node, i) => (node.note = aboutWriting(all, each[i], nodes.length > 1 ? `, sample ${i + 1}` : "")));
    }
  }

  /** Ask with as much of the text as fits; `cut` is the number of characters that the model does not read. */
  async #fitted(call, text, tokens, asked, signal) {
    let rest = text;
    for (let tries = 0; ; tries++) {
      const fitting = fit(rest, tokens, asked.max_tokens, this.model.x_context);
      try {
        const answer = await call({ ...asked, ...fitting, model: this.model.id, logprobs: TOP }, signal);
        return { answer, cut: text.length - fitting.prompt.length };
      } catch (error) {
        // Only the server knows how many tokens a text has; it says so when there are too many.
        const [, size] = /the prompt has (\d+) and max_tokens/.exec(error.message) ?? [];
        if (!size || tries === MOST_TRIES) throw error;
        [rest, tokens] = [fitting.prompt, Number(size)];
      }
    }
  }

  #append(tokens) {
    const spans = tokens.map((token, i) => {
      const span = h("span", { className: marks(token), tabIndex: this.#shown.length + i === this.#at ? 0 : -1 }, token.text);
      span.dataset.at = this.#shown.length + i;
      return span;
    });
    this.#shown.push(...tokens);
    this.text.append(...spans);
  }

  #showWriting() {
    const isWritten = this.isWriting && this.#growing.includes(this.current);
    this.text.setAttribute("aria-busy", String(isWritten));
  }

  #note(text) {
    this.status.textContent = text;
  }

  #list() {
    const hadFocus = this.list.contains(document.activeElement);
    this.branches.hidden = this.#tree.size < 2;
    this.summary.textContent = `Branches (${this.#tree.size})`;
    this.list.replaceChildren(...[...this.#tree.walk()].map(([depth, node]) => {
      const visit = () => {
        this.page.remember(this);
        this.goTo(node);
      };
      const isCurrent = node === this.current;
      const button = h("button", { type: "button", onclick: visit, "aria-current": String(isCurrent) }, label(node));
      return h("li", { className: `d${Math.min(depth, 6)}` }, button);
    }));
    if (hadFocus) this.list.querySelector("[aria-current=true]")?.focus();
  }

  #listen() {
    const indexOf = (event) => event.target.dataset?.at && Number(event.target.dataset.at);
    const show = (index, how) => how(this.text.children[index], this.#shown[index], (...other) => this.#pick(index, ...other));
    const { card } = this.page;
    const on = (name, act) => this.text.addEventListener(name, (event) => indexOf(event) !== undefined && act(indexOf(event), event));
    on("pointerover", (index, event) => event.pointerType === "mouse" && show(index, (...what) => card.hover(...what)));
    on("pointerout", (_, event) => event.pointerType === "mouse" && card.leave());
    on("click", (index) => show(index, (...what) => card.show(...what, { pinned: true })));
    on("focusin", (index, event) => {
      this.#rove(index);
      if (event.target.matches(":focus-visible")) show(index, (...what) => card.show(...what));
    });
    on("keydown", (index, event) => {
      const last = this.#shown.length - 1;
      const moves = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last, PageDown: index + PAGE, PageUp: index - PAGE };
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key in moves) this.#focus(Math.max(0, Math.min(last, moves[event.key])));
      else if (["ArrowDown", "Enter", " "].includes(event.key)) {
        show(index, (...what) => card.show(...what, { pinned: true }));
        card.enter();
      } else return;
      event.preventDefault();
    });
  }

  #rove(index) {
    const spans = this.text.children;
    if (spans[this.#at]) spans[this.#at].tabIndex = -1;
    this.#at = index;
    spans[index].tabIndex = 0;
  }

  #focus(index) {
    this.text.children[index]?.focus();
  }
}

function aboutPrompt(tokens) {
  const known = tokens.filter((token) => token.logprob !== null);
  const mean = known.reduce((sum, token) => sum + bits(token.logprob), 0) / known.length;
  const size = tokens.reduce((sum, token) => sum + token.size, 0);
  return `${count(size)} tokens` + (known.length ? `, ${mean.toFixed(1)} bits of surprise each` : "");
}

const ENDS = { stop: "ended by itself or at a stop text", length: "", stopped: "stopped" };

function aboutWriting({ began, tokens: together, seed, cut }, { tokens, end }, sample) {
  const rate = (1000 * together) / (performance.now() - began);
  const parts = [`${count(tokens)} tokens, ${count(rate)} a second`];
  if (seed !== null) parts.push(`seed ${seed}${sample}`);
  if (cut) parts.push(`read without its first ${count(cut)} characters, which exceed the context`);
  if (ENDS[end]) parts.push(ENDS[end]);
  return parts.join(" · ");
}
