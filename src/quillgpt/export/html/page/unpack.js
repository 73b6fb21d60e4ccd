// From the text in the page to the bytes of the weights, and from these to tensors in the kernel's memory.

const PAGE = 65536; // bytes of a page of WebAssembly's memory
export const GROUP = 32; // columns of a row are a multiple of this; with q8_0 they share a scale

/** Return the bytes that base64 spells. */
export function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const characters = atob(base64);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

/** Return the bytes of a gzip file. */
export async function unzipped(bytes) {
  const { readable, writable } = new DecompressionStream("gzip");
  const writer = writable.getWriter();
  writer.write(bytes).catch(() => {}); // what reads is told as well
  writer.close().catch(() => {});
  return new Uint8Array(await new Response(readable).arrayBuffer());
}

/** The kernel's memory: everything that it reads and writes is put one behind the other, and nothing is given back. */
export class Memory {
  #end = 64; // address 0 is no tensor's

  constructor(bytes) {
    this.memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE) + 1 });
    this.floats = new Float32Array(this.memory.buffer);
  }

  /** Return the address of so many bytes, all 0. */
  take(bytes) {
    const address = this.#end;
    this.#end += Math.ceil(bytes / 64) * 64;
    const missing = this.#end - this.memory.buffer.byteLength;
    if (missing > 0) {
      this.memory.grow(Math.ceil(missing / PAGE));
      this.floats = new Float32Array(this.memory.buffer); // growing takes the old view away
    }
    return address;
  }

  /** Return the index in `floats` of so many numbers, all 0. */
  takeFloats(count) {
    return this.take(4 * count) / 4;
  }
}

/** Return the float32 value of each half-precision number, (65536,). */
function halves() {
  const values = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    values[bits] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  }
  return values;
}

/** Return the bytes that tensors take in the memory. */
export const sizeOf = (layout) =>
  layout.reduce((sum, { type, rows, columns }) => sum + rows * columns * (type === "q8_0" ? 1 + 4 / GROUP : 4) + 128, 0);

/**
 * Put tensors into the memory, and enter them into `tensors` by name: {rows, columns, address, scales}.
 *
 * `layout` lists name, type (f32, f16, q8_0), rows and columns. Each `next` is given the next part of the bytes, and is
 * done with the last one; the first `next` only begins. Half-precision numbers come in two parts, the lower bytes of all
 * and the upper ones, and become float32 here. With q8_0, the scales come after the weights; `scales` is their address,
 * and 0 for other types.
 */
export function* placeTensors(layout, memory, tensors) {
  const half = halves();
  const place = (bytes, address) => new Uint8Array(memory.memory.buffer).set(bytes, address);
  const placeHalves = (lower, upper, address) => {
    const floats = memory.floats.subarray(address / 4);
    for (let i = 0; i < lower.length; i++) floats[i] = half[lower[i] | (upper[i] << 8)];
  };
  for (const { name, type, rows, columns } of layout) {
    const count = rows * columns;
    const address = memory.take(type === "q8_0" ? count : 4 * count);
    const scales = type === "q8_0" ? memory.take((4 * count) / GROUP) : 0;
    if (type !== "f16") place(yield, address);
    if (type !== "f32") placeHalves(yield, yield, scales || address);
    tensors[name] = { rows, columns, address, scales };
  }
}
