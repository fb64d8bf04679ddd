// The WebAssembly operations that combine tensors linearly, and what they share with those under masks: how sources are
// combined. What they compute is defined in core/ops/combine.ts.
import assert from "node:assert/strict";
import { COMBINE_SOURCES_MAX, type Combine } from "../../core/ops/combine.ts";
import type { Block } from "../../core/ops/memory.ts";
import { DTYPE } from "./host-values.ts";

/** The functions of kernels.wasm that this file calls; addresses in bytes. */
export type CombineExports = CombinationExports & {
  readonly combineTable: () => number;
  readonly combine: (dtype: number, target: number, count: number) => void;
  readonly combineStored: (dtype: number, target: number, count: number) => number;
};

export type CombinationExports = { readonly combination: () => number };

type Settings = { readonly divisor: number; readonly multiplier: number };

/** What sets how sources are combined; `base` is an address, 0 where there is none. */
export function openCombination(
  wasm: CombinationExports,
  buffer: ArrayBuffer,
): (base: number, sourceCount: number, settings: Settings) => void {
  const words = new Uint32Array(buffer, wasm.combination(), 2);
  const numbers = new Float32Array(buffer, wasm.combination() + words.byteLength, 2);
  return (base, sourceCount, { divisor, multiplier }) => {
    words[0] = base;
    words[1] = sourceCount;
    numbers[0] = divisor;
    numbers[1] = multiplier;
  };
}

/**
 * Fused combinations. They write whole groups of 16: tiles and blocks start on 64-byte lines, so the elements written
 * past the end are padding that belongs to the same one.
 */
export function hostCombine(wasm: CombineExports, buffer: ArrayBuffer): Combine {
  const table = wasm.combineTable();
  const addresses = new Uint32Array(buffer, table, 2 * COMBINE_SOURCES_MAX);
  const factorLanes = new Float32Array(buffer, table, 2 * COMBINE_SOURCES_MAX);
  const setCombination = openCombination(wasm, buffer);
  const setTable = (sources: readonly Block[], byteOffset: number, factors: readonly number[]): void => {
    assert.ok(sources.length <= COMBINE_SOURCES_MAX);
    for (let index = 0; index < sources.length; index++) {
      addresses[2 * index] = (sources[index]?.address ?? 0) + byteOffset;
      factorLanes[2 * index + 1] = factors[index] ?? 0;
    }
  };
  return {
    combine(dtype, base, sources, byteOffset, combination, target, count) {
      setTable(sources, byteOffset, combination.factors);
      setCombination(base === undefined ? 0 : base.address + byteOffset, sources.length, combination);
      wasm.combine(DTYPE[dtype], target.address, count);
    },
    combineStored(dtype, base, sources, combination, target, count) {
      setTable(sources, 0, combination.factors);
      setCombination(base?.address ?? 0, sources.length, combination);
      return wasm.combineStored(DTYPE[dtype], target.address, count);
    },
  };
}
