// Combining LoRA adapters into one: what PEFT's add_weighted_adapter does to the factors of one module, in float64.
// Called by the step that merges adapters.
// Source: peft at 5d602fdb, LoraModel.add_weighted_adapter and utils/merge_utils.py; merge reference section 12.1.
import {
  type Allocate,
  allocateMatrix,
  firstRows,
  type Matrix,
  multiply,
  onHeap,
  rowOf,
  transpose,
} from "../ops/linalg/matrix.ts";
import { svd } from "../ops/linalg/svd.ts";
import { type StreamKey, uniformAt } from "../random.ts";

/** One adapter's factors of a module: A is [rank, inputs], B is [outputs, rank], its change of the weight scale B A. */
export type WeightedFactors = {
  readonly a: Matrix;
  readonly b: Matrix;
  readonly scale: number;
  readonly weight: number;
  /** Streams of random numbers: of A, or of the whole change, and of B. */
  readonly keys: readonly [StreamKey, StreamKey];
};

/** The factors of the result, whose scale is 1. */
export type CombinedFactors = { readonly a: Matrix; readonly b: Matrix };

export type CombineOptions = {
  /** Share of the elements that is kept; 1 or more keeps all. */
  readonly density: number;
  /** How signs are elected: of the sum, or of the number of models. */
  readonly majority: "total" | "frequency";
  /** Rank of the result where it is free; the largest of the adapters unless said. */
  readonly rank: number | undefined;
  /** Quantile of the factors' values that bounds them, where the rank is free. */
  readonly clamp: number | undefined;
  /** PEFT's own arithmetic, which multiplies by an adapter's scale twice where the rank is free. */
  readonly strict: boolean;
};

type Sparsify = "none" | "magnitude" | "random";

/** How a combination works. on: it adds factor to factor, or whole changes, which it takes apart again. */
export type Combination = {
  readonly on: "stack" | "factors" | "changes";
  readonly sparsify: Sparsify;
  readonly elects: boolean;
};

const sparsified = { linear: "none", ties: "magnitude", dare_linear: "random", dare_ties: "random" } as const;

/** Every `combination_type` of PEFT, by its name there. */
export const COMBINATIONS: ReadonlyMap<string, Combination> = new Map<string, Combination>([
  ["cat", { on: "stack", sparsify: "none", elects: false }],
  ...[...Object.entries(sparsified), ["magnitude_prune", "magnitude"] as const].map(
    ([name, sparsify]) => [name, { on: "factors", sparsify, elects: name.endsWith("ties") }] as const,
  ),
  ...[
    ["svd", "none"] as const,
    ["ties_svd", "magnitude"] as const,
    ["dare_linear_svd", "random"] as const,
    ["dare_ties_svd", "random"] as const,
    ["magnitude_prune_svd", "magnitude"] as const,
  ].map(([name, sparsify]) => [name, { on: "changes", sparsify, elects: name.includes("ties") }] as const),
]);

/**
 * The result's factors of one module; `factors` has one entry for each adapter that has it. Combinations on factors
 * need one rank: the caller has checked it. Memory: those on changes hold all of them, [outputs, inputs] each, except
 * `svd`.
 */
export function combineFactors(
  how: Combination,
  factors: readonly WeightedFactors[],
  options: CombineOptions,
): CombinedFactors {
  if (how.on === "stack") return stackFactors(factors);
  if (how.on === "factors") return addFactors(how, factors, options);
  if (how.sparsify === "none")
    return decomposeStack(stackFactors(factors.map((own) => rescale(own, options))), options, factors);
  return decomposeChanges(how, factors, options);
}

/** A's rows w s A_i one below the other, B's columns side by side: exactly the weighted sum. */
function stackFactors(factors: readonly WeightedFactors[]): CombinedFactors {
  const rank = factors.reduce((sum, { a }) => sum + a.rows, 0);
  const [first] = factors;
  const a = allocateMatrix(onHeap, rank, first?.a.columns ?? 0);
  const b = allocateMatrix(onHeap, first?.b.rows ?? 0, rank);
  let at = 0;
  for (const own of factors) {
    a.values.set(own.a.values, at * a.columns);
    scaleRow(a.values.subarray(at * a.columns, (at + own.a.rows) * a.columns), own.weight * own.scale);
    for (let row = 0; row < b.rows; row++) b.values.set(rowOf(own.b, row), row * rank + at);
    at += own.a.rows;
  }
  return { a, b };
}

/** Each factor by itself: sqrt|w s| of B_i, and with the sign of A_i. B A then has cross terms B_i A_j. */
function addFactors(how: Combination, factors: readonly WeightedFactors[], options: CombineOptions): CombinedFactors {
  const roots = factors.map(({ weight, scale }) => Math.sqrt(Math.abs(weight * scale)));
  const signed = roots.map((root, i) => ((factors[i]?.weight ?? 0) * (factors[i]?.scale ?? 0) < 0 ? -root : root));
  const [first] = factors;
  const part = (side: "a" | "b", weights: readonly number[]): Matrix => {
    const parts = factors.map((own) => ({ values: own[side].values, key: own.keys[side === "a" ? 0 : 1] }));
    const { rows = 0, columns = 0 } = first?.[side] ?? {};
    return { rows, columns, values: combineValues(how, parts, weights, options) };
  };
  return { a: part("a", signed), b: part("b", roots) };
}

type Part = { readonly values: Float64Array; readonly key: StreamKey };

/** Sparsified tensors of one shape, summed by their weights; with election, the mean of those that agree. */
function combineValues(
  { sparsify, elects }: Combination,
  parts: readonly Part[],
  weights: readonly number[],
  { density, majority }: CombineOptions,
): Float64Array {
  const kept = parts.map((part) => SPARSIFY[sparsify](part, density));
  const [first] = kept;
  return Float64Array.from(first ?? [], (_, i) => {
    if (!elects) return kept.reduce((sum, values, part) => sum + (weights[part] ?? 0) * (values[i] ?? 0), 0);
    const vote = kept.reduce(
      (sum, values) => sum + (majority === "total" ? (values[i] ?? 0) : Math.sign(values[i] ?? 0)),
      0,
    );
    const sign = vote >= 0 ? 1 : -1;
    let [sum, count] = [0, 0];
    kept.forEach((values, part) => {
      if (Math.sign(values[i] ?? 0) !== sign) return;
      sum += (weights[part] ?? 0) * (values[i] ?? 0);
      count++;
    });
    return sum / Math.max(count, 1);
  });
}

const SPARSIFY: Readonly<Record<Sparsify, (part: Part, density: number) => Float64Array>> = {
  none: ({ values }) => values,
  magnitude({ values }, density) {
    if (density >= 1) return values;
    const kept = new Float64Array(values.length);
    const order = Array.from(values, (_, i) => i).sort(
      (i, j) => Math.abs(values[j] ?? 0) - Math.abs(values[i] ?? 0) || i - j,
    );
    for (const i of order.slice(0, Math.floor(density * values.length))) kept[i] = values[i] ?? 0;
    return kept;
  },
  random({ values, key }, density) {
    if (density >= 1) return values;
    return values.map((value, i) => (uniformAt(key, i) < density ? value / density : 0));
  },
};

function rescale(own: WeightedFactors, { strict }: CombineOptions): WeightedFactors {
  return strict ? { ...own, weight: own.weight * own.scale } : own;
}

function rankOf(factors: readonly WeightedFactors[], { rank }: CombineOptions, most: number): number {
  return Math.min(rank ?? factors.reduce((largest, { a }) => Math.max(largest, a.rows), 0), most);
}

/** Whole changes, sparsified and summed, then taken apart. */
function decomposeChanges(
  how: Combination,
  factors: readonly WeightedFactors[],
  options: CombineOptions,
): CombinedFactors {
  const parts = factors.map(({ a, b, scale, keys }) => {
    const change = allocateMatrix(onHeap, b.rows, a.columns);
    multiply(change, b, a);
    scaleRow(change.values, scale);
    return { values: change.values, key: keys[0] };
  });
  const weights = factors.map(({ weight, scale }) => (options.strict ? weight * scale : weight));
  const [rows, columns] = [factors[0]?.b.rows ?? 0, factors[0]?.a.columns ?? 0];
  const change = { rows, columns, values: combineValues(how, parts, weights, options) };
  const { left, values, right } = svd(change, onHeap);
  return truncate(left, values, right, rankOf(factors, options, values.length), options);
}

/**
 * B A taken apart without forming it: with B = U S V^T and A = X T Y^T, the small S V^T X T has the singular values.
 * Costs the square of the stacked rank times the sides, where the whole change would cost the cube of a side.
 */
function decomposeStack(
  { a, b }: CombinedFactors,
  options: CombineOptions,
  factors: readonly WeightedFactors[],
): CombinedFactors {
  const [outer, inner] = [svd(b, onHeap), svd(a, onHeap)];
  const middle = allocateMatrix(onHeap, outer.left.rows, inner.left.rows);
  const turned = allocateMatrix(onHeap, inner.left.columns, inner.left.rows);
  transpose(turned, inner.left);
  multiply(middle, outer.right, turned);
  for (let i = 0; i < middle.rows; i++) {
    const row = rowOf(middle, i);
    for (let j = 0; j < row.length; j++) row[j] = (row[j] ?? 0) * (outer.values[i] ?? 0) * (inner.values[j] ?? 0);
  }
  const own = svd(middle, onHeap);
  const combine = (vectors: Matrix, basis: Matrix, allocate: Allocate): Matrix => {
    const out = allocateMatrix(allocate, vectors.rows, basis.columns);
    multiply(out, vectors, basis);
    return out;
  };
  const rank = rankOf(factors, options, own.values.length);
  return truncate(
    combine(own.left, outer.left, onHeap),
    own.values,
    combine(own.right, inner.right, onHeap),
    rank,
    options,
  );
}

/** B = U S and A = V^T of the first `rank` singular values, perhaps bounded. */
function truncate(
  left: Matrix,
  values: Float64Array,
  right: Matrix,
  rank: number,
  { clamp }: CombineOptions,
): CombinedFactors {
  const vectors = firstRows(left, rank);
  for (let i = 0; i < rank; i++) scaleRow(rowOf(vectors, i), values[i] ?? 0);
  const b = allocateMatrix(onHeap, left.columns, rank);
  transpose(b, vectors);
  const a = firstRows(right, rank);
  if (clamp !== undefined) clampBoth(a.values, b.values, clamp);
  return { a, b };
}

/** Bounds the magnitudes by a quantile of all values, interpolated linearly. */
function clampBoth(a: Float64Array, b: Float64Array, quantile: number): void {
  const all = Float64Array.from([...a, ...b]).sort();
  const position = quantile * (all.length - 1);
  const [low, part] = [Math.floor(position), position - Math.floor(position)];
  const from = all[low] ?? 0;
  const bound = from + part * ((all[low + 1] ?? from) - from);
  for (const values of [a, b]) {
    for (let i = 0; i < values.length; i++) values[i] = Math.min(bound, Math.max(-bound, values[i] ?? 0));
  }
}

function scaleRow(row: Float64Array, factor: number): void {
  for (let i = 0; i < row.length; i++) row[i] = (row[i] ?? 0) * factor;
}
