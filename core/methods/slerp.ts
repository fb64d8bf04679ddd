import * as z from "zod";
import { loneProgram, weightedSum } from "./frames/combinations.ts";
import { createGramPass, type Gram, normsOf, product } from "./frames/gram.ts";
import { type MergeMethod, type MergeTensor, numberParameter } from "./method.ts";

/** A norm at or below this leaves the vector unscaled. Source: merge reference section 4.2 step 3. */
const NORM_FLOOR = 1e-8;
/** Beyond this cosine, in either direction, slerp is a straight line. Source: as above, step 4. */
const PARALLEL_COSINE = 0.9995;

/**
 * Spherical interpolation between the base a (t = 0) and the other model b (t = 1), each tensor one vector:
 * R = sin((1-t) th)/sin(th) a + sin(t th)/sin(th) b with cos th = a.b/(|a||b|); (1-t) a + t b when nearly parallel.
 * Order and rounding: norms and dot product by tile as `addProducts` says; trigonometry in float64 on the scalars, the
 * two coefficients rounded to float32, then a combination in model order. One model alone passes through.
 * Source: Shoemake 1985; mergekit `slerp` (float32 throughout), merge reference section 4.2.
 */
export const slerp = Object.freeze({
  id: "slerp",
  title: "SLERP (spherical linear interpolation)",
  source: "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985",
  inputCount: { min: 1, max: 2 },
  base: "member",
  locality: "element",
  reducePasses: 1,
  seeded: false,
  embeddingMismatch: "common",
  parameters: z.strictObject({ t: z.number() }),
  modelParameters: z.strictObject({}),
  isIdentity: ({ inputs }) => inputs.length === 1,
  compile(tensor, kernels) {
    if (tensor.inputs.length === 1) return loneProgram();
    const { pass, gram } = createGramPass(kernels, { base: -1, others: [0, 1] });
    return { reduce: [pass], apply: { deltas: false, combination: () => weightedSum(coefficients(tensor, gram)) } };
  },
} satisfies MergeMethod);

/** The factors of the two inputs in their order. */
function coefficients(tensor: MergeTensor, gram: Gram): readonly number[] {
  const t = numberParameter(tensor.parameters, "t");
  const [a, b] = normsOf(gram).map((norm) => (norm > NORM_FLOOR ? norm : 1));
  const cosine = Math.min(1, Math.max(-1, product(gram, 0, 1) / ((a ?? 1) * (b ?? 1))));
  const angle = Math.acos(cosine);
  const straight = Math.abs(cosine) > PARALLEL_COSINE;
  const base = straight ? 1 - t : Math.sin((1 - t) * angle) / Math.sin(angle);
  const other = straight ? t : Math.sin(t * angle) / Math.sin(angle);
  return tensor.inputs[0]?.isBase === true ? [base, other] : [other, base];
}
