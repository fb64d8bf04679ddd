// SCE in 16 bits, as the reference computes it when files or recipe say float16 or bfloat16: every step is rounded to
// the working dtype, sums once at their end. Only `mergekit_compat: strict` asks for it; it is element by element and
// slow. Source: merge reference, sections 2.1 and 4.11.
import type { MarkedBits } from "../../ops/consensus.ts";
import { bitAt, countBits } from "../../ops/deltas.ts";
import type { Kernels } from "../../ops/kernels.ts";
import { elementCount } from "../../tensor.ts";
import { type MergeTensor, numberParameter, type Pass, type TensorProgram, type TileView } from "../method.ts";
import { splitBase, splitTiles } from "./base-tiles.ts";
import { selectByVariance } from "./variance-selection.ts";
import { commonRound, createWorkingDifferences } from "./working-differences.ts";
import { addUp } from "./working-steps.ts";

/** Constants of the method, which round to the working dtype too. */
export type SceFloors = { readonly energy: number; readonly weights: number };

export function compileSceWorking(tensor: MergeTensor, kernels: Kernels, floors: SceFloors): TensorProgram {
  const split = splitBase(tensor);
  const round = commonRound(tensor);
  const toDifferences = createWorkingDifferences(tensor, kernels);
  const selection = selectByVariance(tensor, kernels, numberParameter(tensor.parameters, "select_topk"), round);
  let mark: ((view: TileView) => MarkedBits) | undefined;
  let marks: MarkedBits | undefined;
  /** The kept differences of a tile's element, by model. */
  const keptOf = (view: TileView): ((i: number) => readonly number[]) => {
    const differences = toDifferences(view);
    if (view.firstElement === 0 || mark === undefined) mark = selection.startMarking();
    marks = mark(differences);
    const { bits, bitOffset } = marks;
    const { others } = splitTiles(differences, split);
    return (i) => others.map(({ values }) => (values[i] ?? 0) * (bitAt(bits, bitOffset + i) ? 1 : 0));
  };
  const energies = split.others.map(() => 0);
  const measure: Pass = {
    tile(view) {
      const kept = keptOf(view);
      for (let i = 0; i < view.count; i++) {
        kept(i).forEach((value, model) => {
          energies[model] = (energies[model] ?? 0) + round(value * value);
        });
      }
    },
  };
  let weights: readonly number[] = [];
  const reduce = selection.reduce.map((pass): Pass => ({ ...pass, tile: (view) => pass.tile(toDifferences(view)) }));
  return {
    reduce: [
      ...reduce,
      {
        ...measure,
        finish() {
          const squares = energies.map((energy) => round(energy / elementCount(tensor.shape)));
          const sum = addUp(squares, round);
          weights = squares.map((own) => round(Math.abs(sum) < floors.energy ? 1 / squares.length : own / sum));
        },
      },
    ],
    apply: {
      tile(view) {
        const kept = keptOf(view);
        const { base } = splitTiles(view, split);
        for (let i = 0; i < view.count; i++) {
          const own = kept(i);
          const majority = addUp(own, round) >= 0 ? 1 : -1;
          const erased = own.map((value, model) => (Math.sign(value) === majority ? (weights[model] ?? 0) : 0));
          const sum = addUp(
            own.map((value, model) => round(value * (erased[model] ?? 0))),
            round,
          );
          const divisor = Math.max(addUp(erased, round), round(floors.weights));
          view.output.values[i] = round((base.values[i] ?? 0) + round(sum / divisor));
        }
      },
    },
    countKept({ count }) {
      const kept = marks === undefined ? 0 : countBits(marks.bits, marks.bitOffset, count);
      return split.others.map(() => kept);
    },
  };
}
