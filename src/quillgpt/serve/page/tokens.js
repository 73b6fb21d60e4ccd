// Tokens and the text that they make.
//
// A token is {text, logprob, top, prompt}: `top` has [text, logprob] of the likeliest at its place, or null. Once its text
// was traced, `span` is what it belongs to: {kind, source, line, occurrences, similarity}.

const NAMELESS = /^<\|token \d+\|>$/; // what the API calls a token that is no text of its own, such as half a letter

export const isText = (name) => !NAMELESS.test(name);

export const textOf = (tokens) => tokens.map((token) => token.text).join("");

export const bits = (logprob) => -logprob / Math.LN2;

const STEPS = [1, 3, 5, 8, 11];

/** Return the class of a token's surprise: s1 to s5, or none where it was expected or nothing predicts it. */
export function surprise(token) {
  const step = token.logprob === null ? 0 : STEPS.filter((least) => bits(token.logprob) >= least).length;
  return step ? `s${step}` : "";
}

/** Return the class of a token that is copied from the training text, or close to it. */
const origin = (token) => (token.span && token.span.kind !== "new" ? token.span.kind : "");

/** Classes of a token in the text. */
const MARKS = [surprise, origin, (token) => (token.prompt ? "prompt" : "")];

export const marks = (token) => ["t", ...MARKS.map((mark) => mark(token))].filter(Boolean).join(" ");

/**
 * Puts tokens and text together as both come. Usually a token is the next piece of the text. Several tokens of one
 * letter become one, with their joint probability and the alternatives of the first. Text may come after its tokens.
 */
export class Matcher {
  #waiting = [];
  #text = "";

  constructor(prompt) {
    this.prompt = prompt;
  }

  /** Take what a choice of an answer adds, and return the tokens that are certain now. */
  add(choice) {
    const { tokens = [], token_logprobs: logprobs = [], top_logprobs: tops } = choice.logprobs ?? {};
    tokens.forEach((name, i) => this.#waiting.push({ name, logprob: logprobs[i], top: sorted(tops?.[i]) }));
    this.#text += choice.text;
    const found = [];
    while (this.#waiting.length && this.#text) {
      const fits = this.#next(Boolean(choice.finish_reason));
      if (!fits) break;
      found.push(this.#take(...fits));
    }
    if (choice.finish_reason && this.#text) found.push(this.#take(this.#waiting.length, this.#text.length));
    return found.filter((token) => token.text);
  }

  /** Return how many tokens make how many characters; null: wait for more. */
  #next(isLast) {
    const first = this.#waiting[0].name;
    if (isText(first)) {
      // Some tokenizers leave out the space before a token that stands alone.
      for (const form of [first, ` ${first}`]) if (this.#text.startsWith(form)) return [1, form.length];
      if (!isLast && first.startsWith(this.#text)) return null; // part of it is held back
    }
    for (let n = 1; n < this.#waiting.length; n++) {
      const { name } = this.#waiting[n];
      // A token with a name that is not in the text, such as the end of a text, has no character.
      const end = isText(name) ? this.#text.indexOf(name, isText(first) ? 0 : 1) : -1;
      if (end >= 0) return [n, end];
    }
    return isText(first) ? null : [this.#waiting.length, this.#text.length];
  }

  #take(tokens, characters) {
    const parts = this.#waiting.splice(0, tokens);
    const text = this.#text.slice(0, characters);
    this.#text = this.#text.slice(characters);
    const known = parts.filter((part) => part.logprob !== null && part.logprob !== undefined);
    const logprob = known.length ? known.reduce((sum, part) => sum + part.logprob, 0) : null;
    return { text, logprob, top: parts[0]?.top ?? null, prompt: this.prompt, size: tokens };
  }
}

/** An object's order is not that of its likelihoods: keys that look like numbers come first. */
const sorted = (top) => (top ? Object.entries(top).sort((a, b) => b[1] - a[1]) : null);

/** Make spaces and line breaks visible. */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");

export const spoken = (text) => text.replaceAll("\n", " line break ").trim() || (text.includes(" ") ? "space" : text);

/** Give each token the span of a traced text in which its middle lies; spans count characters, as Python does. */
export function assign(spans, tokens) {
  let at = 0;
  let reached = 0;
  for (const token of tokens) {
    const size = [...token.text].length;
    const middle = reached + size / 2;
    while (at < spans.length - 1 && spans[at].end <= middle) at += 1;
    token.span = spans[at] ?? null;
    reached += size;
  }
}
