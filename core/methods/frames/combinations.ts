// Apply passes that are one linear combination of the inputs, as most methods say them.
import type { Combination } from "../../ops/combine.ts";
import type { TensorProgram } from "../method.ts";
import type { BaseSplit } from "./base-tiles.ts";

/** The sum of the inputs, each times its factor. */
export function weightedSum(factors: readonly number[], divisor = 1): Combination {
  return { factors, divisor, multiplier: 1 };
}

/** The same of the models beside the base, or, where there is a base, of their differences to it. */
export function sumOfOthers(factors: readonly number[], { base, others }: BaseSplit): Combination {
  const all = new Array<number>(others.length + (base < 0 ? 0 : 1)).fill(0);
  others.forEach((place, index) => {
    all[place] = factors[index] ?? 0;
  });
  return weightedSum(all);
}

/** The program of a lone input: its values, perhaps to be rounded to another dtype. */
export function loneProgram(): TensorProgram {
  return { reduce: [], apply: { deltas: false, combination: () => weightedSum([1]) } };
}
