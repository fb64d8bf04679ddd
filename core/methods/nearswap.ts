import * as z from "zod";
import { loneProgram, splitBase, splitTiles } from "./frames/base-tiles.ts";
import { type MergeMethod, numberParameter } from "./method.ts";

/**
 * The other model where it is near the base, the base where it is far: R = q W1 + (1 - q) W0 with
 * q = clamp(t / max(|W1 - W0|, 1e-6), 0, 1). The base alone is returned as it is.
 * Order and rounding: every operation rounds to float32; the quotient is the reciprocal times t, as in the reference.
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
  scratchTiles: () => 0,
  seeded: false,
  embeddingMismatch: "error",
  promotesDtypes: true,
  parameters: z.strictObject({ t: z.number() }),
  modelParameters: z.strictObject({}),
  isIdentity: ({ inputs }) => inputs.length === 1,
  compile(tensor, kernels) {
    if (tensor.inputs.length === 1) return loneProgram();
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
