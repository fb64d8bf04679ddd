// Model Stock in 16 bits, as the reference computes it when files or recipe say float16 or bfloat16: every step is
// rounded to the working dtype, sums once at their end. Only `mergekit_compat: strict` asks for it; it is element by
// element and slow. Source: merge reference, sections 2.1 and 4.12.
import type { Kernels } from "../../ops/kernels.ts";
import type { MergeTensor, Pass, TensorProgram } from "../method.ts";
import { splitBase, splitTiles } from "./base-tiles.ts";
import type { Grouping } from "./vector-groups.ts";
import { commonRound, createWorkingDifferences } from "./working-differences.ts";

/** `floor` bounds a product of two norms and rounds to the working dtype too. */
export function compileStockWorking(
  tensor: MergeTensor,
  kernels: Kernels,
  { groups, of }: Grouping,
  floor: number,
): TensorProgram {
  const round = commonRound(tensor);
  const split = splitBase(tensor);
  const n = split.others.length;
  const pairs = split.others.flatMap((_, i) => split.others.slice(i + 1).map((_, j) => [i, i + 1 + j] as const));
  const toDifferences = createWorkingDifferences(tensor, kernels, "row");
  const squares = split.others.map(() => new Float64Array(groups));
  const products = pairs.map(() => new Float64Array(groups));
  const measure: Pass = {
    tile(view) {
      const { others } = splitTiles(toDifferences(view), split);
      for (let i = 0; i < view.count; i++) {
        const group = of(view.firstElement + i);
        const own = others.map(({ values }) => values[i] ?? 0);
        squares.forEach((sums, model) => {
          sums[group] = (sums[group] ?? 0) + (own[model] ?? 0) ** 2;
        });
        products.forEach((sums, index) => {
          const [a = 0, b = 0] = pairs[index] ?? [];
          sums[group] = (sums[group] ?? 0) + round((own[a] ?? 0) * (own[b] ?? 0));
        });
      }
    },
    finish() {
      shares = Array.from({ length: groups }, (_, group) => shareOf(group));
    },
  };
  /** t of a group. */
  const shareOf = (group: number): number => {
    const norms = squares.map((sums) => round(Math.sqrt(sums[group] ?? 0)));
    const cosines = pairs.map(([a, b], index) => {
      const scale = Math.max(round((norms[a] ?? 0) * (norms[b] ?? 0)), round(floor));
      return Math.min(1, Math.max(-1, round(round(products[index]?.[group] ?? 0) / scale)));
    });
    const cosine = round(cosines.reduce((sum, value) => Math.fround(sum + value), 0) / pairs.length);
    const free = round(round(n * cosine) / round(1 + round((n - 1) * cosine)));
    return tensor.parameters.clamp_t === true ? Math.min(1, Math.max(0, free)) : free;
  };
  let shares: readonly number[] = [];
  return {
    reduce: [measure],
    apply: {
      tile(view) {
        const { base, others } = splitTiles(view, split);
        for (let i = 0; i < view.count; i++) {
          const t = shares[of(view.firstElement + i)] ?? 0;
          const mean = round(others.reduce((sum, { values }) => round(sum + (values[i] ?? 0)), 0) / n);
          view.output.values[i] = round(round(t * mean) + round(round(1 - t) * (base.values[i] ?? 0)));
        }
      },
    },
  };
}
