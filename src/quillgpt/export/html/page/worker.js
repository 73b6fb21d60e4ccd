// The worker: holds model and tokenizer, and answers what the page asks, so that the page never waits for a token.
//
// The page sends {id, ask, ...}; answers are {id, answer} or {id, error}, and a text that is written comes piece by piece
// as {id, piece}.

import { Model } from "./model.js";
import { choose, likeliest, logSum, uniforms } from "./sampler.js";
import { TextStream } from "./stream.js";
import { decode, makeTokenizer, readPrompt } from "./tokenizer.js";
import { Memory, bytesOf, placeTensors, sizeOf, unzipped } from "./unpack.js";

const ALTERNATIVES = 11; // the token itself and ten others
const loaded = {}; // model, tokenizer, about
let loading = null; // what the page has sent so far, one after the other; at its end, whether nothing is missing
let placing = null; // where the next part of the weights goes
let writing = null; // the id of what is being written

const asks = {
  /** Begin to load a model; its weights come part by part, while the browser still reads the page. */
  load({ about, kernel }) {
    Object.assign(loaded, { about, tensors: {}, memory: new Memory(sizeOf(about.tensors)) });
    const imports = { page: { memory: loaded.memory.memory } };
    loaded.kernel = WebAssembly.instantiate(bytesOf(kernel), imports);
    loaded.tokenizer = makeTokenizer(about.tokenizer);
    placing = placeTensors(about.tensors, loaded.memory, loaded.tensors);
    loading = Promise.resolve(placing.next().done);
  },

  weights({ text, gzip }) {
    loading = loading.then(async () => placing.next(gzip ? await unzipped(bytesOf(text)) : bytesOf(text)).done);
    loading.catch(() => {}); // `ready` says what it is
  },

  /** Wait until the model can be used. */
  async ready() {
    if (!(await loading)) throw new Error("the file is not complete; copy or download it again");
    const { about, tensors, memory, kernel } = loaded;
    loaded.model = new Model(about.config, tensors, memory, (await kernel).instance.exports);
  },

  end: () => loaded.tokenizer.end,
  encode: ({ text }) => loaded.tokenizer.encode(text),
  decode: ({ ids }) => decode(loaded.tokenizer, ids),
  prompt: ({ text }) => readPrompt(loaded.tokenizer, text, loaded.about.end_of_text),
  logits: ({ ids }) => loaded.model.logits(ids, ids.length),
  uniforms: ({ seed, sample, count }) => Array.from(taken(uniforms(BigInt(seed), sample), count)),

  stop: () => void (writing = null),

  /**
   * Continue `prompt` (ids), of which `past` (ids) is written already; return {ids, ended}.
   *
   * Number i of the seed's random numbers chooses token i after the prompt, also where an alternative was taken before.
   */
  async write({ id, prompt, past, settings }) {
    const { model, tokenizer } = loaded;
    const stream = new TextStream(tokenizer, settings.stop);
    const numbers = uniforms(BigInt(settings.seed));
    for (const _ of taken(numbers, past.length));
    const ids = [...prompt, ...past];
    const drawn = [];
    const send = (pieces) => pieces.forEach((piece) => postMessage({ id, piece }));
    writing = id;
    let ended = "length";
    while (drawn.length < settings.max_new_tokens) {
      const [logits] = model.logits(ids.slice(windowStart(prompt.length, ids.length, loaded.about.config.block_size)));
      const token = choose(logits, settings, numbers.next().value);
      if (!Number.isFinite(logits[token])) throw new Error("the model's logits are NaN: a weight is NaN, or too large");
      if (token === tokenizer.end) {
        ended = "end_of_text";
        break;
      }
      ids.push(token);
      drawn.push(token);
      send(stream.push(token, thoughts(logits, token)));
      if (stream.ended) {
        ended = "stop";
        break;
      }
      await turn();
      if (writing !== id) {
        ended = "stopped";
        break;
      }
    }
    send(stream.end());
    return { ids: drawn, ended };
  },
};

/** Return the first id that the model sees: when the context is full, its last half is kept, as by `quill sample`. */
function windowStart(promptLength, length, blockSize) {
  let start = Math.max(0, promptLength - blockSize);
  for (let seen = promptLength; seen < length; ) {
    seen++;
    if (seen - start > blockSize) start = seen - Math.max(1, blockSize >> 1);
  }
  return start;
}

/** What the model thought at a token: its natural log-probability and that of the likeliest, as [name, logprob, id]. */
function thoughts(logits, token) {
  const total = logSum(logits);
  const top = likeliest(logits, ALTERNATIVES).map((other) => [nameOf(other), logits[other] - total, other]);
  return { logprob: logits[token] - total, top };
}

/** Return the text of a token, or a name for one that is no text of its own, such as half a letter. */
function nameOf(id) {
  const text = id === loaded.tokenizer.end ? "" : decode(loaded.tokenizer, [id]);
  return text && !text.includes("\ufffd") ? text : `<|token ${id}|>`;
}

function* taken(numbers, count) {
  for (let i = 0; i < count; i++) yield numbers.next().value;
}

/** Let messages of the page come in. A timer would wait for milliseconds. */
function turn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

onmessage = async ({ data }) => {
  try {
    postMessage({ id: data.id, answer: await asks[data.ask](data) });
  } catch (error) {
    postMessage({ id: data.id, error: error.message });
  }
};
