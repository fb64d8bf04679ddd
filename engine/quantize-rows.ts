// Rows of float32 in kernel memory to the blocks of one scheme, with what was lost measured while a row is still in
// cache. Whoever has rows uses it: regions of a quantized file (quantize-region.ts), and merges that write quantized
// outputs. It reads and writes no store.
import assert from "node:assert/strict";
import { MergeyardError } from "../core/error.ts";
import type { Block, Kernels, Tile } from "../core/ops/kernels.ts";
import { addLoss, type Loss, NO_LOSS } from "../core/ops/loss.ts";
import { BLOCK_SCHEMES, type BlockSchemeId } from "../core/schemes/registry.ts";
import { rowBytes } from "../core/schemes/scheme.ts";

/** One tensor as its quantizer sees it: rows of `columns` values. */
export type QuantizedRows = {
  /** For errors. */
  readonly tensor: string;
  readonly scheme: BlockSchemeId;
  readonly columns: number;
  /** One value >= 0 a column, for each matrix of a stack; undefined: no importance matrix. */
  readonly importance: Float32Array | undefined;
};

export type RowQuantizer = {
  /** Bytes of a quantized row. */
  readonly rowBytes: number;
  /**
   * One row, the values from `first` of a tile, to `target` from `byteOffset`. Values are finite. `matrix` is the row's
   * among those of a stack.
   */
  quantize(values: Tile, first: number, target: Block, byteOffset: number, matrix: number): void;
  /**
   * What the rows since the last call lost, added in their order: equal rows in equal portions give equal sums, whoever
   * did them. Throws QuantizeNotFinite when a scale among them was beyond the scheme's own numbers.
   */
  takeLoss(): Loss;
};

/** Takes kernel memory for good, as core/plan/memory.ts counts it: whoever calls marks and releases. */
export function createRowQuantizer(
  { tensor, scheme, columns, importance }: QuantizedRows,
  kernels: Kernels,
): RowQuantizer {
  const back = kernels.allocateTile(columns);
  const weights = importance === undefined ? [] : loadImportance(importance, columns, kernels);
  const { limits } = BLOCK_SCHEMES[scheme];
  const runs = limits && { ...allocateRuns(kernels, columns / limits.width), width: limits.width };
  const bytes = rowBytes(BLOCK_SCHEMES[scheme], columns);
  let loss = NO_LOSS;
  return {
    rowBytes: bytes,
    quantize(values, first, target, byteOffset, matrix) {
      kernels.quantizeRow(scheme, values, first, columns, target, byteOffset, weights[matrix]);
      kernels.dequantizeRow(scheme, target, byteOffset, back, columns);
      if (runs !== undefined) kernels.limitRow(scheme, target, byteOffset, columns, runs);
      loss = addLoss(loss, kernels.measureLoss(values, first, back, columns, runs));
    },
    takeLoss() {
      const taken = loss;
      loss = NO_LOSS;
      if (Number.isFinite(taken.noise)) return taken;
      throw unfit(tensor, scheme);
    },
  };
}

/** Importance in kernel memory, by the matrices of a stack; one for a matrix by itself. */
export function loadImportance(importance: Float32Array, columns: number, kernels: Kernels): readonly Tile[] {
  assert.ok(importance.length % columns === 0, "an importance matrix has one value a column");
  const all = kernels.allocateTile(importance.length);
  all.values.set(importance);
  return Array.from({ length: importance.length / columns }, (_, matrix) => {
    const first = matrix * columns;
    return { address: all.address + 4 * first, values: all.values.subarray(first, first + columns) };
  });
}

/** Limits of a number of runs. */
export function allocateRuns(kernels: Kernels, count: number): { readonly low: Tile; readonly high: Tile } {
  return { low: kernels.allocateTile(count), high: kernels.allocateTile(count) };
}

/** Adds to the first `count` values of a tile, each sum rounded to float32. */
export function shiftValues({ values }: Tile, count: number, shift = 0): void {
  if (shift === 0) return;
  for (let i = 0; i < count; i++) values[i] = (values[i] ?? 0) + shift;
}

/** Row 2 i + s of a head is the model's row s rows / 2 + i: the halves of the rotary embedding, interleaved. */
export function interleavedRow(row: number, headRows: number): number {
  const inHead = row % headRows;
  return row - inHead + (inHead % 2) * (headRows / 2) + Math.floor(inHead / 2);
}

/** The refusal of values that no scheme has codes for. */
export function notFinite(tensor: string, found = "NaN or infinity"): MergeyardError {
  return new MergeyardError("QuantizeNotFinite", { where: { tensor }, found, expected: "finite numbers" });
}

/** The refusal of values whose scale the scheme has no number for. */
export function unfit(tensor: string, scheme: string): MergeyardError {
  return notFinite(tensor, `a scale beyond ${scheme}`);
}
