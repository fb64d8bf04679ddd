// Sparsifiers that keep elements by the rank of their magnitude in the whole tensor: the largest ones (TIES), or a band
// that leaves out the smallest and the very largest (breadcrumbs). Exact, with the rule for equal magnitudes of merge
// reference section 2.5: the lower index counts as larger where the largest are kept, as smaller where a band is.
import assert from "node:assert/strict";
import * as z from "zod";
import { type Deltas, setBit, wordsOf } from "../../ops/deltas.ts";
import { type Block, type Kernels, TILE_ELEMENTS } from "../../ops/kernels.ts";
import { KEY_MAX, type KeyBand } from "../../ops/select.ts";
import { elementCount } from "../../tensor.ts";
import { type MergeInput, type MergeTensor, numberParameter } from "../method.ts";
import { type Cut, createCutSearch, searchBytes, searchPasses } from "./order-statistic.ts";
import type { DeltaTile, MarkTile, Sparsification, Sparsifier } from "./sparsifier.ts";

/**
 * The k = floor(density N) elements of largest magnitude; of equal ones at the cut those with the lowest index.
 * k = 0 is refused, as in the reference, unless `min_keep: 1` keeps one element.
 * Source: TIES-Merging, arXiv:2306.01708, trimming; merge reference section 4.7.
 */
export const magnitude: Sparsifier = Object.freeze({
  parameters: { min_keep: z.int().min(0).max(1).default(0) },
  modelParameters: {},
  locality: "element",
  reducePasses: ({ shape, inputs }) => searchPasses(elementCount(shape), inputs.length),
  seeded: false,
  scratchBytes: ({ shape, inputs }) => searchBytes(elementCount(shape), inputs.length, 1),
  refuse(tensor, input) {
    const total = elementCount(tensor.shape);
    if (total === 0 || keptCount(tensor, input) >= 1) return undefined;
    return {
      model: input.model,
      parameter: "density",
      found: `${numberParameter(input.parameters, "density")} of ${total} elements, which keeps none`,
      expected: `at least ${1 / total}`,
      hint: "write `min_keep: 1` among the parameters of the merge to keep the largest element of such tensors",
    };
  },
  compile(tensor, kernels) {
    const total = elementCount(tensor.shape);
    const counts = tensor.inputs.map((input) => keptCount(tensor, input));
    const search = createCutSearch(
      kernels,
      total,
      counts.map((count) => [count]),
    );
    const bandOf = (source: number): Band => largestBand(search.cut(source, 0), counts[source] ?? 0);
    return markBands(tensor, kernels, search, bandOf);
  },
} satisfies Sparsifier);

/**
 * Ascending by magnitude, equal ones in index order, the elements at positions bot to N - top - 1:
 * keep = floor(density N), top = floor(gamma N), bot = N - keep - top; when bot < 0, top is lowered by that much.
 * With top = 0 the reference keeps nothing, a defect that `mergekit_compat: strict` reproduces.
 * Source: Model Breadcrumbs, arXiv:2312.06795; merge reference section 4.10.
 */
export const outliers: Sparsifier = Object.freeze({
  parameters: {},
  modelParameters: { gamma: z.number().default(0.01) },
  locality: "element",
  reducePasses: ({ shape, inputs }) => searchPasses(elementCount(shape), 2 * inputs.length),
  seeded: false,
  scratchBytes: ({ shape, inputs }) => searchBytes(elementCount(shape), inputs.length, 2),
  refuse(_tensor, input) {
    const parameter = ["density", "gamma"].find((name) => numberParameter(input.parameters, name) < 0);
    if (parameter === undefined) return undefined;
    const found = `${numberParameter(input.parameters, parameter)}`;
    return { model: input.model, parameter, found, expected: "0 or more" };
  },
  compile(tensor, kernels) {
    const total = elementCount(tensor.shape);
    const spans = tensor.inputs.map((input) => keptSpan(tensor, input));
    const search = createCutSearch(
      kernels,
      total,
      spans.map((span) => ranksOf(span, total)),
    );
    const bandOf = (source: number): Band => {
      const span = spans[source];
      assert.ok(span !== undefined, "a sparse model has a span");
      if (span.first >= span.end) return NOTHING;
      const low = span.first > 0 ? search.cut(source, 0) : undefined;
      const high = span.end < total ? search.cut(source, low === undefined ? 0 : 1) : undefined;
      return { classes: bandClasses(total, span, low, high), low: low?.key ?? 0, high: high?.key ?? KEY_MAX };
    };
    return markBands(tensor, kernels, search, bandOf);
  },
} satisfies Sparsifier);

function keptCount(tensor: MergeTensor, input: MergeInput): number {
  const count = Math.floor(numberParameter(input.parameters, "density") * elementCount(tensor.shape));
  return Math.max(count, numberParameter(tensor.parameters, "min_keep"));
}

/** Positions [first, end) in ascending order that are kept. */
type KeptSpan = { readonly first: number; readonly end: number };

function keptSpan({ shape, rules }: MergeTensor, { parameters }: MergeInput): KeptSpan {
  const total = elementCount(shape);
  const keep = Math.floor(numberParameter(parameters, "density") * total);
  const top = Math.floor(numberParameter(parameters, "gamma") * total);
  if (top === 0 && rules.strict) return { first: 0, end: 0 };
  const bottom = total - keep - top;
  return { first: Math.max(0, bottom), end: total - (bottom < 0 ? top + bottom : top) };
}

/** Ranks, 1 for the largest, of the first and the last kept position, where something lies beyond. */
function ranksOf({ first, end }: KeptSpan, total: number): readonly number[] {
  if (first >= end) return [];
  return [...(first > 0 ? [total - first] : []), ...(end < total ? [total - end + 1] : [])];
}

/** Elements of one key: those whose ordinal, in index order, is in [from, to) are kept. */
type EqualClass = Cut & { readonly from: number; readonly to: number };

/** Kept are the keys between low and high; where a bound is the key of a class, the class decides. */
type Band = KeyBand & { readonly classes: readonly EqualClass[] };

const NOTHING: Band = Object.freeze({ classes: [], low: 1, high: 0 });

/** The `count` largest, whose last has that cut. */
function largestBand(cut: Cut, count: number): Band {
  return { classes: [{ ...cut, from: 0, to: count - cut.above }], low: cut.key, high: KEY_MAX };
}

/**
 * Marks the `count` elements of largest magnitude, of equal ones at the cut those with the lowest index; `cut` is that
 * of rank `count`, `scratch` has room for a tile of keys.
 */
export function markLargest(kernels: Kernels, cut: Cut, count: number, scratch: Block): MarkTile {
  const band = largestBand(cut, count);
  return (source, tile, bits, bitOffset) =>
    markBand(kernels, band, scratch, tile.deltas(source), tile, bits, bitOffset);
}

/** The classes at the two ends; one, when both ends have the same key. */
function bandClasses(total: number, span: KeptSpan, low: Cut | undefined, high: Cut | undefined): EqualClass[] {
  /** Ordinal, within the class of a cut, of an ascending position. */
  const ordinal = (cut: Cut, position: number) => position - (total - cut.above - cut.equal);
  if (low !== undefined && high !== undefined && low.key === high.key) {
    return [{ ...low, from: ordinal(low, span.first), to: ordinal(low, span.end) }];
  }
  return [
    ...(low === undefined ? [] : [{ ...low, from: ordinal(low, span.first), to: low.equal }]),
    ...(high === undefined ? [] : [{ ...high, from: 0, to: ordinal(high, span.end) }]),
  ];
}

function markBands(
  tensor: MergeTensor,
  kernels: Kernels,
  search: ReturnType<typeof createCutSearch>,
  bandOf: (source: number) => Band,
): Sparsification {
  let known: readonly Band[] | undefined;
  const bandAt = (source: number): Band => {
    known ??= tensor.inputs.map((_, index) => bandOf(index));
    return known[source] ?? NOTHING;
  };
  return {
    reduce: search.passes,
    mark(source, tile, bits, bitOffset) {
      markBand(kernels, bandAt(source), search.scratch(source), tile.deltas(source), tile, bits, bitOffset);
    },
    bandIn(source, { firstElement, count }) {
      const own = bandAt(source);
      const first = firstElement / TILE_ELEMENTS;
      const { band, splits } = bandInTile(own, first);
      if (splits.length > 0) return { band: undefined, count: Math.min(count, TILE_ELEMENTS) };
      const end = own.classes.reduce(
        (least, each) => changeOf(each, first, least),
        Math.ceil(count / TILE_ELEMENTS) + first,
      );
      return { band, count: Math.min(count, (end - first) * TILE_ELEMENTS) };
    },
  };
}

/** The first tile behind `first`, up to `end`, that may keep another part of the class. */
function changeOf({ from, to, equalBefore }: EqualClass, first: number, end: number): number {
  const equalUpTo = (tile: number) => equalBefore[tile + 1] ?? 0;
  const bound = [from, to].find((ordinal) => equalUpTo(first) <= ordinal) ?? Number.POSITIVE_INFINITY;
  let tile = first + 1;
  while (tile < end && equalUpTo(tile) <= bound) tile++;
  return tile;
}

/** Of the keys that are equal to one in a tile, those whose ordinal is in [skip, end). */
type Split = { readonly key: number; readonly skip: number; readonly end: number };

/** What a band keeps of a tile: the keys of another, and parts of classes that begin or end within the tile. */
function bandInTile(
  { classes, low, high }: Band,
  index: number,
): { readonly band: KeyBand; readonly splits: readonly Split[] } {
  const left = classes.flatMap(({ key, from, to, equalBefore }): readonly Split[] => {
    const [before, after] = [equalBefore[index] ?? 0, equalBefore[index + 1] ?? 0];
    const [skip, end] = [Math.max(0, from - before), Math.min(after, to) - before];
    return skip === 0 && end === after - before ? [] : [{ key, skip, end }];
  });
  const isOpen = (key: number) => left.some((own) => own.key === key);
  const band = { low: isOpen(low) ? low + 1 : low, high: isOpen(high) ? high - 1 : high };
  return { band, splits: left.filter(({ skip, end }) => skip < end) };
}

/** Marks what a band keeps of a tile. */
function markBand(
  kernels: Kernels,
  own: Band,
  scratch: Block,
  deltas: Deltas,
  tile: DeltaTile,
  bits: Block,
  bitOffset: number,
): void {
  const { band, splits } = bandInTile(own, tile.firstElement / TILE_ELEMENTS);
  kernels.markKeys(deltas, band, bits, bitOffset, tile.count);
  for (const split of splits) {
    kernels.writeKeys(deltas, scratch, 0, tile.count);
    markEqual(wordsOf(scratch).subarray(0, tile.count), split, bits, bitOffset);
  }
}

/** Sets the bits of a split's elements. */
function markEqual(keys: Uint32Array, { key, skip, end }: Split, bits: Block, bitOffset: number): void {
  let ordinal = 0;
  keys.forEach((other, i) => {
    if (other !== key) return;
    if (ordinal >= skip && ordinal < end) setBit(bits, bitOffset + i, true);
    ordinal++;
  });
}
