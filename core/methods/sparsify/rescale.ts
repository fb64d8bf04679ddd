// What makes up for dropped elements, and what divides the sum: the scalars of the task-vector family, each rounded to
// the precision that the caller computes in. Source: merge reference, section 4.6 steps 3 and 5, section 4.8.
import type { Kernels } from "../../ops/kernels.ts";
import type { TaskVectorTask } from "../frames/task-vector.ts";
import { RESCALES, type Rescale } from "../frames/task-vector.ts";
import type { ParameterValues } from "../method.ts";
import type { MaskStore } from "./mask-store.ts";
import type { DeltaPass } from "./sparsifier.ts";

/** |sum of weights| below this divides by 1 instead. */
const DIVISOR_FLOOR = 1e-8;
/** A sum of magnitudes below this leaves the difference unscaled. */
const SUM_FLOOR = 1e-7;

/** To the precision of the arithmetic. */
export type Round = (value: number) => number;

/** The kind of rescaling that a tensor's parameters ask for. */
export function rescaleOf({ rescale }: ParameterValues): Rescale {
  if (rescale === true) return "l1";
  return RESCALES.find((known) => known === rescale) ?? "none";
}

/** Without election: the sum of the rounded weights in model order, or 1 where it is nearly 0 or not asked for. */
export function divisorOf({ vectors, normalizes, elects }: TaskVectorTask, round: Round): number {
  if (!normalizes || elects) return 1;
  const sum = round(vectors.reduce((total, { weight }) => Math.fround(total + round(weight)), 0));
  return Math.abs(sum) < DIVISOR_FLOOR ? 1 : sum;
}

/**
 * Factors by sparse model, and the passes that they need: l1: sum |D| / sum |D kept|, unless one of the sums is below
 * 1e-7; inverse_density: 1 / density.
 */
export function rescaling(
  { rescale, sparse, vectors }: TaskVectorTask,
  masks: MaskStore,
  takesWindows: boolean,
  kernels: Kernels,
  round: Round,
): { scales: readonly number[]; passes: readonly DeltaPass[] } {
  if (rescale !== "l1" || sparse.inputs.length === 0) {
    const inverse = vectors.flatMap((vector) => (vector.sparse === undefined ? [] : inverseOf(vector.density, round)));
    return { scales: rescale === "inverse_density" ? inverse : [], passes: [] };
  }
  const scales = sparse.inputs.map(() => 1);
  const sums = sparse.inputs.map(() => ({ all: 0, kept: 0 }));
  const pass: DeltaPass = {
    takesWindows,
    tile(tile) {
      masks.enter(tile);
      sums.forEach((sum, source) => {
        const { bits, bitOffset } = masks.marksOf(source);
        kernels.addMagnitudes(sum, tile.deltas(source), bits, bitOffset, tile.count, tile.tileElements);
      });
    },
    finish() {
      sums.forEach((sum, source) => {
        const [all, kept] = [round(sum.all), round(sum.kept)];
        scales[source] = all < SUM_FLOOR || kept < SUM_FLOOR ? 1 : round(all / kept);
      });
    },
  };
  return { scales, passes: [pass] };
}

/** Nothing is kept at a density of 0: no factor helps. */
function inverseOf(density: number, round: Round): number {
  return density > 0 ? round(1 / density) : 1;
}
