// The model's side of the page: a worker made of the page's own text, and questions to it.

import { $ } from "./dom.js";

/** The smallest module with a vector in it: a browser that finds it invalid lacks SIMD. */
const VECTOR = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

/** Return what the browser lacks, or null. */
export function missing() {
  if (!globalThis.WebAssembly?.validate(Uint8Array.from(VECTOR))) return "WebAssembly with SIMD";
  if (!globalThis.DecompressionStream) return "DecompressionStream";
  return globalThis.Worker ? null : "workers";
}

export class Engine {
  #asked = new Map(); // id -> {resolve, reject, onPiece}
  #next = 1;

  constructor() {
    this.#worker = new Worker(URL.createObjectURL(new Blob([$("worker").textContent], { type: "text/javascript" })));
    this.#worker.onmessage = ({ data: { id, piece, answer, error } }) => {
      const { resolve, reject, onPiece } = this.#asked.get(id);
      if (piece) return onPiece?.(piece);
      this.#asked.delete(id);
      if (error === undefined) resolve(answer);
      else reject(new Error(error));
    };
    this.#worker.onerror = (event) => this.#asked.forEach(({ reject }) => reject(new Error(event.message)));
  }

  #worker;

  ask(ask, what = {}, onPiece = null) {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#asked.set(id, { resolve, reject, onPiece });
      this.#worker.postMessage({ ...what, id, ask });
    });
  }
}
