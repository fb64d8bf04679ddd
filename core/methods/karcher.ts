import * as z from "zod";
import { weightedSum } from "./frames/combinations.ts";
import { combinedProduct, createGramPass, type Gram, normsOf, scaleGram } from "./frames/gram.ts";
import { type MergeMethod, type MergeTensor, numberParameter } from "./method.ts";

/**
 * Karcher mean: the point of the unit sphere with the least sum of squared angles to the tensors' directions, scaled to
 * their mean norm. All weights are equal; a base is an input like the others; zero tensors have no direction but count
 * in the mean norm.
 * The iteration runs on the coefficients of the inputs, in float64, from one pass of dot products (`addProducts`); the
 * result is one combination in model order.
 * Source: Grove and Karcher 1973; mergekit `karcher`, merge reference section 4.5.
 */
export const karcher = Object.freeze({
  id: "karcher",
  title: "Karcher mean",
  source: "Grove and Karcher, How to conjugate C1-close group actions, Math. Z. 132, 1973",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "none",
  locality: "element",
  reducePasses: 1,
  seeded: false,
  embeddingMismatch: "error",
  parameters: z.strictObject({ max_iter: z.int().nonnegative().default(10), tol: z.number().positive().default(1e-5) }),
  modelParameters: z.strictObject({}),
  isIdentity: ({ inputs }) => inputs.length === 1,
  compile(tensor, kernels) {
    const { pass, gram } = createGramPass(kernels, { base: -1, others: [...tensor.inputs.keys()] });
    return { reduce: [pass], apply: { deltas: false, combination: () => weightedSum(meanFactors(tensor, gram)) } };
  },
} satisfies MergeMethod);

/** Factors of the inputs in the mean. */
function meanFactors(tensor: MergeTensor, gram: Gram): readonly number[] {
  const tolerance = numberParameter(tensor.parameters, "tol");
  const norms = normsOf(gram);
  const kept = norms.map((norm) => norm > tolerance);
  const count = kept.filter(Boolean).length;
  if (count === 0) return norms.map(() => 0);
  const units = scaleGram(
    gram,
    norms.map((norm) => (norm === 0 ? 0 : 1 / norm)),
  );
  const weights = kept.map((isKept) => (isKept ? 1 / count : 0));
  const direction = iterate(units, weights, tolerance, numberParameter(tensor.parameters, "max_iter"));
  const length = norms.reduce((sum, norm) => sum + norm / norms.length, 0);
  return direction.map((factor, index) => (factor === 0 ? 0 : (factor * length) / (norms[index] ?? 1)));
}

/** The mean direction as factors of the unit vectors whose products are `units`. */
function iterate(units: Gram, weights: readonly number[], tolerance: number, rounds: number): readonly number[] {
  const normOf = (factors: readonly number[]) => Math.sqrt(Math.max(0, combinedProduct(units, factors, factors)));
  const scaled = (factors: readonly number[], by: number) => factors.map((factor) => factor * by);
  const first = weights.map((weight, index) =>
    index === weights.findIndex((other) => other > 0) && weight > 0 ? 1 : 0,
  );
  const start = normOf(weights);
  let mean: readonly number[] = start < tolerance ? first : scaled(weights, 1 / start);
  for (let round = 0; round < rounds; round++) {
    const tangent = tangentOf(units, weights, mean, tolerance);
    const length = normOf(tangent);
    if (length < tolerance) break;
    const [along, across] = [Math.cos(length), Math.sin(length) / length];
    const moved = mean.map((factor, index) => along * factor + across * (tangent[index] ?? 0));
    const norm = normOf(moved);
    mean = norm > tolerance ? scaled(moved, 1 / norm) : moved;
  }
  return mean;
}

/**
 * Weighted mean of the logarithms of the vectors at `mean`, as factors; vectors closer than the tolerance add nothing.
 */
function tangentOf(
  units: Gram,
  weights: readonly number[],
  mean: readonly number[],
  tolerance: number,
): readonly number[] {
  const tangent = mean.map(() => 0);
  weights.forEach((weight, index) => {
    const own = weights.map((_, other) => (other === index ? 1 : 0));
    const cosine = Math.min(1, Math.max(-1, combinedProduct(units, mean, own)));
    const angle = Math.acos(cosine);
    if (weight === 0 || angle < tolerance) return;
    const factor = (weight * angle) / Math.sin(angle);
    tangent.forEach((sum, other) => {
      tangent[other] = sum + factor * ((own[other] ?? 0) - cosine * (mean[other] ?? 0));
    });
  });
  return tangent;
}
