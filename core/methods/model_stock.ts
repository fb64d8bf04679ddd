import * as z from "zod";
import type { Kernels } from "../ops/kernels.ts";
import { subTile } from "../ops/memory.ts";
import { type BaseSplit, splitBase, splitTiles } from "./frames/base-tiles.ts";
import { weightedSum } from "./frames/combinations.ts";
import { createGramPass, type Gram, normsOf, product } from "./frames/gram.ts";
import { compileStockWorking } from "./frames/stock-working.ts";
import { tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import { byRow, rowLength, WHOLE } from "./frames/vector-groups.ts";
import type { MergeMethod, MergeTensor, TensorProgram } from "./method.ts";

/** A product of two norms below this counts as this. Source: merge reference section 4.12 step 2. */
const NORMS_FLOOR = 1e-6;

/**
 * Model Stock: R = t mean(W_i) + (1 - t) W0 with t = n c / (1 + (n - 1) c) and c the mean cosine of the task vectors'
 * pairs, over the whole tensor or, `filter_wise`, row by row. t is not bounded unless `clamp_t`: a negative c goes
 * beyond the base, as in the reference.
 * Norms and products by tile as `addProducts` says, of rows in float64; t in float64, the factors rounded to float32,
 * the sum in model order. Under `strict` in 16 bits every step rounds to these, as in the reference.
 * Source: Jang et al., arXiv:2403.19522; mergekit `model_stock`, merge reference section 4.12.
 */
export const model_stock = Object.freeze({
  id: "model_stock",
  title: "Model Stock",
  source: "Model Stock: all we need is just a few fine-tuned models, arXiv:2403.19522",
  inputCount: { min: 3, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "row",
  reducePasses: 1,
  scratchBytes: (tensor) => tilesBytes(tensor.inputs.length, "row", tensor),
  seeded: false,
  embeddingMismatch: "common",
  referenceDtype: "promoted",
  parameters: z.strictObject({ filter_wise: z.boolean().default(false), clamp_t: z.boolean().default(false) }),
  modelParameters: z.strictObject({}),
  compile(tensor, kernels) {
    const split = splitBase(tensor);
    if (tensor.working !== undefined) {
      const grouping = tensor.parameters.filter_wise === true ? byRow(tensor.shape) : WHOLE;
      return compileStockWorking(tensor, kernels, grouping, NORMS_FLOOR);
    }
    if (tensor.parameters.filter_wise === true) return compileRows(tensor, kernels, split);
    const { pass, gram } = createGramPass(kernels, split);
    const combination = () => weightedSum(stockFactors(tensor, gram, split));
    return { reduce: [pass], apply: { deltas: false, combination } };
  },
} satisfies MergeMethod);

/** Every row on its own, in one pass: its products first, then its combination. */
function compileRows(tensor: MergeTensor, kernels: Kernels, split: BaseSplit): TensorProgram {
  const columns = rowLength(tensor.shape);
  const deltas = split.others.map(() => kernels.allocateTile(tileElementsMax("row", tensor)));
  return {
    reduce: [],
    apply: {
      tile(view) {
        const { inputs, output, count } = view;
        const { base, others } = splitTiles(view, split);
        deltas.forEach((delta, index) => {
          kernels.subtract(delta, others[index] ?? base, base, count);
        });
        for (let start = 0; start < count; start += columns) {
          const rows = deltas.map((delta) => subTile(delta, start, columns));
          const gram = rows.map((a) => rows.map((b) => kernels.dot(a, b, columns)));
          const factors = stockFactors(tensor, gram, split);
          const target = subTile(output, start, columns);
          kernels.fill(target, 0, columns);
          inputs.forEach((input, index) => {
            kernels.addScaled(target, subTile(input, start, columns), factors[index] ?? 0, columns);
          });
        }
      },
    },
  };
}

/** Factors of all inputs: t/n for each model, 1 - t for the base. */
function stockFactors(tensor: MergeTensor, gram: Gram, { base }: BaseSplit): readonly number[] {
  const count = gram.length;
  const norms = normsOf(gram);
  let [sum, pairs] = [0, 0];
  for (let i = 0; i < count; i++) {
    for (let j = i + 1; j < count; j++) {
      const scale = Math.max((norms[i] ?? 0) * (norms[j] ?? 0), NORMS_FLOOR);
      sum += Math.min(1, Math.max(-1, product(gram, i, j) / scale));
      pairs++;
    }
  }
  const cosine = sum / pairs;
  const free = (count * cosine) / (1 + (count - 1) * cosine);
  const t = tensor.parameters.clamp_t === true ? Math.min(1, Math.max(0, free)) : free;
  return tensor.inputs.map((_, index) => (index === base ? 1 - t : t / count));
}
