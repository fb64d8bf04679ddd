// What schemes would lose of a tensor, measured on some of its rows: for bit plans, before anything is quantized. Reads
// few rows of every tensor, so a model of any size takes seconds; the rows depend on the tensor's shape alone.
import assert from "node:assert/strict";
import type { SchemeError } from "../core/bit-plan/sensitivity.ts";
import type { TensorEntry } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { isFloatDtype } from "../core/ops/cast.ts";
import type { Kernels, Tile } from "../core/ops/kernels.ts";
import { BLOCK_SCHEMES, isBlockSchemeId, PART_SCHEMES } from "../core/schemes/registry.ts";
import { largestOf } from "../core/schemes/rounding.ts";
import { type Matrix, type PartScheme, partRange, rowBytes } from "../core/schemes/scheme.ts";
import { elementBytes, elementCount } from "../core/tensor.ts";
import type { OpenStore } from "../stores/store.ts";
import { loadImportance } from "./quantize-rows.ts";
import { createEntryReader } from "./stored-reader.ts";

/** Elements read of a tensor, about. Fewer: faster, and errors of tensors with few loud rows are missed. */
const SAMPLE_ELEMENTS = 1 << 17;
/** Runs of rows that a sample is made of, evenly spaced from the first row to the last. */
const SAMPLE_RUNS = 8;

/** A matrix to measure, [rows, columns], or a stack of them; in one piece. */
export type MeasuredTensor = {
  readonly source: TensorEntry;
  /** Schemes of either kind that fit its rows. */
  readonly candidates: readonly string[];
  /** One value >= 0 a column, for each matrix of a stack. */
  readonly importance: Float32Array | undefined;
};

export type MeasureRequest = {
  /** URI of the folder that has the tensors' files. */
  readonly source: string;
  readonly tensors: readonly MeasuredTensor[];
};

/** By tensor and candidate, in the request's order. */
export type MeasuredErrors = readonly (readonly SchemeError[])[];

/** Throws QuantizeNotFinite and what the stores throw. Edges construct it with their stores and kernels. */
export type MeasureSchemes = (
  request: MeasureRequest,
  options: { readonly signal: AbortSignal; readonly progress?: ((bytesRead: number) => void) | undefined },
) => Promise<MeasuredErrors>;

export type MeasureDeps = {
  readonly kernels: Kernels;
  readonly openStore: OpenStore;
  readonly signal: AbortSignal;
  readonly progress: (bytesRead: number) => void;
};

/** Measures one tensor after the other. */
export async function measureSchemes(request: MeasureRequest, deps: MeasureDeps): Promise<MeasuredErrors> {
  const errors: SchemeError[][] = [];
  for (const tensor of request.tensors) {
    const mark = deps.kernels.mark();
    try {
      const sample = await readSample(request.source, tensor, deps);
      errors.push(tensor.candidates.map((scheme) => measureScheme(scheme, sample, deps.kernels)));
    } finally {
      deps.kernels.release(mark);
    }
  }
  return errors;
}

/** Rows of a tensor as a matrix of their own. */
type Sample = {
  readonly matrix: Matrix;
  readonly values: Tile;
  /** By row; empty without an importance matrix. */
  readonly importance: readonly Tile[];
};

/** First row and count of every run of the sample of a matrix; they do not overlap, and cover a small one. */
export function sampleRuns(
  rows: number,
  columns: number,
): readonly { readonly first: number; readonly count: number }[] {
  const wanted = Math.ceil(SAMPLE_ELEMENTS / columns);
  if (wanted >= rows) return [{ first: 0, count: rows }];
  const runs = Math.min(SAMPLE_RUNS, wanted);
  const count = Math.ceil(wanted / runs);
  return Array.from({ length: runs }, (_, index) => ({
    first: runs === 1 ? 0 : Math.floor((index * (rows - count)) / (runs - 1)),
    count,
  })).filter(({ first }, index, all) => index === 0 || first >= (all[index - 1]?.first ?? 0) + count);
}

async function readSample(source: string, tensor: MeasuredTensor, deps: MeasureDeps): Promise<Sample> {
  const { kernels, openStore, signal, progress } = deps;
  const { dtype, shape, name } = tensor.source;
  const columns = shape.at(-1) ?? 1;
  const rows = elementCount(shape) / columns;
  assert.ok(isFloatDtype(dtype), "matrices of floats");
  const unit = elementBytes(dtype, 1);
  const runs = sampleRuns(rows, columns);
  const sampled = runs.reduce((sum, { count }) => sum + count, 0);
  const values = kernels.allocateTile(sampled * columns);
  const weights = tensor.importance === undefined ? [] : loadImportance(tensor.importance, columns, kernels);
  const importance = runs.flatMap(({ first, count }) =>
    Array.from(
      { length: count },
      (_, row) => weights[Math.floor(((first + row) * weights.length) / rows)] ?? [],
    ).flat(),
  );
  const read = createEntryReader(tensor.source, { store: openStore(source), prefix: "" }, signal);
  let at = 0;
  const mark = kernels.mark();
  const [block, tile] = [kernels.allocateBlock(sampled * columns * unit), kernels.allocateTile(sampled * columns)];
  for (const { first, count } of runs) {
    signal.throwIfAborted();
    const bytes = block.bytes.subarray(0, count * columns * unit);
    await read(first * columns, count * columns, bytes);
    const nonFinite = kernels.widen(dtype, block, 0, tile, count * columns);
    if (nonFinite > 0) {
      const found = "NaN or infinity";
      throw new MergeyardError("QuantizeNotFinite", { where: { tensor: name }, found, expected: "finite numbers" });
    }
    values.values.set(tile.values.subarray(0, count * columns), at);
    at += count * columns;
    progress(bytes.length);
  }
  kernels.release(mark);
  const scales = dtype === "BF16" || dtype === "F16" ? dtype : "F32";
  return { matrix: { rows: sampled, columns, dtype: scales }, values, importance };
}

function measureScheme(scheme: string, sample: Sample, kernels: Kernels): SchemeError {
  const mark = kernels.mark();
  try {
    const parts = PART_SCHEMES.get(scheme);
    if (parts === undefined) return compare(sample, roundTripBlocks(scheme, sample, kernels));
    return compare(sample, roundTripParts(parts, sample, kernels));
  } finally {
    kernels.release(mark);
  }
}

/** All rows in one window: what the sample's largest magnitude is to the scheme, the tensor's is when it is made. */
function roundTripParts(scheme: PartScheme, { matrix, values }: Sample, kernels: Kernels): Float32Array {
  const { rows, columns } = matrix;
  const bytes = scheme.parts(matrix).map((part) => {
    const block = kernels.allocateBlock(partRange(part, 0, rows).bytes);
    return [part.name, block.bytes.fill(0)] as const;
  });
  const back = kernels.allocateTile(rows * columns);
  const elements = rows * columns;
  const window = { matrix, first: 0, count: rows, parts: new Map(bytes) };
  const largest = largestOf(values.values, 0, elements);
  kernels.quantizeParts(scheme, { ...window, values: values.values.subarray(0, elements) }, { largest });
  kernels.dequantizeParts(scheme, { ...window, values: back.values.subarray(0, elements) });
  return back.values.slice(0, elements);
}

function roundTripBlocks(scheme: string, { matrix, values, importance }: Sample, kernels: Kernels): Float32Array {
  assert.ok(isBlockSchemeId(scheme), "candidates are registered schemes");
  const { rows, columns } = matrix;
  const block = kernels.allocateBlock(rowBytes(BLOCK_SCHEMES[scheme], columns));
  const row = kernels.allocateTile(columns);
  const back = new Float32Array(rows * columns);
  for (let index = 0; index < rows; index++) {
    kernels.quantizeRow(scheme, values, index * columns, columns, block, 0, importance[index]);
    kernels.dequantizeRow(scheme, block, 0, row, columns);
    back.set(row.values.subarray(0, columns), index * columns);
  }
  return back;
}

function compare({ matrix, values, importance }: Sample, back: Float32Array): SchemeError {
  const { columns } = matrix;
  const sums = { sampledElements: back.length, signal: 0, noise: 0, weightedSignal: 0, weightedNoise: 0 };
  for (let at = 0; at < back.length; at++) {
    const value = values.values[at] ?? 0;
    const lost = value - (back[at] ?? 0);
    const weight = importance[Math.floor(at / columns)]?.values[at % columns] ?? 1;
    sums.signal += value * value;
    sums.noise += lost * lost;
    sums.weightedSignal += weight * value * value;
    sums.weightedNoise += weight * lost * lost;
  }
  return sums;
}
