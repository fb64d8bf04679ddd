// How values are given to kernels.wasm that are neither numbers nor whole buffers.
import assert from "node:assert/strict";
import type { CombineDtype } from "../../core/ops/combine.ts";
import type { MarkedBits } from "../../core/ops/consensus.ts";
import { BIT_GROUP } from "../../core/ops/deltas.ts";

/** Dtypes of stored models as the module numbers them. */
export const DTYPE: Readonly<Record<CombineDtype, number>> = { BF16: 0, F16: 1, F32: 2 };

/** The address of the first bit's byte. */
export function bitsIn({ bits, bitOffset }: MarkedBits): number {
  assert.ok(bitOffset % BIT_GROUP === 0, `bit offset ${bitOffset}`);
  return bits.address + bitOffset / 8;
}
