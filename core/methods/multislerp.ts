import * as z from "zod";
import { MergeyardError } from "../error.ts";
import { splitBase } from "./frames/base-tiles.ts";
import { sumOfOthers } from "./frames/combinations.ts";
import { combinedProduct, createGramPass, type Gram, normsOf, scaleGram } from "./frames/gram.ts";
import { compileMultislerpWorking } from "./frames/multislerp-working.ts";
import { differencesBytes } from "./frames/working-differences.ts";
import { type MergeMethod, type MergeTensor, numberParameter, numbersOf } from "./method.ts";

/**
 * Barycentric interpolation on the sphere: the tensors' directions are projected to the tangent space at their weighted
 * mean, averaged there, and mapped back; the length is the weighted mean of the lengths. With a base, of the
 * differences to it. Exactly two opposite tensors give the straight weighted sum.
 * Everything follows from one pass of dot products (`addProducts`), in float64; the result is one combination in model
 * order. Under `strict` in 16 bits every step rounds to these, as in the reference, over four passes.
 * Source: mergekit `multislerp`, merge reference section 4.4.
 */
export const multislerp = Object.freeze({
  id: "multislerp",
  title: "Multi-SLERP (barycentric spherical interpolation)",
  source: "mergekit, https://github.com/arcee-ai/mergekit",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "optional",
  locality: "element",
  reducePasses: 1,
  scratchBytes: (tensor) => (tensor.working === undefined ? 0 : differencesBytes(tensor)),
  seeded: false,
  embeddingMismatch: "error",
  referenceDtype: "promoted",
  parameters: z.strictObject({
    normalize_weights: z.boolean().default(true),
    eps: z.number().positive().default(1e-8),
  }),
  modelParameters: z.strictObject({ weight: z.number() }),
  isIdentity: ({ inputs }) => inputs.length === 1,
  refuse(tensor) {
    const weights = numbersOf(tensor, splitBase(tensor).others, "weight");
    const sum = weights.reduce((total, weight) => total + weight, 0);
    if (weights.length === 1 || tensor.parameters.normalize_weights !== true || sum !== 0) return undefined;
    return { parameter: "weight", found: "weights that sum to 0", expected: "a sum other than 0" };
  },
  compile(tensor, kernels) {
    const split = splitBase(tensor);
    const weights = numbersOf(tensor, split.others, "weight");
    // A single tensor is returned as it is, also where there is a base.
    if (weights.length === 1) {
      return { reduce: [], apply: { deltas: false, combination: () => sumOfOthers([1], split) } };
    }
    if (tensor.working !== undefined) return compileMultislerpWorking(tensor, kernels, split, weights);
    const { pass, gram } = createGramPass(kernels, split);
    const combination = () => sumOfOthers(sphericalFactors(tensor, weights, gram), split);
    return { reduce: [pass], apply: { deltas: split.base >= 0, combination } };
  },
} satisfies MergeMethod);

/** Factors of the vectors; throws EngineMethodDegenerate when more than two directions cancel out. */
function sphericalFactors(tensor: MergeTensor, given: readonly number[], gram: Gram): readonly number[] {
  const eps = numberParameter(tensor.parameters, "eps");
  const total = given.reduce((sum, weight) => sum + weight, 0);
  const weights = tensor.parameters.normalize_weights === true ? given.map((weight) => weight / total) : given;
  const norms = normsOf(gram);
  const inverse = norms.map((norm) => 1 / (norm + eps));
  const units = scaleGram(gram, inverse);
  const meanNorm = Math.sqrt(Math.max(0, combinedProduct(units, weights, weights)));
  if (meanNorm < eps) {
    if (weights.length === 2) return weights;
    throw new MergeyardError("EngineMethodDegenerate", {
      where: { tensor: tensor.name },
      found: "directions that cancel out",
    });
  }
  const mean = weights.map((weight) => weight / meanNorm);
  const along = combinedProduct(units, weights, mean);
  const tangent = weights.map((weight, index) => weight - along * (mean[index] ?? 0));
  const angle = Math.sqrt(Math.max(0, combinedProduct(units, tangent, tangent))) + eps;
  const length = weights.reduce((sum, weight, index) => sum + weight * (norms[index] ?? 0), 0);
  const [cosine, ratio] = [Math.cos(angle), Math.sin(angle) / angle];
  return mean.map((m, index) => length * (m * cosine + (tangent[index] ?? 0) * ratio) * (inverse[index] ?? 0));
}
