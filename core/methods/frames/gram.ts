// Dot products of whole tensors, all pairs in one pass. Many methods need no more than these: every vector they build
// is a linear combination of their inputs, so lengths and angles follow from the products, and the result is applied as
// one combination.
import assert from "node:assert/strict";
import type { Block, Kernels } from "../../ops/kernels.ts";
import type { StoredPass } from "../method.ts";
import type { BaseSplit } from "./base-tiles.ts";

/** Symmetric matrix of the dot products of n vectors, row by row, in float64. */
export type Gram = readonly (readonly number[])[];

/** `gram` is filled when the pass is over. */
export type GramPass = { readonly pass: StoredPass; readonly gram: Gram };

/**
 * A reduce pass that fills `gram` with the products of the inputs beside the base, or, where there is a base, of their
 * differences to it. Order: `addProducts` by tile, tiles in order.
 */
export function createGramPass(kernels: Kernels, { base, others: vectors }: BaseSplit): GramPass {
  const n = vectors.length;
  const gram = vectors.map(() => vectors.map(() => 0));
  const sums = new Float64Array(n * n);
  const pass: StoredPass = {
    takesWindows: true,
    storedTile({ dtype, inputs, byteOffset, count, tileElements }) {
      const sources = vectors.map((index) => inputAt(inputs, index));
      const origin = base < 0 ? undefined : inputAt(inputs, base);
      kernels.addProducts(sums, { dtype, base: origin, sources, byteOffset }, count, tileElements);
    },
    finish() {
      gram.forEach((row, i) => {
        for (const j of row.keys()) row[j] = sums[Math.min(i, j) * n + Math.max(i, j)] ?? 0;
      });
    },
  };
  return { pass, gram };
}

function inputAt(inputs: readonly Block[], index: number): Block {
  const input = inputs[index];
  assert.ok(input !== undefined, "a vector without an input");
  return input;
}

/** Product of vectors i and j. */
export function product(gram: Gram, i: number, j: number): number {
  return gram[i]?.[j] ?? 0;
}

/** L2 norms of the vectors. */
export function normsOf(gram: Gram): readonly number[] {
  return gram.map((_, index) => Math.sqrt(product(gram, index, index)));
}

/** Product of two combinations of the vectors: a^T G b. */
export function combinedProduct(gram: Gram, a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, left, i) => sum + b.reduce((row, right, j) => row + left * right * product(gram, i, j), 0), 0);
}

/** The products of the vectors scaled by `factors`. */
export function scaleGram(gram: Gram, factors: readonly number[]): Gram {
  return gram.map((row, i) => row.map((value, j) => value * (factors[i] ?? 0) * (factors[j] ?? 0)));
}
