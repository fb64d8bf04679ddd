// Windows of rows to the parts of one scheme, with what was lost measured on the way. Whoever has rows of a matrix uses
// it: regions of a folder of quantized parts (quantize-parts.ts), and merges that write such an output (parts-sink.ts).
// It reads and writes no store.
import assert from "node:assert/strict";
import { MergeyardError } from "../core/error.ts";
import type { Kernels, Tile } from "../core/ops/kernels.ts";
import { addLoss, type Loss, NO_LOSS } from "../core/ops/loss.ts";
import {
  type Matrix,
  type Part,
  type PartScheme,
  partRange,
  type RowWindow,
  type TensorFacts,
} from "../core/schemes/scheme.ts";
import { allocateRuns, unfit } from "./quantize-rows.ts";

export type QuantizedMatrix = {
  /** For errors. */
  readonly tensor: string;
  readonly scheme: PartScheme;
  readonly matrix: Matrix;
  /** `scheme.parts(matrix)`. */
  readonly parts: readonly Part[];
  readonly facts: TensorFacts;
  /** Rows of the largest window. */
  readonly rows: number;
};

export type PartsQuantizer = {
  /**
   * Rows [first, first + count) of the matrix, which begin the tile: the bytes of every part that belong to them, valid
   * until the next call. Throws QuantizeNotFinite when a scale was beyond the scheme's own numbers.
   */
  quantize(values: Tile, first: number, count: number): ReadonlyMap<string, Uint8Array>;
  /** What all windows so far have lost, added in their order. */
  loss(): Loss;
};

/** Takes kernel memory for good, as core/plan/memory.ts counts it: whoever calls marks and releases. */
export function createPartsQuantizer(input: QuantizedMatrix, kernels: Kernels): PartsQuantizer {
  const { tensor, scheme, matrix, parts, facts, rows } = input;
  const { columns } = matrix;
  const back = kernels.allocateTile(rows * columns);
  const blocks = new Map(
    parts.map((part) => [part.name, kernels.allocateBlock(partRange(part, 0, rows).bytes).bytes.fill(0)] as const),
  );
  const width = scheme.limits?.width(columns);
  const runs = width === undefined ? undefined : { ...allocateRuns(kernels, (rows * columns) / width), width };
  const measure = (window: RowWindow, tile: Tile): Loss => {
    const elements = window.count * columns;
    kernels.dequantizeParts(scheme, { ...window, values: back.values.subarray(0, elements) });
    if (runs !== undefined) scheme.limits?.read(window, runs.low.values, runs.high.values);
    return kernels.measureLoss(tile, 0, back, elements, runs);
  };
  let loss = NO_LOSS;
  return {
    quantize(tile, first, count) {
      const elements = count * columns;
      const own = windowBlocks(parts, blocks, first, count);
      const window: RowWindow = { matrix, first, count, values: tile.values.subarray(0, elements), parts: own };
      loss = addLoss(
        loss,
        quantizeNamed(tensor, () => kernels.quantizeParts(scheme, window, facts)) ?? measure(window, tile),
      );
      if (!Number.isFinite(loss.noise)) throw unfit(tensor, scheme.id);
      return own;
    },
    loss: () => loss,
  };
}

/** A scheme does not know the name of what it quantizes: its refusals get it here. */
function quantizeNamed(tensor: string, quantize: () => Loss | undefined): Loss | undefined {
  try {
    return quantize();
  } catch (error) {
    if (!(error instanceof MergeyardError)) throw error;
    const { code, found, expected, hint } = error;
    throw new MergeyardError(code, { where: { ...error.where, tensor }, found, expected, hint, cause: error });
  }
}

/** The window's bytes of every part. What belongs to the tensor as a whole goes on from window to window. */
function windowBlocks(
  parts: readonly Part[],
  blocks: ReadonlyMap<string, Uint8Array>,
  first: number,
  count: number,
): ReadonlyMap<string, Uint8Array> {
  return new Map(
    parts.map((part) => {
      const bytes = blocks.get(part.name)?.subarray(0, partRange(part, first, count).bytes);
      assert.ok(bytes !== undefined, "every part has a block");
      return [part.name, part.along === undefined ? bytes : bytes.fill(0)];
    }),
  );
}
