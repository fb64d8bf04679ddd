// The WebAssembly operations on task vectors: selection, masks, ranks, and combinations under masks. What they compute
// is defined in core/ops; this turns blocks into addresses.
import assert from "node:assert/strict";
import { BIT_GROUP, type Deltas } from "../../core/ops/deltas.ts";
import { type Mask, thresholdOf } from "../../core/ops/mask.ts";
import {
  type BandedSource,
  MASKED_SOURCES_MAX,
  type Masked,
  type MaskedCombination,
  type MaskedSource,
} from "../../core/ops/masked.ts";
import type { Block } from "../../core/ops/memory.ts";
import type { RankedMask } from "../../core/ops/ranked-mask.ts";
import { KEY_MAX, type Select } from "../../core/ops/select.ts";
import { type CombinationExports, openCombination } from "./host-combine.ts";
import { bitsIn, DTYPE } from "./host-values.ts";

/** Leading parameters of the operations on differences: dtype, source, base, count. */
type DeltasIn = readonly [dtype: number, source: number, base: number];

type CombineTable = (dtype: number, elects: number, target: number, count: number) => number;

/** The functions of kernels.wasm that this file calls; addresses in bytes. */
export type TaskVectorExports = CombinationExports & {
  readonly writeKeys: (...args: [...DeltasIn, target: number, count: number]) => void;
  readonly countBracket: (
    ...args: [
      ...DeltasIn,
      count: number,
      low: number,
      high: number,
      list: number,
      listEnd: number,
      tally: number,
      tileElements: number,
    ]
  ) => number;
  readonly selectCounts: () => number;
  readonly countKeys: (
    ...args: [...DeltasIn, count: number, origin: number, shift: number, bins: number, binCount: number]
  ) => void;
  readonly countEqual: (...args: [...DeltasIn, count: number, key: number]) => number;
  readonly markKeys: (...args: [...DeltasIn, count: number, low: number, high: number, bits: number]) => void;
  readonly addMagnitudes: (...args: [...DeltasIn, bits: number, count: number, tileElements: number]) => void;
  readonly maskedSums: () => number;
  readonly maskedTable: () => number;
  readonly combineMasked: CombineTable;
  readonly combineBanded: CombineTable;
  readonly combineMaskedStored: CombineTable;
  readonly combineBandedStored: CombineTable;
  readonly combineLargestStored: CombineTable;
  readonly drawMask: (
    ...args: [key0: number, key1: number, first: number, high: number, low: number, bits: number, count: number]
  ) => void;
  readonly drawRankedMask: (
    ...args: [
      key0: number,
      key1: number,
      first: number,
      lows: number,
      highs: number,
      keys: number,
      outer: number,
      length: number,
      inner: number,
      bits: number,
      scratch: number,
    ]
  ) => void;
};

function deltasIn({ dtype, source, base, byteOffset }: Deltas): DeltasIn {
  return [DTYPE[dtype], source.address + byteOffset, base.address + byteOffset];
}

/** Operations on task vectors over an instance and its memory. */
export function hostTaskVectors(wasm: TaskVectorExports, buffer: ArrayBuffer): Select & Masked & Mask & RankedMask {
  return { ...hostSelect(wasm, buffer), ...hostMasked(wasm, buffer), ...hostMask(wasm) };
}

function hostSelect(wasm: TaskVectorExports, buffer: ArrayBuffer): Select {
  const counts = new Uint32Array(buffer, wasm.selectCounts(), 3);
  return {
    writeKeys: (deltas, target, first, count) => wasm.writeKeys(...deltasIn(deltas), target.address + 4 * first, count),
    countBracket(deltas, { low, high }, { address, bytes }, listed, tally, count, tileElements) {
      const [list, end] = [address + 4 * listed, address + bytes.length];
      const rest = [list, end, tally.address, tileElements] as const;
      const listEnd = wasm.countBracket(...deltasIn(deltas), count, low, high, ...rest);
      const [above = 0, atHigh = 0, held = 0] = counts;
      return listEnd === 0 ? undefined : { above, atHigh, held, listed: (listEnd - address) / 4 };
    },
    countKeys: (deltas, origin, shift, bins, binCount, count) =>
      wasm.countKeys(...deltasIn(deltas), count, origin, shift, bins.address, binCount),
    countEqual: (deltas, key, count) => wasm.countEqual(...deltasIn(deltas), count, key),
    markKeys: (deltas, { low, high }, bits, bitOffset, count) =>
      wasm.markKeys(...deltasIn(deltas), count, low, high, bitsIn({ bits, bitOffset })),
  };
}

function hostMasked(wasm: TaskVectorExports, buffer: ArrayBuffer): Masked {
  const sums = new Float64Array(buffer, wasm.maskedSums(), 2);
  const table = wasm.maskedTable();
  const addresses = new Uint32Array(buffer, table, 4 * MASKED_SOURCES_MAX);
  const lanes = new Float32Array(buffer, table, 4 * MASKED_SOURCES_MAX);
  const setMasked = (sources: readonly MaskedSource[], byteOffset: number): void => {
    assert.ok(sources.length <= MASKED_SOURCES_MAX);
    sources.forEach(({ block, bits, bitOffset, scale, weight }, index) => {
      addresses[4 * index] = block.address + byteOffset;
      addresses[4 * index + 1] = bitsIn({ bits, bitOffset });
      lanes[4 * index + 2] = scale;
      lanes[4 * index + 3] = weight;
    });
  };
  const setBanded = (sources: readonly BandedSource[], byteOffset: number): void => {
    assert.ok(sources.length <= MASKED_SOURCES_MAX);
    sources.forEach(({ block, low, high, weight }, index) => {
      addresses[4 * index] = block.address + byteOffset;
      addresses[4 * index + 1] = low;
      addresses[4 * index + 2] = high;
      lanes[4 * index + 3] = weight;
    });
  };
  const setCombination = openCombination(wasm, buffer);
  const setHow = (
    base: Block,
    { length }: readonly unknown[],
    byteOffset: number,
    { elects, normalizes, divisor, multiplier }: MaskedCombination,
  ): number => {
    const divides = elects ? Number(normalizes) : divisor;
    setCombination(base.address + byteOffset, length, { divisor: divides, multiplier });
    return Number(elects);
  };
  return {
    addMagnitudes(own, deltas, bits, bitOffset, count, tileElements) {
      assert.ok(tileElements % BIT_GROUP === 0 || count <= tileElements, `tiles of ${tileElements} elements`);
      sums.set([own.all, own.kept]);
      wasm.addMagnitudes(...deltasIn(deltas), bitsIn({ bits, bitOffset }), count, tileElements);
      [own.all = 0, own.kept = 0] = sums;
    },
    combineMasked(dtype, base, sources, byteOffset, combination, target, count) {
      setMasked(sources, byteOffset);
      const elects = setHow(base, sources, byteOffset, combination);
      wasm.combineMasked(DTYPE[dtype], elects, target.address, count);
    },
    combineBanded(dtype, base, sources, byteOffset, combination, target, count) {
      setBanded(sources, byteOffset);
      const elects = setHow(base, sources, byteOffset, combination);
      wasm.combineBanded(DTYPE[dtype], elects, target.address, count);
    },
    combineMaskedStored(dtype, base, sources, byteOffset, combination, target, count) {
      setMasked(sources, byteOffset);
      const elects = setHow(base, sources, byteOffset, combination);
      return wasm.combineMaskedStored(DTYPE[dtype], elects, target.address + byteOffset, count);
    },
    combineBandedStored(dtype, base, sources, byteOffset, combination, target, count) {
      setBanded(sources, byteOffset);
      const elects = setHow(base, sources, byteOffset, combination);
      const isOpen = sources.every(({ high }) => high === KEY_MAX);
      const combine = isOpen ? wasm.combineLargestStored : wasm.combineBandedStored;
      return combine(DTYPE[dtype], elects, target.address + byteOffset, count);
    },
  };
}

function hostMask(wasm: TaskVectorExports): Mask & RankedMask {
  return {
    drawMask([low0, high0], firstElement, probability, bits, bitOffset, count) {
      assert.ok(firstElement % BIT_GROUP === 0, `first element ${firstElement}`);
      const { high, low } = thresholdOf(probability);
      wasm.drawMask(low0, high0, firstElement, high, low, bitsIn({ bits, bitOffset }), count);
    },
    drawRankedMask(
      [low0, high0],
      firstElement,
      { highs, lows },
      keys,
      { outer, length, inner },
      bits,
      bitOffset,
      scratch,
    ) {
      const [low, high, target] = [lows.address, highs.address, bitsIn({ bits, bitOffset })];
      const [k, s] = [keys.address, scratch.address];
      wasm.drawRankedMask(low0, high0, firstElement, low, high, k, outer, length, inner, target, s);
    },
  };
}
