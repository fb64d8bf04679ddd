import * as z from "zod";
import type { Tile } from "../ops/kernels.ts";
import { subTile } from "../ops/memory.ts";
import { fillNormal, fillUniform, streamKey } from "../random.ts";
import type { MergeMethod, MergeTensor } from "./method.ts";

/** Norms below this count as it, in the reference. */
const NORM_FLOOR = 1e-8;

/**
 * A router's weight [experts, hidden], one row an expert, by `gate_mode`:
 * random: standard normal; uniform_random: uniform on ±1 / sqrt(hidden), as torch.nn.Linear begins; both a function of
 * seed, tensor and element alone, and the input counts for nothing.
 * cheap_embed: inputs are each expert's mean embedding of positive prompts and, where any expert has some, of negative
 * ones; R = unit(unit(P) - unit(N)), row by row, sums of squares in float64.
 * The planner's own, for recipes of mergekit-moe. Source: mergekit `moe/router.py`.
 */
export const moe_router = Object.freeze({
  id: "moe_router",
  title: "Router of a mixture of experts",
  source: "mergekit-moe, https://github.com/arcee-ai/mergekit",
  inputCount: { min: 1, max: 2 },
  base: "none",
  locality: "row",
  reducePasses: 0,
  seeded: true,
  embeddingMismatch: "error",
  parameters: z.strictObject({ gate_mode: z.enum(["cheap_embed", "random", "uniform_random"]) }),
  modelParameters: z.strictObject({}),
  compile(tensor, kernels) {
    const columns = tensor.shape.at(-1) ?? 1;
    const unit = (row: Tile): void => {
      const norm = Math.sqrt(kernels.dot(row, row, columns));
      kernels.divide(row, row, Math.max(norm, NORM_FLOOR), columns);
    };
    const { gate_mode: mode } = tensor.parameters;
    const fill = mode === "cheap_embed" ? undefined : createFill(tensor, columns);
    return {
      reduce: [],
      apply: {
        tile({ inputs: [positive, negative], output, firstElement, count }) {
          if (fill !== undefined) fill(firstElement, output.values.subarray(0, count));
          else if (positive !== undefined) {
            for (let start = 0; start < count; start += columns) {
              const row = subTile(output, start, columns);
              kernels.copy(row, subTile(positive, start, columns), columns);
              unit(row);
              if (negative === undefined) continue;
              const other = subTile(negative, start, columns);
              unit(other);
              kernels.subtract(row, row, other, columns);
              unit(row);
            }
          }
        },
      },
    };
  },
} satisfies MergeMethod);

function createFill({ name, seed, parameters }: MergeTensor, columns: number) {
  const key = streamKey(seed, name);
  if (parameters.gate_mode === "random") {
    return (first: number, values: Float32Array): void => fillNormal(key, first, values);
  }
  const bound = Math.sqrt(1 / columns);
  return (first: number, values: Float32Array): void => {
    fillUniform(key, first, values);
    for (let i = 0; i < values.length; i++) values[i] = ((values[i] ?? 0) * 2 - 1) * bound;
  };
}
