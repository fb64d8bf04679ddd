import * as z from "zod";
import { splitBase, splitTiles } from "./frames/base-tiles.ts";
import { loneProgram } from "./frames/combinations.ts";
import { commonRound, hasWorkingSteps } from "./frames/working-differences.ts";
import { type MergeMethod, type MergeTensor, numberParameter, type Pass } from "./method.ts";

/** Distances below this count as this. Source: merge reference section 4.13. */
const DISTANCE_FLOOR = 1e-6;

/**
 * The other model where it is near the base, the base where it is far: R = q W1 + (1 - q) W0 with
 * q = clamp(t / max(|W1 - W0|, 1e-6), 0, 1). The base alone is returned as it is.
 * Order and rounding: every operation rounds to float32, under `strict` to what the inputs promote to; the quotient is
 * the reciprocal times t, as in the reference.
 * Source: mergekit `nearswap`, merge reference section 4.13.
 */
export const nearswap = Object.freeze({
  id: "nearswap",
  title: "NearSwap",
  source: "mergekit, https://github.com/arcee-ai/mergekit",
  inputCount: { min: 1, max: 2 },
  base: "required",
  locality: "element",
  reducePasses: 0,
  seeded: false,
  embeddingMismatch: "error",
  referenceDtype: "promoted",
  parameters: z.strictObject({ t: z.number() }),
  modelParameters: z.strictObject({}),
  isIdentity: ({ inputs }) => inputs.length === 1,
  compile(tensor, kernels) {
    if (tensor.inputs.length === 1) return loneProgram();
    if (hasWorkingSteps(tensor)) return { reduce: [], apply: workingPass(tensor) };
    const split = splitBase(tensor);
    const t = numberParameter(tensor.parameters, "t");
    return {
      reduce: [],
      apply: {
        tile(view) {
          const { base, others } = splitTiles(view, split);
          const [other = base] = others;
          kernels.swapNear(view.output, other, base, t, view.count);
        },
      },
    };
  },
} satisfies MergeMethod);

/** Every step rounded to the dtype that the reference computes in; t stays float32. */
function workingPass(tensor: MergeTensor): Pass {
  const split = splitBase(tensor);
  const round = commonRound(tensor);
  const t = Math.fround(numberParameter(tensor.parameters, "t"));
  const floor = round(DISTANCE_FLOOR);
  return {
    tile(view) {
      const { base, others } = splitTiles(view, split);
      for (let i = 0; i < view.count; i++) {
        const [a, b] = [base.values[i] ?? 0, others[0]?.values[i] ?? 0];
        const quotient = round(round(1 / Math.max(Math.abs(round(a - b)), floor)) * t);
        const share = Math.min(Math.max(quotient, 0), 1);
        view.output.values[i] = round(round(share * b) + round(round(1 - share) * a));
      }
    },
  };
}
