// The model: one token at a time, with a key-value cache. Both architectures, by the names of Quill's own weights.
//
// C width of the model, D of a head, H query heads, G key and value heads, M hidden width of the MLP. All vectors lie
// in the kernel's memory; `f` is that memory as float32, and names of vectors are indices in it. A vector that the
// kernel multiplies with has room for a multiple of 32 numbers, of which the last ones stay 0.

import { GROUP } from "./unpack.js";

const FIRST_CAPACITY = 256; // positions of the cache at first; it doubles when it is full

export const padded = (count) => Math.ceil(count / GROUP) * GROUP;

export class Model {
  #held = []; // the ids whose keys and values are cached
  #capacity = 0;
  #keys = []; // for each layer and head: index of (capacity, padded D)
  #values = []; // index of (D, capacity)

  constructor(config, tensors, memory, kernel) {
    Object.assign(this, { config, tensors, memory, kernel });
    const { n_embd: C, n_head: H, n_kv_head: G, head_dim: D, mlp_dim: M } = config;
    const vector = (count) => memory.takeFloats(padded(count));
    this.x = vector(C);
    this.normed = vector(C);
    this.added = vector(C);
    this.qkv = vector((H + 2 * G) * D);
    this.query = vector(D);
    this.mixed = vector(H * D);
    this.hidden = vector(config.mlp === "swiglu" ? 2 * M : M);
    this.activated = vector(M);
    this.logitsAt = vector(tensors["token_embedding.weight"].rows);
    this.frequencies = Float32Array.from({ length: D / 2 }, (_, i) => config.rope_theta ** -Math.fround((2 * i) / D));
    this.#reserve(Math.min(config.block_size, FIRST_CAPACITY));
  }

  /**
   * Return the logits after each of the last ids, (V,) each, or after the last one only.
   *
   * What the cache has of these ids is not computed again. A token's result does not depend on where the cache began.
   */
  logits(ids, count = 1) {
    let known = 0;
    while (known < ids.length - count && this.#held[known] === ids[known]) known++;
    this.#held.length = Math.min(known, this.#held.length);
    const all = [];
    for (let at = known; at < ids.length; at++) {
      this.#step(ids[at], at);
      this.#held.push(ids[at]);
      if (at >= ids.length - count) all.push(this.#predict());
    }
    return all;
  }

  /** Make room for more positions: keys and values move to where the memory ends. */
  #reserve(positions) {
    const { n_layer, n_kv_head: G, head_dim: D, block_size } = this.config;
    const capacity = padded(Math.min(block_size, positions));
    const [keys, values, width] = [[], [], padded(D)];
    for (let head = 0; head < n_layer * G; head++) {
      keys.push(this.memory.takeFloats(capacity * width));
      values.push(this.memory.takeFloats(capacity * D));
    }
    const scores = this.memory.takeFloats(capacity);
    const f = this.memory.floats;
    for (let head = 0; this.#capacity && head < n_layer * G; head++) {
      f.copyWithin(keys[head], this.#keys[head], this.#keys[head] + this.#capacity * width);
      for (let d = 0; d < D; d++) {
        const row = this.#values[head] + d * this.#capacity;
        f.copyWithin(values[head] + d * capacity, row, row + this.#capacity);
      }
    }
    [this.#keys, this.#values, this.#capacity, this.scores] = [keys, values, capacity, scores];
  }

  /** Compute a token at a position, whose keys and values then are cached; the result is the residual stream. */
  #step(id, position) {
    if (position >= this.#capacity) this.#reserve(2 * this.#capacity);
    const { config, tensors } = this;
    const f = this.memory.floats;
    this.#embed(id);
    const places = tensors["position_embedding.weight"];
    if (places) {
      const row = places.address / 4 + position * places.columns;
      for (let i = 0; i < config.n_embd; i++) f[this.x + i] += f[row + i];
    }
    for (let layer = 0; layer < config.n_layer; layer++) {
      const name = `blocks.${layer}.`;
      this.#norm(`${name}attention_norm`, this.x, this.normed, config.n_embd);
      this.#attend(layer, name, position);
      this.#add();
      this.#norm(`${name}mlp_norm`, this.x, this.normed, config.n_embd);
      this.#think(name);
      this.#add();
    }
  }

  #predict() {
    const { tensors, config } = this;
    this.#norm("final_norm", this.x, this.normed, config.n_embd);
    const head = tensors["head.weight"] ? "head" : "token_embedding";
    this.#multiply(head, this.normed, this.logitsAt);
    return this.memory.floats.slice(this.logitsAt, this.logitsAt + tensors[`${head}.weight`].rows);
  }

  /** Read a row of the token embedding into the residual stream. */
  #embed(id) {
    const { address, columns, scales } = this.tensors["token_embedding.weight"];
    const f = this.memory.floats;
    if (!scales) {
      f.copyWithin(this.x, address / 4 + id * columns, address / 4 + (id + 1) * columns);
      return;
    }
    const row = new Int8Array(this.memory.memory.buffer, address + id * columns, columns);
    const scale = (scales + (4 * id * columns) / GROUP) / 4;
    for (let i = 0; i < columns; i++) f[this.x + i] = row[i] * f[scale + Math.floor(i / GROUP)];
  }

  /** to = weight @ from + bias. */
  #multiply(name, from, to) {
    const { rows, columns, address, scales } = this.tensors[`${name}.weight`];
    if (scales) this.kernel.q8_rows(address, scales, 4 * from, 4 * columns, 4 * to, rows);
    else this.kernel.f32_rows(address, 4 * columns, 4 * from, 4 * columns, 4 * to, rows);
    const bias = this.tensors[`${name}.bias`];
    const f = this.memory.floats;
    if (bias) for (let i = 0; i < rows; i++) f[to + i] += f[bias.address / 4 + i];
  }

  /** LayerNorm or RMSNorm; an RMSNorm's mean is 0 by definition. */
  #norm(name, from, to, width) {
    const f = this.memory.floats;
    const weight = this.tensors[`${name}.weight`].address / 4;
    const bias = this.tensors[`${name}.bias`]?.address / 4;
    let [mean, variance] = [0, 0];
    if (this.config.norm === "layer") {
      for (let i = 0; i < width; i++) mean += f[from + i];
      mean /= width;
    }
    for (let i = 0; i < width; i++) variance += (f[from + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / width + this.config.norm_eps);
    for (let i = 0; i < width; i++) f[to + i] = (f[from + i] - mean) * scale * f[weight + i] + (bias ? f[bias + i] : 0);
  }

  #add() {
    const f = this.memory.floats;
    for (let i = 0; i < this.config.n_embd; i++) f[this.x + i] += f[this.added + i];
  }

  #attend(layer, name, position) {
    const { n_head: H, n_kv_head: G, head_dim: D, qk_norm } = this.config;
    const f = this.memory.floats;
    const [capacity, width, seen] = [this.#capacity, padded(D), padded(position + 1)];
    this.#multiply(`${name}attention.qkv`, this.normed, this.qkv);
    for (let head = 0; head < H + G; head++) {
      const at = this.qkv + head * D;
      if (qk_norm) this.#norm(`${name}attention.${head < H ? "query" : "key"}_norm`, at, at, D);
      if (this.config.positions === "rotary") this.#rotate(at, position);
    }
    for (let head = 0; head < G; head++) {
      const [key, value] = [this.qkv + (H + head) * D, this.qkv + (H + G + head) * D];
      const [keys, values] = [this.#keys[layer * G + head], this.#values[layer * G + head]];
      f.copyWithin(keys + position * width, key, key + D);
      for (let d = 0; d < D; d++) f[values + d * capacity + position] = f[value + d];
    }
    const scale = 1 / Math.sqrt(D);
    for (let head = 0; head < H; head++) {
      const group = layer * G + Math.floor((head * G) / H);
      for (let d = 0; d < D; d++) f[this.query + d] = f[this.qkv + head * D + d] * scale;
      this.kernel.f32_rows(4 * this.#keys[group], 4 * width, 4 * this.query, 4 * width, 4 * this.scores, position + 1);
      softmax(f, this.scores, position + 1);
      f.fill(0, this.scores + position + 1, this.scores + seen);
      this.kernel.f32_rows(4 * this.#values[group], 4 * capacity, 4 * this.scores, 4 * seen, 4 * (this.mixed + head * D), D);
    }
    this.#multiply(`${name}attention.output`, this.mixed, this.added);
  }

  /** Turn each pair (i, i + D/2) by its position's angle, rounded as Quill's tables are. */
  #rotate(at, position) {
    const f = this.memory.floats;
    const half = this.frequencies.length;
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * this.frequencies[i]);
      const [cosine, sine, first, second] = [Math.cos(angle), Math.sin(angle), f[at + i], f[at + half + i]];
      f[at + i] = first * cosine - second * sine;
      f[at + half + i] = second * cosine + first * sine;
    }
  }

  #think(name) {
    const { mlp, activation, mlp_dim: M } = this.config;
    const f = this.memory.floats;
    const [hidden, activated] = [this.hidden, this.activated];
    if (mlp === "swiglu") {
      this.#multiply(`${name}mlp.gate_up`, this.normed, hidden);
      for (let i = 0; i < M; i++) f[activated + i] = (f[hidden + i] / (1 + Math.exp(-f[hidden + i]))) * f[hidden + M + i];
    } else {
      const gelu = activation === "gelu" ? geluByErf : geluByTanh;
      this.#multiply(`${name}mlp.up`, this.normed, hidden);
      for (let i = 0; i < M; i++) f[activated + i] = gelu(f[hidden + i]);
    }
    this.#multiply(`${name}mlp.down`, activated, this.added);
  }
}

function softmax(f, at, count) {
  let [highest, total] = [-Infinity, 0];
  for (let i = 0; i < count; i++) highest = Math.max(highest, f[at + i]);
  for (let i = 0; i < count; i++) total += f[at + i] = Math.exp(f[at + i] - highest);
  for (let i = 0; i < count; i++) f[at + i] /= total;
}

const geluByTanh = (x) => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

const geluByErf = (x) => (x * (1 + erf(x / Math.SQRT2))) / 2;

/** The error function by Abramowitz and Stegun 7.1.26: its error is below 1.5e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}
