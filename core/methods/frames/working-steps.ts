// The task-vector family in 16 bits, as the reference computes it when files or recipe say float16 or bfloat16: every
// step is done in float32 and rounded to the working dtype, sums once at their end. Only `mergekit_compat: strict` asks
// for it; it is element by element and slow. Source: merge reference, section 2.1.
import { type HalfDtype, roundingTo } from "../../ops/cast.ts";
import { bitAt, type Deltas } from "../../ops/deltas.ts";
import type { Kernels } from "../../ops/kernels.ts";
import type { Locality, ScratchTensor, TensorProgram, TileView } from "../method.ts";
import { divisorOf, type Round } from "../sparsify/rescale.ts";
import type { DeltaTile } from "../sparsify/sparsifier.ts";
import { tileAt } from "./base-tiles.ts";
import type { Sparsified, TaskVectorTask } from "./task-vector.ts";
import { blockOf, tileElementsMax, tilesBytes } from "./tiles.ts";

/** Kernel memory of `compileWorking`: a tile of differences and one of zeros. */
export function workingBytes(tensor: Pick<ScratchTensor, "shape">, locality: Locality): number {
  return tilesBytes(2, locality, tensor);
}

/** Every step of the frame, rounded to `dtype`. */
export function compileWorking(
  task: TaskVectorTask,
  { masks, scales, reduce }: Sparsified,
  { dtype, locality }: { readonly dtype: HalfDtype; readonly locality: Locality },
  kernels: Kernels,
): TensorProgram {
  const round = roundingTo(dtype);
  const differences = createDifferences(task, round, kernels, tileElementsMax(locality, task.tensor));
  const divisor = divisorOf(task, round);
  return {
    reduce: reduce.map(({ tile, ...options }) => ({
      ...options,
      tile: (view: TileView) => tile(differences.tile(view)),
    })),
    apply: {
      tile(view) {
        masks.enter(differences.tile(view));
        const values = task.vectors.map(({ input, weight, sparse }) => {
          const { bits, bitOffset } = masks.marksOf(sparse);
          const scale = sparse === undefined ? 1 : (scales[sparse] ?? 1);
          return differences
            .values(view, input)
            .map((value, i) => round(round(value * (bitAt(bits, bitOffset + i) ? scale : 0)) * round(weight)));
        });
        const base = tileAt(view.inputs, task.base).values;
        for (let i = 0; i < view.count; i++) {
          const own = values.map((value) => value[i] ?? 0);
          let sum = task.elects ? electSum(own, task, round) : addUp(own, round);
          if (divisor !== 1) sum = round(sum / divisor);
          if (task.multiplier !== 1) sum = round(sum * Math.fround(task.multiplier));
          view.output.values[i] = round((base[i] ?? 0) + sum);
        }
      },
    },
  };
}

/** Rounded differences, one model's at a time; for kernels, as float32 values minus zeros. */
function createDifferences(task: TaskVectorTask, round: Round, kernels: Kernels, tileElements: number) {
  const [delta, zero] = [kernels.allocateTile(tileElements), kernels.allocateTile(tileElements)];
  zero.values.fill(0);
  const stored: Deltas = { dtype: "F32", base: blockOf(zero), source: blockOf(delta), byteOffset: 0 };
  const fill = (view: TileView, input: number): void => {
    const [base, source] = [tileAt(view.inputs, task.base).values, tileAt(view.inputs, input).values];
    for (let i = 0; i < view.count; i++) delta.values[i] = round((source[i] ?? 0) - (base[i] ?? 0));
  };
  return {
    values(view: TileView, input: number): Float32Array {
      fill(view, input);
      return delta.values.subarray(0, view.count);
    },
    tile: (view: TileView): DeltaTile => ({
      firstElement: view.firstElement,
      count: view.count,
      tileElements: view.count,
      deltas(source) {
        fill(view, task.sparseInputs[source] ?? -1);
        return stored;
      },
    }),
  };
}

/** The float32 sum in order, rounded at its end. */
export function addUp(values: readonly number[], round: Round): number {
  return round(values.reduce((sum, value) => Math.fround(sum + value), 0));
}

/** The sum of the values with the majority's sign, divided by their weights where asked. */
function electSum(values: readonly number[], { vectors, normalizes }: TaskVectorTask, round: Round): number {
  const majority = addUp(values, round) >= 0 ? 1 : -1;
  const votes = values.map((value) => (Math.sign(value) === majority ? 1 : 0));
  const chosen = values.map((value, j) => value * (votes[j] ?? 0));
  const sum = addUp(chosen, round);
  if (!normalizes) return sum;
  const weights = vectors.map(({ weight }, j) => round(weight) * (votes[j] ?? 0));
  const divisor = addUp(weights, round);
  return round(sum / (divisor === 0 ? 1 : divisor));
}
