// What tests of kernels share: memory images that hold the values which go wrong first, and the comparison of the
// WebAssembly kernels with the scalar oracle on the same image.
import assert from "node:assert/strict";
import { createScalarKernels, type Kernels } from "../../core/ops/kernels.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";

/** Lengths around the vector widths. */
export const LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 1000];

const CAPACITY_BYTES = 2 ** 20;

/** A fixed sequence of 32-bit words (xorshift): the same images for both kernel sets. */
function* words(seed: number): Generator<number> {
  for (let state = seed; ; ) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    yield state >>> 0;
  }
}

/** float32 bit patterns where rounding, range and sign go wrong first. */
const EDGES = [
  0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff, 0xff7fffff,
  0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff, 0x7f800001, 0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001,
  0x477fe000, 0x477fefff, 0x477ff000, 0x47800000, 0x33800000, 0x33000000, 0x33000001, 0x387fc000, 0x387fe000,
  0x38800000, 0x38000000, 0x337fffff, 0x7f7f8000, 0x7f7f7fff,
];

/** Fills bytes with random words, edges mixed in, finite where asked. */
export function fillImage(bytes: Uint8Array, seed: number, finite: boolean): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const source = words(seed);
  for (let offset = 0; offset + 4 <= bytes.byteLength; offset += 4) {
    const word = source.next().value ?? 0;
    const edge = EDGES[word % EDGES.length] ?? 0;
    const value = finite ? 0x3e000000 + (word & 0x81ffffff) : word % 3 === 0 ? edge : word;
    view.setUint32(offset, value, true);
  }
}

/** Runs `use` on both kernel sets and compares what it returns and what it left in memory, as integers. */
export function onBoth(
  use: (kernels: Kernels) => { bytes: Uint8Array; result?: unknown },
  capacityBytes = CAPACITY_BYTES,
): void {
  const wasm = use(createWasmKernels(capacityBytes));
  const scalar = use(createScalarKernels(capacityBytes));
  assert.deepEqual(wasm.result, scalar.result);
  assert.equal(Buffer.from(wasm.bytes).toString("hex"), Buffer.from(scalar.bytes).toString("hex"));
}

/** Bytes of a tile's first `count` values, every NaN as one pattern: WebAssembly leaves NaN payloads open. */
export function tileBytes(values: Float32Array, count: number): Uint8Array {
  const canonical = Float32Array.from(values.subarray(0, count), (value) => (Number.isNaN(value) ? Number.NaN : value));
  return new Uint8Array(canonical.buffer);
}
