// The largest magnitude of floats as they are stored, without widening them. Merges use it where a scheme must know a
// whole tensor before its first row is quantized.
import assert from "node:assert/strict";
import { scalarCast } from "../core/ops/cast.ts";
import type { Dtype } from "../core/tensor.ts";

/**
 * max|x| of F32, BF16 or F16; NaN where one is among them. Of two floats the one of larger magnitude has the larger
 * bits below its sign.
 */
export function largestStored(dtype: Dtype, bytes: Uint8Array): number {
  assert.ok(dtype === "F32" || dtype === "BF16" || dtype === "F16", "scales come in these");
  const wide = dtype === "F32";
  const { buffer, byteOffset, byteLength } = bytes;
  const codes = wide
    ? new Uint32Array(buffer, byteOffset, byteLength / 4)
    : new Uint16Array(buffer, byteOffset, byteLength / 2);
  const mask = wide ? 0x7fffffff : 0x7fff;
  let most = 0;
  for (let i = 0; i < codes.length; i++) {
    const code = (codes[i] ?? 0) & mask;
    if (code > most) most = code;
  }
  const code = wide ? Uint32Array.of(most) : Uint16Array.of(most);
  const values = new Float32Array(1);
  scalarCast.widen(dtype, { address: 0, bytes: new Uint8Array(code.buffer) }, 0, { address: 0, values }, 1);
  return values[0] ?? 0;
}
