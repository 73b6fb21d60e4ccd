// From logits to a token, as `quill sample` chooses it: the same filters, and for a seed the same random numbers.

const MASK64 = (1n << 64n) - 1n;
const MASK128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const words = (number) => {
  const found = [Number(number & 0xffffffffn)];
  for (let rest = number >> 32n; rest; rest >>= 32n) found.push(Number(rest & 0xffffffffn));
  return found;
};

/** Return NumPy's SeedSequence(entropy).generate_state(8): 32-bit words that mix all bits of the entropy's words. */
function mixedWords(entropy) {
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return value ^ (value >>> 16);
  };
  const mix = (x, y) => {
    const value = Math.imul(x, 0xca01f9dd) - Math.imul(y, 0x4973f715);
    return value ^ (value >>> 16);
  };
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  for (const more of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hash(more));
  constant = 0x8b51f9dd;
  return Array.from({ length: 8 }, (_, i) => {
    let value = pool[i % 4] ^ constant;
    constant = Math.imul(constant, 0x58f38ded);
    value = Math.imul(value, constant);
    return (value ^ (value >>> 16)) >>> 0;
  });
}

/**
 * Yield the random numbers of a sample, in [0, 1) with 24 bits: NumPy's default_rng([seed, sample]).random(float32).
 *
 * That is PCG64 (O'Neill 2014). `seed` is a BigInt, because it may have 63 bits. Each draw of 64 bits gives two numbers,
 * the lower half first.
 */
export function* uniforms(seed, sample = 0) {
  const state32 = mixedWords([...words(seed), ...words(BigInt(sample))]);
  const [a, b, c, d] = [0, 2, 4, 6].map((i) => BigInt(state32[i]) | (BigInt(state32[i + 1]) << 32n));
  const increment = ((((c << 64n) | d) << 1n) | 1n) & MASK128;
  const step = (state) => (state * MULTIPLIER + increment) & MASK128;
  let state = step((increment + ((a << 64n) | b)) & MASK128);
  for (;;) {
    state = step(state);
    const folded = (state >> 64n) ^ (state & MASK64);
    const turn = state >> 122n;
    const drawn = ((folded >> turn) | (folded << (64n - turn))) & MASK64;
    for (const half of [drawn & 0xffffffffn, drawn >> 32n]) yield Number(half >> 8n) / 2 ** 24;
  }
}

/** Return the likeliest ids, highest first; of equal ones the lower id. */
export function likeliest(logits, count) {
  const least = count < logits.length ? logits.slice().sort()[logits.length - count] : -Infinity;
  const ids = [];
  logits.forEach((logit, id) => logit >= least && ids.push(id));
  return ids.sort((a, b) => logits[b] - logits[a] || a - b).slice(0, count);
}

const highestOf = (logits) => logits.reduce((most, logit) => Math.max(most, logit), -Infinity);

/** Return the natural logarithm of the sum of all tokens' e^logit. */
export function logSum(logits) {
  const highest = highestOf(logits);
  return highest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - highest), 0));
}

/** Choose a token by inverting the cumulative distribution of what the settings keep; `uniform` is in [0, 1). */
export function choose(logits, { temperature, top_k: topK, top_p: topP }, uniform) {
  if (temperature === 0) return logits.indexOf(highestOf(logits));
  const ids = likeliest(logits, topK || logits.length);
  const weights = ids.map((id) => Math.exp((logits[id] - logits[ids[0]]) / Math.max(temperature, 1e-30)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let kept = 0;
  let sum = 0; // of the weights that are kept
  while (kept < ids.length && (kept === 0 || topP === null || sum / total < topP)) sum += weights[kept++];
  let [chosen, before] = [0, weights[0]];
  while (chosen < kept - 1 && before <= uniform * sum) before += weights[++chosen];
  return ids[chosen];
}
