import assert from "node:assert/strict";
import * as z from "zod";
import { MergeyardError } from "../error.ts";
import { TILE_ELEMENTS, type Tile } from "../ops/kernels.ts";
import { weightedSum } from "./frames/combinations.ts";
import { splitStatistics } from "./frames/statistics.ts";
import { type MergeMethod, type MergeTensor, numberParameter, type Round, stateList } from "./method.ts";

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
      return { reduce: [], apply: { deltas: false, combination: () => weightedSum(factors, divisor) } };
    }
    const least = numberParameter(tensor.parameters, "minimal_fisher_weight");
    const [sums, totals] = [new Float64Array(TILE_ELEMENTS), new Float64Array(TILE_ELEMENTS)];
    return {
      reduce: [],
      apply: {
        tile({ inputs, output, count }) {
          sums.fill(0);
          totals.fill(0);
          models.forEach((place, index) => {
            const [weights, information] = [inputs[place], inputs[statistics[index] ?? -1]];
            assert.ok(weights !== undefined && information !== undefined, "a diagonal for every model");
            const smallest = addShares(
              { weights, information, factor: factors[index] ?? 0, least, sums, totals },
              count,
            );
            if (smallest < 0) throw negative(tensor, statistics[index] ?? -1, smallest);
          });
          for (let i = 0; i < count; i++) output.values[i] = (sums[i] ?? 0) / (totals[i] ?? 0);
        },
      },
    };
  },
} satisfies MergeMethod);

/** A mean of squares is 0 or more: anything else is no Fisher information, and could make the divisor 0. */
function negative({ name, inputs }: MergeTensor, statistic: number, found: number): MergeyardError {
  return new MergeyardError("EngineMethodDegenerate", {
    where: { model: inputs[statistic]?.model, tensor: name },
    found: `${found} in statistics`,
    expected: "diagonal Fisher information, 0 or more everywhere",
    hint: "measure the mean of squared gradients",
  });
}

type Shares = {
  readonly weights: Tile;
  readonly information: Tile;
  readonly factor: number;
  readonly least: number;
  readonly sums: Float64Array;
  readonly totals: Float64Array;
};

/** Adds one model's shares and weighted weights; the smallest of its information, or 0. */
function addShares({ weights, information, factor, least, sums, totals }: Shares, count: number): number {
  let smallest = 0;
  for (let i = 0; i < count; i++) {
    const own = information.values[i] ?? 0;
    if (own < smallest) smallest = own;
    const share = factor * (own + least);
    sums[i] = (sums[i] ?? 0) + share * (weights.values[i] ?? 0);
    totals[i] = (totals[i] ?? 0) + share;
  }
  return smallest;
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
