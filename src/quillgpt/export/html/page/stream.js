// The text of ids as they come: pieces that end where a letter ends, held back while they may begin the stop text.

/** Collects the ids of one sample. A piece is {ids, text, ...what came with its first id}. */
export class TextStream {
  #waiting = []; // pieces that may belong to the stop text
  #open = null; // a piece whose last letter is not complete
  #text = ""; // of all pieces
  #given = 0; // characters that were returned

  constructor(tokenizer, stop) {
    this.decoder = tokenizer.decoder();
    this.stop = stop;
    this.ended = false;
  }

  /** Add an id, and return the pieces that have become certain; `ended` says that the stop text has come. */
  push(id, about) {
    const text = this.decoder.push(id);
    this.#open ??= { ids: [], text: "", ...about };
    this.#open.ids.push(id);
    this.#open.text += text;
    if (!text) return [];
    this.#close();
    return this.#certain(false);
  }

  /** Return all that is left. */
  end() {
    if (this.#open) {
      this.#open.text += this.decoder.end();
      this.#close();
    }
    return this.#certain(true);
  }

  #close() {
    this.#text += this.#open.text;
    this.#waiting.push(this.#open);
    this.#open = null;
  }

  #certain(isLast) {
    const found = this.stop ? this.#text.indexOf(this.stop) : -1;
    this.ended = found >= 0;
    const until = this.ended ? found : this.#text.length - (isLast ? 0 : overlap(this.#text, this.stop));
    const pieces = [];
    while (this.#waiting.length && this.#given < until) {
      const whole = this.#given + this.#waiting[0].text.length <= until;
      if (!whole && !this.ended) break;
      const piece = this.#waiting.shift();
      pieces.push(whole ? piece : { ...piece, text: piece.text.slice(0, until - this.#given) });
      this.#given += piece.text.length;
    }
    return pieces;
  }
}

/** Return the length of the longest end of a text with which the stop text begins. */
function overlap(text, stop) {
  for (let length = Math.min(stop.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length;
  }
  return 0;
}
