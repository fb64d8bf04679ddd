// Statistics among a tensor's inputs: of each model one, after the models, or none.
import type { RoundTensor } from "../method.ts";

/** Indexes among the inputs: of the models' weights in order, and of their statistics in the same order. */
export type StatisticsSplit = { readonly models: readonly number[]; readonly statistics: readonly number[] };

export function splitStatistics({ inputs }: Pick<RoundTensor, "inputs">): StatisticsSplit {
  const indexes = inputs.map((_, index) => index);
  return {
    models: indexes.filter((index) => inputs[index]?.statistic === undefined),
    statistics: indexes.filter((index) => inputs[index]?.statistic !== undefined),
  };
}
