// Sparsifiers that drop elements at random: all with one probability (DARE), or each with a probability that grows with
// the rank of its magnitude in its line (DELLA). What an element draws depends on the seed, the tensor's name, the
// model and the element's index alone.
import * as z from "zod";
import type { Block, Kernels } from "../../ops/kernels.ts";
import { allocatedBytes } from "../../ops/memory.ts";
import { rankedScratchBytes, type Thresholds, writeThresholds } from "../../ops/ranked-mask.ts";
import { streamKey } from "../../random.ts";
import { elementCount, type Shape } from "../../tensor.ts";
import { type MergeInput, type MergeTensor, numberParameter, tileElementsOf } from "../method.ts";
import type { MarkTile, Sparsifier } from "./sparsifier.ts";

/**
 * Every element is kept with probability `density`, independently.
 * Source: DARE, arXiv:2311.03099; merge reference section 4.8.
 */
export const bernoulli: Sparsifier = Object.freeze({
  parameters: {},
  modelParameters: {},
  locality: "element",
  reducePasses: () => 0,
  seeded: true,
  scratchBytes: () => 0,
  refuse(_tensor, { model, parameters }) {
    const density = numberParameter(parameters, "density");
    if (density >= 0) return undefined;
    return { model, parameter: "density", found: `${density}`, expected: "a probability: 0 or more" };
  },
  compile: ({ name, seed, inputs }, kernels) => {
    const streams = inputs.map(({ model, parameters }) => ({
      key: streamKey(seed, name, model),
      density: numberParameter(parameters, "density"),
    }));
    const mark: MarkTile = (source, { firstElement, count }, bits, bitOffset) => {
      const stream = streams[source];
      if (stream !== undefined) kernels.drawMask(stream.key, firstElement, stream.density, bits, bitOffset, count);
    };
    return { reduce: [], mark, marksWindows: true };
  },
} satisfies Sparsifier);

/**
 * An element of rank r, 0 for the smallest magnitude of its line of c elements, is kept with probability
 * (density - epsilon) + 2 epsilon r / (c - 1). Lines run along axis 1, in a vector along its only axis. density <= 0
 * keeps nothing; else all probabilities must lie strictly between 0 and 1.
 * Source: DELLA, arXiv:2406.11617, MagPrune; merge reference section 4.9.
 */
export const rankedBernoulli: Sparsifier = Object.freeze({
  parameters: {},
  modelParameters: { epsilon: z.number().default(0.15) },
  locality: "slice",
  reducePasses: () => 0,
  seeded: true,
  scratchBytes({ shape, inputs }) {
    const { length } = linesOf(shape);
    const tile = Math.min(tileElementsOf("slice", shape), Math.max(1, elementCount(shape)));
    const tables = allocatedBytes(length) + allocatedBytes(4 * length);
    return allocatedBytes(4 * tile) + allocatedBytes(rankedScratchBytes(length, tile)) + inputs.length * tables;
  },
  refuse({ shape }, { model, parameters }) {
    const [density, epsilon] = [numberParameter(parameters, "density"), numberParameter(parameters, "epsilon")];
    if (density <= 0 || elementCount(shape) === 0) return undefined;
    if (!(density - epsilon > 0 && density + epsilon < 1)) {
      const found = `probabilities from ${density - epsilon} to ${density + epsilon}`;
      return { model, parameter: "epsilon", found, expected: "density - epsilon above 0, density + epsilon below 1" };
    }
    if (linesOf(shape).length > 1) return undefined;
    return {
      model,
      parameter: "density",
      found: "lines of one element, which have no ranks",
      expected: "at least two columns, or density 1",
      hint: "give such tensors a density of 1 with a filter",
    };
  },
  compile(tensor, kernels) {
    const { length, inner } = linesOf(tensor.shape);
    const tile = Math.min(tileElementsOf("slice", tensor.shape), Math.max(1, elementCount(tensor.shape)));
    const keys = kernels.allocateBlock(4 * tile);
    const scratch = kernels.allocateBlock(rankedScratchBytes(length, tile));
    scratch.bytes.fill(0);
    const streams = tensor.inputs.map((input) => rankedStream(tensor, input, kernels, length));
    const mark: MarkTile = (source, deltaTile, bits, bitOffset) => {
      const stream = streams[source];
      const { firstElement, count } = deltaTile;
      if (stream === undefined) {
        bits.bytes.fill(0, bitOffset / 8, Math.ceil((bitOffset + count) / 8));
        return;
      }
      kernels.writeKeys(deltaTile.deltas(source), keys, 0, count);
      const lines = { outer: count / (length * inner), length, inner };
      kernels.drawRankedMask(stream.key, firstElement, stream.thresholds, keys, lines, bits, bitOffset, scratch);
    };
    return { reduce: [], mark };
  },
} satisfies Sparsifier);

type RankedStream = { readonly key: ReturnType<typeof streamKey>; readonly thresholds: Thresholds };

/** Undefined where nothing is kept. */
function rankedStream(
  { name, seed }: MergeTensor,
  { model, parameters }: MergeInput,
  kernels: Kernels,
  length: number,
): RankedStream | undefined {
  const [density, epsilon] = [numberParameter(parameters, "density"), numberParameter(parameters, "epsilon")];
  const [highs, lows]: readonly Block[] = [kernels.allocateBlock(length), kernels.allocateBlock(4 * length)];
  if (density <= 0 || highs === undefined || lows === undefined) return undefined;
  const thresholds = { highs, lows };
  writeThresholds(thresholds, length, (rank) => density - epsilon + (rank / (length - 1)) * (2 * epsilon));
  return { key: streamKey(seed, name, model), thresholds };
}

/** Lines of a tensor: `length` elements along axis 1, `inner` of them side by side. */
function linesOf(shape: Shape): { length: number; inner: number } {
  if (shape.length < 2) return { length: elementCount(shape), inner: 1 };
  return { length: shape[1] ?? 1, inner: elementCount(shape.slice(2)) };
}
