import { z } from "zod";
import { MergeyardError } from "../error.ts";
import type { Tile } from "../ops/kernels.ts";
import { type MergeMethod, type MergeTensor, numberParameter } from "./method.ts";
import { splitStatistics } from "./statistics.ts";
import { type Round, stateList } from "./whole-model.ts";

/**
 * Fisher merging: R = sum_i c_i (F_i + m) W_i / sum_i c_i (F_i + m), F_i the diagonal of model i's Fisher information,
 * given as `statistics`; m = `minimal_fisher_weight`, c_i = `weight`. With `normalize_fisher_weight` c_i is divided by
 * |F_i| + m, |F_i| the L2 norm over all tensors that have statistics. A tensor that no model has statistics of is the
 * average by c_i.
 * A negative F_i is refused (EngineMethodDegenerate).
 * Order and rounding: float64, sums in model order, one rounding to float32; norms in float64 by tile.
 * Source: Matena and Raffel, arXiv:2111.09832; fusion_bench `fisher_merging`, merge reference section 7.2.
 */
export const fisher = Object.freeze({
  id: "fisher",
  title: "Fisher merging (given diagonals)",
  source: "Merging Models with Fisher-Weighted Averaging, arXiv:2111.09832",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "none",
  locality: "element",
  reducePasses: 0,
  scratchTiles: () => 0,
  seeded: false,
  embeddingMismatch: "error",
  parameters: z.strictObject({
    normalize_fisher_weight: z.boolean().default(true),
    minimal_fisher_weight: z.number().positive().default(1e-6),
  }),
  modelParameters: z.strictObject({ weight: z.number().nonnegative().default(1) }),
  statistics: { title: "diagonal Fisher information", shapeOf: (shape) => shape, followsRows: true },
  wholeModel: {
    shared: ["normalize_fisher_weight"],
    rounds: ({ parameters }) => (parameters.normalize_fisher_weight === true ? [NORMS] : []),
  },
  refuse({ inputs }) {
    if (weightsOf(inputs).some((weight) => weight > 0)) return undefined;
    return { parameter: "weight", found: "0 for every model", expected: "a weight above 0" };
  },
  compile(tensor) {
    const factors = factorsOf(tensor);
    const { models, statistics } = splitStatistics(tensor);
    if (statistics.length === 0) {
      const divisor = factors.reduce((sum, factor) => Math.fround(sum + Math.fround(factor)), 0);
      return {
        reduce: [],
        apply: { deltas: false, combination: () => ({ factors, divisor, multiplier: 1 }) },
      };
    }
    const least = numberParameter(tensor.parameters, "minimal_fisher_weight");
    return {
      reduce: [],
      apply: {
        tile({ inputs, output, count }) {
          const weights = models.flatMap((index) => inputs[index] ?? []);
          const information = statistics.flatMap((index) => inputs[index] ?? []);
          refuseNegative(tensor, statistics, information, count);
          averageBy({ weights, information, factors, least }, output, count);
        },
      },
    };
  },
} satisfies MergeMethod);

/** A mean of squares is 0 or more: anything else is no Fisher information, and could make the divisor 0. */
function refuseNegative(
  { name, inputs }: MergeTensor,
  statistics: readonly number[],
  information: readonly Tile[],
  count: number,
): void {
  information.forEach(({ values }, index) => {
    for (let i = 0; i < count; i++) {
      if (!((values[i] ?? 0) < 0)) continue;
      throw new MergeyardError("EngineMethodDegenerate", {
        where: { model: inputs[statistics[index] ?? -1]?.model, tensor: name },
        found: `${values[i]} in statistics`,
        expected: "diagonal Fisher information, 0 or more everywhere",
        hint: "measure the mean of squared gradients",
      });
    }
  });
}

type Average = {
  readonly weights: readonly Tile[];
  readonly information: readonly Tile[];
  readonly factors: readonly number[];
  readonly least: number;
};

function averageBy({ weights, information, factors, least }: Average, output: Tile, count: number): void {
  for (let i = 0; i < count; i++) {
    let [sum, total] = [0, 0];
    for (let model = 0; model < weights.length; model++) {
      const share = (factors[model] ?? 0) * ((information[model]?.values[i] ?? 0) + least);
      sum += share * (weights[model]?.values[i] ?? 0);
      total += share;
    }
    output.values[i] = sum / total;
  }
}

/** c_i up to a factor that they have in common, which cancels out. */
function factorsOf(tensor: MergeTensor): readonly number[] {
  const weights = weightsOf(tensor.inputs);
  if (tensor.parameters.normalize_fisher_weight !== true) return weights;
  const least = numberParameter(tensor.parameters, "minimal_fisher_weight");
  const norms = stateList(tensor.state, "norms");
  const own = weights.map((weight, index) => weight / ((norms[index] ?? 0) + least));
  const total = own.reduce((sum, factor) => sum + factor, 0);
  return own.map((factor) => factor / total);
}

function weightsOf(inputs: MergeTensor["inputs"]): readonly number[] {
  const models = inputs.filter(({ statistic }) => statistic === undefined);
  return models.map(({ parameters }) => numberParameter(parameters, "weight"));
}

/** L2 norms of the models' diagonals. */
const NORMS: Round = Object.freeze({
  totals: (tensor) => ({ squares: { kind: "sum", length: splitStatistics(tensor).models.length } }),
  scratchBytes: () => 0,
  measure(tensor, kernels) {
    const { models, statistics } = splitStatistics(tensor);
    const squares = new Float64Array(models.length);
    return {
      pass: {
        tile({ inputs, count }) {
          statistics.forEach((place, index) => {
            const information = inputs[place];
            if (information === undefined) return;
            squares[index] = (squares[index] ?? 0) + kernels.dot(information, information, count);
          });
        },
      },
      totals: () => ({ squares }),
    };
  },
  decide: ({ squares }) => ({ norms: Array.from(squares ?? [], Math.sqrt) }),
} satisfies Round);
