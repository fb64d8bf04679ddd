// NuSLERP in 16 bits, as the reference computes it when files or recipe say float16 or bfloat16: every step is rounded
// to the working dtype, sums once at their end. Only `mergekit_compat: strict` asks for it; it is element by element
// and slow. Source: merge reference, sections 2.1 and 4.3.
import type { Kernels } from "../../ops/kernels.ts";
import type { MergeTensor, Pass, TensorProgram, TileView } from "../method.ts";
import { splitBase } from "./base-tiles.ts";
import type { Grouping } from "./vector-groups.ts";
import { addBase, commonRound, createWorkingDifferences } from "./working-differences.ts";

/** Constants of the method, which round to the working dtype too. */
type NuslerpFloors = { readonly norm: number; readonly sine: number };

/** What is multiplied with the two vectors of a group, and what their sum is divided by. */
type Arc = { readonly a: number; readonly b: number; readonly divisor: number };

/** The reference divides by a sine of 0 in float16; here, as by default, the arc is a straight line then. */
export function compileNuslerpWorking(
  tensor: MergeTensor,
  kernels: Kernels,
  { groups, of }: Grouping,
  t: number,
  floors: NuslerpFloors,
): TensorProgram {
  const round = commonRound(tensor);
  const { base, others } = splitBase(tensor);
  const toDifferences = createWorkingDifferences(tensor, kernels, "row");
  const [first, second, between] = [new Float64Array(groups), new Float64Array(groups), new Float64Array(groups)];
  const eachPair = (view: TileView, take: (a: number, b: number, group: number, i: number) => void): void => {
    const { inputs } = toDifferences(view);
    const [a, b] = others.map((place) => inputs[place]?.values);
    for (let i = 0; i < view.count; i++) take(a?.[i] ?? 0, b?.[i] ?? 0, of(view.firstElement + i), i);
  };
  const lengths: Pass = {
    tile: (view) =>
      eachPair(view, (a, b, group) => {
        first[group] = (first[group] ?? 0) + a * a;
        second[group] = (second[group] ?? 0) + b * b;
      }),
    finish() {
      for (const sums of [first, second]) {
        sums.forEach((sum, group) => {
          sums[group] = Math.max(round(Math.sqrt(sum)), round(floors.norm));
        });
      }
    },
  };
  const products: Pass = {
    tile: (view) =>
      eachPair(view, (a, b, group) => {
        const product = round(round(a / (first[group] ?? 1)) * round(b / (second[group] ?? 1)));
        between[group] = (between[group] ?? 0) + product;
      }),
    finish() {
      arcs = Array.from(between, arcOf);
    },
  };
  const [rest, share] = [Math.fround(1 - t), Math.fround(t)];
  const arcOf = (cosine: number): Arc => {
    const angle = round(Math.acos(Math.min(1, Math.max(-1, round(cosine)))));
    const sine = round(Math.sin(angle));
    if (sine === 0 || Math.abs(sine) < floors.sine) return { a: rest, b: share, divisor: 1 };
    return { a: round(Math.sin(round(rest * angle))), b: round(Math.sin(round(share * angle))), divisor: sine };
  };
  let arcs: readonly Arc[] = [];
  return {
    reduce: [lengths, products],
    apply: {
      tile(view) {
        const origin = view.inputs[base];
        eachPair(view, (left, right, group, i) => {
          const { a, b, divisor } = arcs[group] ?? { a: rest, b: share, divisor: 1 };
          const sum = round(round(a * left) + round(b * right));
          view.output.values[i] = addBase(divisor === 1 ? sum : round(sum / divisor), origin, i, round);
        });
      },
    },
  };
}
