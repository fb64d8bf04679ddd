import * as z from "zod";
import { fillNormal, streamKey } from "../random.ts";
import type { MergeMethod } from "./method.ts";

/**
 * A dense model's weight as one of an expert: R = (W + noise N) * scale in float32, N standard normal.
 * Without noise and scale, and without a change of dtype, the planner copies the stored bytes instead. N is a function
 * of seed, output tensor, model and element, so experts that are made of one model differ; torch's own random numbers
 * cannot be had in another program.
 * The planner's own, for recipes of mergekit-moe: a recipe of a merge cannot name it.
 * Source: mergekit `moe/common.py`; Komatsuzaki et al., "Sparse Upcycling", arXiv:2212.05055.
 */
export const moe_expert = Object.freeze({
  id: "moe_expert",
  title: "Mixture of experts from dense models",
  source: "mergekit-moe, https://github.com/arcee-ai/mergekit; Sparse Upcycling, arXiv:2212.05055",
  inputCount: { min: 1, max: 1 },
  base: "none",
  locality: "element",
  reducePasses: 0,
  seeded: true,
  embeddingMismatch: "error",
  parameters: z.strictObject({}),
  modelParameters: z.strictObject({ scale: z.number().optional(), noise: z.number().nonnegative().optional() }),
  isIdentity: ({ inputs: [input] }) => (input?.parameters.scale ?? 1) === 1 && (input?.parameters.noise ?? 0) === 0,
  compile({ name, seed, inputs: [own] }, kernels) {
    const { scale = 1, noise = 0 } = own?.parameters ?? {};
    const key = streamKey(seed, name, own?.model ?? "");
    return {
      reduce: [],
      apply: {
        tile({ inputs: [input], output, firstElement, count }) {
          if (input === undefined) return;
          fillNormal(key, firstElement, output.values.subarray(0, noise === 0 ? 0 : count));
          if (noise === 0) kernels.copy(output, input, count);
          else {
            kernels.scale(output, output, Number(noise), count);
            kernels.add(output, input, output, count);
          }
          kernels.scale(output, output, Number(scale), count);
        },
      },
    };
  },
} satisfies MergeMethod);
