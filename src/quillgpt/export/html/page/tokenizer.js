// Text to ids and back: the tokenizers that Quill makes itself. `{kind, tokens, end, ...}` describes one.
//
// Every tokenizer has end (the id that ends a text, or null), encode(text), encodePrompt(text), and decoder(), whose
// push(id) returns the text that has become certain and whose end() returns the rest.

const END_OF_TEXT = "<|endoftext|>";
const START_OF_TEXT = "<|startoftext|>";

/** The words of GPT-2. White space is Unicode's, as in tiktoken; JavaScript's \s also has U+FEFF and lacks U+0085. */
const WORDS = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}/gu;

const LOOK_ALIKES = ["'\u2019\u2018\u02bc\u00b4`", '"\u201c\u201d\u201e\u00ab\u00bb', "-\u2010\u2011\u2012\u2013\u2014\u2212"];
const FORMS = ["NFC", "NFD", "NFKC", "NFKD"];

export function makeTokenizer(described) {
  return described.kind === "char" ? new CharTokenizer(described) : new ByteLevelTokenizer(described);
}

export function decode(tokenizer, ids) {
  const decoder = tokenizer.decoder();
  return ids.map((id) => decoder.push(id)).join("") + decoder.end();
}

const spelled = (text) => `${text} (${Array.from(text, (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`).join(" ")})`;

/** One id for each character of the training text. */
class CharTokenizer {
  end = null;

  constructor({ tokens }) {
    this.tokens = tokens;
    this.ids = new Map(tokens.map((character, id) => [character, id]));
  }

  encode(text) {
    return Array.from(text, (character) => {
      const id = this.ids.get(character);
      if (id !== undefined) return id;
      throw new Error(`the model does not know the character ${spelled(character)}; it knows only those of its training text`);
    });
  }

  /** Encode a prompt, each character in the form that the training text has. */
  encodePrompt(text) {
    const known = (form) => form && Array.from(form).every((character) => this.ids.has(character));
    const forms = (cluster) => [
      cluster,
      ...FORMS.map((form) => cluster.normalize(form)),
      ...LOOK_ALIKES.filter((group) => group.includes(cluster)).flatMap((group) => [...group]),
    ];
    return this.encode(clusters(text).map((cluster) => forms(cluster).find(known) ?? cluster).join(""));
  }

  decoder() {
    return { push: (id) => this.tokens[id], end: () => "" };
  }
}

/** Return every character with its accents, and Korean syllables whole. */
function clusters(text) {
  const found = [];
  for (const character of text) {
    const joins = combines(character) || (character >= "\u1160" && character <= "\u11ff");
    if (joins && found.length) found[found.length - 1] += character;
    else found.push(character);
  }
  return found;
}

/** Whether a character has a combining class: then it moves before U+0345, whose class is the highest, or is it. */
function combines(character) {
  return character === "\u0345" || `a\u0345${character}`.normalize("NFD")[1] !== "\u0345";
}

/** Bytes, and tokens of several bytes that neighbours are merged into: `byte`, `gpt2` and `bpe:N`. */
class ByteLevelTokenizer {
  constructor({ tokens, end, words }) {
    this.end = end;
    this.words = words; // whether merges stay within words; without merges there is no need to find words
    this.spelling = printableBytes();
    const byteOf = new Map(this.spelling.map((character, byte) => [character, byte]));
    this.bytes = tokens.map((token, id) => (id === end ? null : Uint8Array.from(token, (character) => byteOf.get(character))));
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.ids.delete(tokens[end]);
  }

  encode(text) {
    const whole = new TextDecoder("utf-8", { ignoreBOM: true }).decode(new TextEncoder().encode(text)); // no half pairs
    return (this.words ? (whole.match(WORDS) ?? []) : Array.from(whole)).flatMap((word) => this.#encodeWord(word));
  }

  encodePrompt(text) {
    return text.split(END_OF_TEXT).flatMap((part, i) => (i ? [this.end, ...this.encode(part)] : this.encode(part)));
  }

  /** Merge the neighbours whose joined bytes have the lowest id, the leftmost first, until none can be merged. */
  #encodeWord(word) {
    const parts = Array.from(new TextEncoder().encode(word), (byte) => this.spelling[byte]);
    const whole = this.ids.get(parts.join(""));
    if (whole !== undefined) return [whole];
    const joined = (i) => this.ids.get(parts[i] + parts[i + 1]) ?? Infinity;
    const ranks = parts.map((_, i) => (i < parts.length - 1 ? joined(i) : Infinity));
    for (;;) {
      let best = 0;
      for (let i = 1; i < ranks.length; i++) if (ranks[i] < ranks[best]) best = i;
      if (ranks[best] === Infinity) return parts.map((part) => this.ids.get(part));
      parts.splice(best, 2, parts[best] + parts[best + 1]);
      ranks.splice(best, 1);
      if (best > 0) ranks[best - 1] = joined(best - 1);
      ranks[best] = best < parts.length - 1 ? joined(best) : Infinity;
    }
  }

  /** A letter comes when all of its bytes have come; bytes that are no letter become U+FFFD. */
  decoder() {
    const text = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (id) => (id === this.end ? text.decode() + END_OF_TEXT : text.decode(this.bytes[id], { stream: true })),
      end: () => text.decode(),
    };
  }
}

/** Return the visible character that GPT-2's files write for each byte. */
function printableBytes() {
  const isPrintable = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

/**
 * Return the ids of a prompt as `quill sample` reads it, and what was changed: {ids, note}.
 *
 * `endOfText` says what the model knows of one: `starts` (its documents start with it), `never` (it never saw one), or
 * null (neither is known).
 */
export function readPrompt(tokenizer, text, endOfText) {
  let note = "";
  const isText = (word) => {
    try {
      return tokenizer.end === null && tokenizer.encodePrompt(word).length > 0;
    } catch {
      return false;
    }
  };
  if (endOfText === "never" && text.includes(END_OF_TEXT) && !isText(END_OF_TEXT)) {
    note = `This model never learned an end of text, so ${END_OF_TEXT} is left out of the prompt.`;
    text = text.replaceAll(END_OF_TEXT, "");
  } else if (endOfText === "starts" && text.includes(START_OF_TEXT)) {
    note = `${START_OF_TEXT} in the prompt is read as ${END_OF_TEXT}, after which this model begins a document.`;
    text = text.replaceAll(START_OF_TEXT, END_OF_TEXT);
  }
  text = text.replace(/^\ufeff+/, "").replaceAll("\r\n", "\n").replaceAll("\r", "\n");
  if (text) return { ids: tokenizer.encodePrompt(text), text, note };
  if (endOfText === "starts" && tokenizer.end !== null) return { ids: [tokenizer.end], text: "", note };
  try {
    return { ids: tokenizer.encodePrompt("\n"), text: "\n", note };
  } catch {
    return { ids: [0], text: decode(tokenizer, [0]), note };
  }
}
