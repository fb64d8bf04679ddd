// Multi-SLERP in 16 bits, as the reference computes it when files or recipe say float16 or bfloat16: every step is
// rounded to the working dtype, sums once at their end. Only `mergekit_compat: strict` asks for it; it is element by
// element and slow. Source: merge reference, sections 2.1 and 4.4.
import { MergeyardError } from "../../error.ts";
import type { Kernels } from "../../ops/kernels.ts";
import { type MergeTensor, numberParameter, type Pass, type TensorProgram, type TileView } from "../method.ts";
import type { Round } from "../sparsify/rescale.ts";
import type { BaseSplit } from "./base-tiles.ts";
import { addBase, commonRound, createWorkingDifferences } from "./working-differences.ts";
import { addUp } from "./working-steps.ts";

/** The steps at one element, and what the passes have found of the whole tensor. */
type Sphere = {
  readonly round: Round;
  readonly eps: number;
  readonly norms: number[];
  readonly dots: number[];
  meanNorm: number;
  angle: number;
  /** The weighted sum of a value of every vector. */
  weighted(values: readonly number[]): number;
  unitsOf(own: readonly number[]): readonly number[];
  /** The mean direction's part at an element, and the tangents' sum. */
  tangentOf(own: readonly number[]): { readonly mean: number; readonly tangent: number };
  eachElement(view: TileView, take: (own: readonly number[], i: number) => void): void;
};

function createSphere(
  tensor: MergeTensor,
  kernels: Kernels,
  vectors: readonly number[],
  given: readonly number[],
): Sphere {
  const round = commonRound(tensor);
  const toDifferences = createWorkingDifferences(tensor, kernels);
  const rounded = given.map(round);
  const total = addUp(rounded, round);
  const weights = tensor.parameters.normalize_weights === true ? rounded.map((own) => round(own / total)) : rounded;
  const sphere: Sphere = {
    round,
    eps: Math.fround(numberParameter(tensor.parameters, "eps")),
    norms: vectors.map(() => 0),
    dots: vectors.map(() => 0),
    meanNorm: 0,
    angle: 0,
    weighted: (values) =>
      addUp(
        values.map((value, j) => round(value * (weights[j] ?? 0))),
        round,
      ),
    unitsOf: (own) => own.map((value, j) => round(value / round((sphere.norms[j] ?? 0) + sphere.eps))),
    tangentOf(own) {
      const units = sphere.unitsOf(own);
      const mean = round(sphere.weighted(units) / sphere.meanNorm);
      const tangents = units.map((unit, j) => round(unit - round((sphere.dots[j] ?? 0) * mean)));
      return { mean, tangent: sphere.weighted(tangents) };
    },
    eachElement(view, take) {
      const { inputs } = toDifferences(view);
      const sources = vectors.map((place) => inputs[place]?.values);
      const ownAt = (i: number) => sources.map((values) => values?.[i] ?? 0);
      for (let i = 0; i < view.count; i++) take(ownAt(i), i);
    },
  };
  return sphere;
}

/** Lengths, the length of the mean direction, what the directions share with it, and the tangents' length. */
function measures(sphere: Sphere, tensor: string): readonly Pass[] {
  const { round, eps, norms, dots, weighted, unitsOf, tangentOf, eachElement } = sphere;
  const isNeeded = () => sphere.meanNorm >= eps;
  return [
    {
      tile: (view) => eachElement(view, (own) => addTo(norms, own, (value) => value * value)),
      finish: () => roundAll(norms, (sum) => round(Math.sqrt(sum))),
    },
    {
      tile: (view) =>
        eachElement(view, (own) => {
          sphere.meanNorm += weighted(unitsOf(own)) ** 2;
        }),
      finish() {
        sphere.meanNorm = round(Math.sqrt(sphere.meanNorm));
        if (isNeeded() || norms.length === 2) return;
        const found = "directions that cancel out";
        throw new MergeyardError("EngineMethodDegenerate", { where: { tensor }, found });
      },
    },
    {
      isNeeded,
      tile: (view) =>
        eachElement(view, (own) => {
          const units = unitsOf(own);
          const mean = round(weighted(units) / sphere.meanNorm);
          addTo(dots, units, (unit) => round(unit * mean));
        }),
      finish: () => roundAll(dots, round),
    },
    {
      isNeeded,
      tile: (view) =>
        eachElement(view, (own) => {
          sphere.angle += tangentOf(own).tangent ** 2;
        }),
      finish() {
        sphere.angle = round(round(Math.sqrt(sphere.angle)) + eps);
      },
    },
  ];
}

/** `given` are the vectors' weights as the recipe has them. Throws EngineMethodDegenerate as the method does. */
export function compileMultislerpWorking(
  tensor: MergeTensor,
  kernels: Kernels,
  split: BaseSplit,
  given: readonly number[],
): TensorProgram {
  const sphere = createSphere(tensor, kernels, split.others, given);
  const { round, weighted } = sphere;
  /** The straight weighted sum where two directions cancel out. */
  const interpolate = (own: readonly number[]): number => {
    const { angle, meanNorm, eps, norms } = sphere;
    if (meanNorm < eps) return weighted(own);
    const { mean, tangent } = sphere.tangentOf(own);
    const ratio = round(round(Math.sin(angle)) / angle);
    return round(round(round(mean * round(Math.cos(angle))) + round(tangent * ratio)) * weighted(norms));
  };
  return {
    reduce: measures(sphere, tensor.name),
    apply: {
      tile(view) {
        const origin = view.inputs[split.base];
        sphere.eachElement(view, (own, i) => {
          view.output.values[i] = addBase(interpolate(own), origin, i, round);
        });
      },
    },
  };
}

function addTo(sums: number[], values: readonly number[], term: (value: number) => number): void {
  values.forEach((value, index) => {
    sums[index] = (sums[index] ?? 0) + term(value);
  });
}

function roundAll(sums: number[], round: (sum: number) => number): void {
  sums.forEach((sum, index) => {
    sums[index] = round(sum);
  });
}
