// The frame of the task-vector family: R = W0 + lambda * consensus of the weighted, sparsified, rescaled differences
// W_i - W0. Its members are a table over three axes: how a difference is sparsified, whether signs are elected, and the
// defaults of normalizing and rescaling; each has a file that names its place in the table.
// Source: mergekit `GeneralizedTaskArithmeticMerge`, merge reference section 4.6.
import assert from "node:assert/strict";
import * as z from "zod";
import { roundingTo } from "../../ops/cast.ts";
import { COMBINE_SOURCES_MAX } from "../../ops/combine.ts";
import { BIT_GROUP, countBits } from "../../ops/deltas.ts";
import type { Block, Kernels } from "../../ops/kernels.ts";
import { type BandedSource, MASKED_SOURCES_MAX, type MaskedSource } from "../../ops/masked.ts";
import { KEY_MAX, type KeyBand } from "../../ops/select.ts";
import { elementBytes } from "../../tensor.ts";
import {
  type Locality,
  type MergeInput,
  type MergeMethod,
  type MergeTensor,
  numberParameter,
  type ScratchTensor,
  type StoredView,
  type StoredWindow,
  type TensorProgram,
  tileElementsOf,
} from "../method.ts";
import { createMaskStore, type MaskStore, maskStoreBytes } from "../sparsify/mask-store.ts";
import { divisorOf, type Round, rescaleOf, rescaling } from "../sparsify/rescale.ts";
import type { DeltaTile, Sparsification, Sparsifier } from "../sparsify/sparsifier.ts";
import { RESCALES, type Sparsified, type TaskVectorTask } from "./task-vector.ts";
import { compileWorking, workingBytes } from "./working-steps.ts";

/** A member's place in the table. */
export type TaskVectorRow = {
  readonly id: string;
  readonly title: string;
  readonly source: string;
  /** Undefined: differences stay dense; there is no density and nothing to rescale. */
  readonly sparsifier: Sparsifier | undefined;
  /** Only values of the majority's sign count. */
  readonly elects: boolean;
  readonly normalize: boolean;
  readonly rescale: boolean;
};

/**
 * The merge method of a row. Order and rounding: differences, products, sums and quotients each round to float32; sums
 * start at 0 and run in model order. Exact against the reference but for rescaling, whose sums of magnitudes are more
 * exact here. Equal magnitudes and random numbers follow our own rules (merge reference, sections 2.5 and 2.7).
 */
export function taskVectorMethod(row: TaskVectorRow): MergeMethod {
  const { sparsifier } = row;
  return Object.freeze({
    id: row.id,
    title: row.title,
    source: row.source,
    inputCount: { min: 1, max: sparsifier === undefined ? Number.POSITIVE_INFINITY : MASKED_SOURCES_MAX + 1 },
    base: "required",
    referenceDtype: "base",
    locality: localityOf(row),
    reducePasses: (tensor) => reducePasses(row, tensor),
    scratchBytes: (tensor) => scratchBytes(row, tensor),
    storesWindows: (tensor) =>
      tensor.working === undefined && hasWholeGroups(row, tensor) && tensor.inputs.length <= COMBINE_SOURCES_MAX,
    seeded: sparsifier?.seeded ?? false,
    embeddingMismatch: "base",
    parameters: z.strictObject({
      normalize: z.boolean().default(row.normalize),
      ...(sparsifier && { rescale: z.union([z.boolean(), z.enum(RESCALES)]).default(row.rescale) }),
      lambda: z.number().default(1),
      int8_mask: z.boolean().default(false),
      ...sparsifier?.parameters,
    }),
    modelParameters: z.strictObject({
      weight: z.number(),
      ...(sparsifier && { density: z.number().default(1), ...sparsifier.modelParameters }),
    }),
    refuse(tensor) {
      for (const input of tensor.inputs) {
        const refusal = isSparse(row, input) ? sparsifier?.refuse(tensor, input) : undefined;
        if (refusal !== undefined) return refusal;
      }
      return undefined;
    },
    isIdentity: ({ inputs }) => inputs.every(({ isBase }) => isBase),
    compile: (tensor, kernels) => compileRow(row, tensor, kernels),
  } satisfies MergeMethod);
}

function localityOf({ sparsifier }: TaskVectorRow): Locality {
  return sparsifier?.locality ?? "element";
}

/** The marks of a tile end where those of the next may begin. */
function hasWholeGroups(row: TaskVectorRow, { shape }: Pick<ScratchTensor, "shape">): boolean {
  return tileElementsOf(localityOf(row), shape) % BIT_GROUP === 0;
}

/** density >= 1 leaves a difference as it is, whatever the sparsifier. */
function isSparse(row: TaskVectorRow, { isBase, parameters }: Pick<MergeInput, "isBase" | "parameters">): boolean {
  return row.sparsifier !== undefined && !isBase && numberParameter(parameters, "density") < 1;
}

function sparseOf(row: TaskVectorRow, tensor: ScratchTensor): ScratchTensor {
  return { ...tensor, inputs: tensor.inputs.filter((input) => isSparse(row, input)) };
}

/** None where nothing is sparse: then nothing is cut or rescaled. */
function reducePasses(row: TaskVectorRow, tensor: ScratchTensor): number {
  const sparse = sparseOf(row, tensor);
  if (row.sparsifier === undefined || sparse.inputs.length === 0) return 0;
  return row.sparsifier.reducePasses(sparse) + (rescaleOf(tensor.parameters) === "l1" ? 1 : 0);
}

function scratchBytes(row: TaskVectorRow, tensor: ScratchTensor): number {
  const sparse = sparseOf(row, tensor);
  if (tensor.working === undefined && sparse.inputs.length === 0 && !row.elects) return 0;
  const keeps = rescaleOf(tensor.parameters) === "l1";
  return (
    (sparse.inputs.length === 0 ? 0 : (row.sparsifier?.scratchBytes(sparse) ?? 0)) +
    maskStoreBytes(sparse, localityOf(row), keeps) +
    (tensor.working === undefined ? 0 : workingBytes(tensor, localityOf(row)))
  );
}

function readTask(row: TaskVectorRow, tensor: MergeTensor): TaskVectorTask {
  const sparse = tensor.inputs.filter((input) => isSparse(row, input));
  const vectors = tensor.inputs.flatMap((input, index) => {
    if (input.isBase) return [];
    const place = sparse.indexOf(input);
    return {
      input: index,
      weight: numberParameter(input.parameters, "weight"),
      density: row.sparsifier === undefined ? 1 : numberParameter(input.parameters, "density"),
      sparse: place < 0 ? undefined : place,
    };
  });
  return {
    tensor,
    base: tensor.inputs.findIndex((input) => input.isBase),
    vectors,
    sparse: { ...tensor, inputs: sparse },
    sparseInputs: sparse.map((input) => tensor.inputs.indexOf(input)),
    elects: row.elects,
    rescale: rescaleOf(tensor.parameters),
    normalizes: tensor.parameters.normalize === true,
    multiplier: numberParameter(tensor.parameters, "lambda"),
  };
}

function compileRow(row: TaskVectorRow, tensor: MergeTensor, kernels: Kernels): TensorProgram {
  const task = readTask(row, tensor);
  const { working } = tensor;
  if (working === undefined && task.sparse.inputs.length === 0 && !row.elects) {
    return { reduce: [], apply: combinePass(task), ...counting(row, task) };
  }
  const sparsified = sparsify(row, task, kernels, working === undefined ? Math.fround : roundingTo(working));
  const program =
    working === undefined
      ? compileMasked(task, sparsified, kernels)
      : compileWorking(task, sparsified, { dtype: working, locality: localityOf(row) }, kernels);
  return { ...program, ...counting(row, task, sparsified.masks) };
}

/** How kept elements are counted, where the row drops any: a model of no marks keeps all. */
function counting(
  { sparsifier }: TaskVectorRow,
  { vectors }: TaskVectorTask,
  masks?: MaskStore,
): Pick<TensorProgram, "countKept"> {
  if (sparsifier === undefined) return {};
  return {
    countKept: ({ count }) =>
      vectors.map(({ sparse }) => {
        if (sparse === undefined || masks === undefined) return count;
        const { bits, bitOffset } = masks.marksOf(sparse);
        return countBits(bits, bitOffset, count);
      }),
  };
}

/** All differences whole and no election: a plain combination. */
function combinePass(task: TaskVectorTask): TensorProgram["apply"] {
  const factors = task.tensor.inputs.map(() => 0);
  for (const { input, weight } of task.vectors) factors[input] = weight;
  const divisor = divisorOf(task, Math.fround);
  return { deltas: true, combination: () => ({ factors, divisor, multiplier: task.multiplier }) };
}

function sparsify(row: TaskVectorRow, task: TaskVectorTask, kernels: Kernels, round: Round): Sparsified {
  const sparsification =
    row.sparsifier === undefined || task.sparse.inputs.length === 0
      ? KEEPS_ALL
      : row.sparsifier.compile(task.sparse, kernels);
  const keeps = task.rescale === "l1";
  const masks = createMaskStore(kernels, task.sparse, localityOf(row), keeps, sparsification.mark);
  const takesWindows = masks.holdsWindows && sparsification.marksWindows === true;
  const { scales, passes } = rescaling(task, masks, takesWindows, kernels, round);
  const bandIn = task.rescale === "none" ? sparsification.bandIn : undefined;
  const wholeGroups = hasWholeGroups(row, task.tensor);
  return { masks, takesWindows, wholeGroups, bandIn, scales, reduce: [...sparsification.reduce, ...passes] };
}

/** No model is sparse. */
const KEEPS_ALL: Sparsification = {
  reduce: [],
  mark: () => {},
  bandIn: (_, { count }) => ({ band: ALL_KEYS, count }),
};
const ALL_KEYS: KeyBand = { low: 0, high: KEY_MAX };

function compileMasked(task: TaskVectorTask, sparsified: Sparsified, kernels: Kernels): TensorProgram {
  const combination = {
    elects: task.elects,
    normalizes: task.normalizes,
    divisor: divisorOf(task, Math.fround),
    multiplier: task.multiplier,
  };
  const { masks } = sparsified;
  const storedTile = (view: StoredView): void => {
    const { dtype, inputs, byteOffset, output, count } = view;
    const base = blockAt(inputs, task.base);
    // Also where bands tell: kept elements may be counted afterwards.
    masks.enter(deltaTile(task, view));
    const { banded } = bandsFrom(task, sparsified, view);
    if (banded !== undefined) {
      kernels.combineBanded(dtype, base, banded, byteOffset, combination, output, count);
      return;
    }
    const sources = maskedSources(task, sparsified, inputs);
    kernels.combineMasked(dtype, base, sources, byteOffset, combination, output, count);
  };
  const storedWindow = ({ output, ...window }: StoredWindow): number => {
    const { dtype, inputs, firstElement } = window;
    const base = blockAt(inputs, task.base);
    let nonFinite = 0;
    for (let done = 0; done < window.count; ) {
      const byteOffset = elementBytes(dtype, done);
      const rest = { ...window, byteOffset, firstElement: firstElement + done, count: window.count - done };
      const { banded, count } = bandsFrom(task, sparsified, rest);
      if (banded !== undefined) {
        nonFinite += kernels.combineBandedStored(dtype, base, banded, byteOffset, combination, output, count);
      } else {
        masks.enter(deltaTile(task, { ...rest, count }));
        const sources = maskedSources(task, sparsified, inputs);
        nonFinite += kernels.combineMaskedStored(dtype, base, sources, byteOffset, combination, output, count);
      }
      done += count;
    }
    return nonFinite;
  };
  return {
    reduce: sparsified.reduce.map(({ tile, ...options }) => ({
      ...options,
      storedTile: (view: StoredView) => tile(deltaTile(task, view)),
    })),
    apply: { storedTile, ...(sparsified.wholeGroups ? { storedWindow } : {}) },
  };
}

type TileSpan = Omit<StoredView, "output">;

/**
 * How many elements from the start of a span on are kept alike, at least a tile; and the sources, where bands of keys
 * tell which elements are kept.
 */
function bandsFrom(
  { vectors }: TaskVectorTask,
  { bandIn, takesWindows }: Sparsified,
  span: TileSpan,
): { readonly count: number; readonly banded?: readonly BandedSource[] } {
  if (bandIn === undefined) {
    // The marks of a model whose elements are all kept are those of a tile.
    const isWhole = takesWindows && vectors.every(({ sparse }) => sparse !== undefined);
    return { count: isWhole ? span.count : Math.min(span.count, span.tileElements) };
  }
  const runs = vectors.map(({ sparse }) =>
    sparse === undefined ? { band: ALL_KEYS, count: span.count } : bandIn(sparse, span),
  );
  const count = runs.reduce((least, run) => Math.min(least, run.count), span.count);
  const banded: BandedSource[] = [];
  for (const [index, { input, weight }] of vectors.entries()) {
    const band = runs[index]?.band;
    if (band === undefined) return { count };
    banded.push({ block: blockAt(span.inputs, input), low: band.low, high: band.high, weight });
  }
  return { count, banded };
}

/** All sources under the marks of the tile entered last. */
function maskedSources(
  { vectors }: TaskVectorTask,
  { masks, scales }: Sparsified,
  inputs: readonly Block[],
): readonly MaskedSource[] {
  return vectors.map(({ input, weight, sparse }) => ({
    block: blockAt(inputs, input),
    ...masks.marksOf(sparse),
    scale: sparse === undefined ? 1 : (scales[sparse] ?? 1),
    weight,
  }));
}

/** The sparse models' differences in a tile of stored values. */
function deltaTile({ sparseInputs, base }: TaskVectorTask, view: TileSpan): DeltaTile {
  const { dtype, inputs, byteOffset, firstElement, count, tileElements } = view;
  const from = blockAt(inputs, base);
  return {
    firstElement,
    count,
    tileElements,
    deltas: (source) => ({ dtype, base: from, source: blockAt(inputs, sparseInputs[source] ?? -1), byteOffset }),
  };
}

function blockAt(blocks: readonly Block[], index: number): Block {
  const block = blocks[index];
  assert.ok(block !== undefined, "an input of the tensor");
  return block;
}
