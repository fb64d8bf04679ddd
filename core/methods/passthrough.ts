import * as z from "zod";
import { type MergeMethod, numberParameter } from "./method.ts";

/**
 * One model as it is, or scaled: R = W, or R = W * scale in float32. Layer stacking is several slices of this.
 * Without `scale` and without a change of dtype the planner copies the stored bytes instead.
 * Source: mergekit `passthrough`, merge reference section 4.15.
 */
export const passthrough = Object.freeze({
  id: "passthrough",
  title: "Passthrough (layer stacking)",
  source: "mergekit, https://github.com/arcee-ai/mergekit",
  inputCount: { min: 1, max: 1 },
  base: "none",
  locality: "element",
  reducePasses: 0,
  seeded: false,
  embeddingMismatch: "error",
  parameters: z.strictObject({}),
  modelParameters: z.strictObject({ scale: z.number().optional() }),
  isIdentity: ({ inputs }) => inputs.length === 1 && (inputs[0]?.parameters.scale ?? 1) === 1,
  compile(tensor, kernels) {
    const scale = tensor.inputs[0]?.parameters.scale;
    return {
      reduce: [],
      apply: {
        tile({ inputs: [input], output, count }) {
          if (input === undefined) return;
          if (scale === undefined) kernels.copy(output, input, count);
          else kernels.scale(output, input, numberParameter({ scale }, "scale"), count);
        },
      },
    };
  },
} satisfies MergeMethod);
