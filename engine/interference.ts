// How the models of one tensor agree and disagree, measured on the tiles of the pass that merges it: no extra reading.
import { listPairs, type TensorStatistics } from "../core/artifact/statistics.ts";
import type { Kernels, Tile } from "../core/ops/kernels.ts";

/** What one tensor's statistics say of its vectors, in the order of the tensor's inputs without the base. */
export type TensorInterference = Pick<TensorStatistics, "signConflicts"> & {
  readonly norms: readonly number[];
  readonly cosines: readonly (number | null)[];
  /** Elements that the method kept; null where it does not choose among them. */
  readonly kept: readonly number[] | null;
};

export type Interference = {
  /** One tile of every input, widened; `inputs` in the tensor's order. */
  tile(inputs: readonly Tile[], count: number): void;
  /** The method's count for the same tile, by vector. */
  addKept(counts: readonly number[]): void;
  result(): TensorInterference;
};

/**
 * Norms, cosines and sign conflicts of the inputs' differences to the base, or of the inputs themselves when there is
 * no base. Sums are float64 by tile, tiles in order, so the numbers depend on nothing but the values.
 */
export function createInterference(
  kernels: Kernels,
  inputs: readonly { readonly isBase: boolean }[],
  tileElements: number,
): Interference {
  const base = inputs.findIndex(({ isBase }) => isBase);
  const vectors = inputs.map((_, index) => index).filter((index) => index !== base);
  const pairs = listPairs(vectors.length);
  const deltas = base < 0 ? [] : vectors.map(() => kernels.allocateTile(tileElements));
  const marks = kernels.allocateTile(tileElements);
  const squares = vectors.map(() => 0);
  const dots = pairs.map(() => 0);
  let signConflicts = 0;
  let kept: readonly number[] | null = null;
  return {
    tile(tiles, count) {
      const origin = tiles[base];
      const own = vectors.flatMap((index, position) => {
        const [tile, delta] = [tiles[index], deltas[position]];
        if (tile === undefined) return [];
        if (origin === undefined || delta === undefined) return [tile];
        kernels.subtract(delta, tile, origin, count);
        return [delta];
      });
      own.forEach((vector, index) => {
        squares[index] = (squares[index] ?? 0) + kernels.dot(vector, vector, count);
        kernels.markSigns(marks, vector, index === 0, count);
      });
      pairs.forEach(([i, j], index) => {
        const [a, b] = [own[i], own[j]];
        if (a !== undefined && b !== undefined) dots[index] = (dots[index] ?? 0) + kernels.dot(a, b, count);
      });
      if (own.length > 0) signConflicts += kernels.countConflicts(marks, count);
    },
    addKept(counts) {
      kept = counts.map((own, index) => own + (kept?.[index] ?? 0));
    },
    result() {
      const norms = squares.map(Math.sqrt);
      const cosines = pairs.map(([i, j], index) => {
        const product = (norms[i] ?? 0) * (norms[j] ?? 0);
        return product === 0 ? null : (dots[index] ?? 0) / product;
      });
      return { norms, cosines, signConflicts, kept };
    },
  };
}
