import assert from "node:assert/strict";
import * as z from "zod";
import { type ForwardModel, type ForwardSizes, forwardBytes, hiddenStates } from "../moe/forward.ts";
import { allocatedBytes, subTile } from "../ops/memory.ts";
import { elementCount } from "../tensor.ts";
import type { MergeMethod, ParameterValues } from "./method.ts";

/** Norms below this count as it, in the reference. */
const NORM_FLOOR = 1e-8;

const count = z.int().positive();
const parameters = z.strictObject({
  /** JSON: of each expert, the numbers of tokens of its positive prompts and of its negative ones. */
  prompts: z.string(),
  /** A prompt's state is the mean of its tokens', else its last token's. */
  average: z.boolean(),
  layers: count,
  hidden: count,
  inner: count,
  heads: count,
  keyHeads: count,
  headSize: count,
  tokens: count,
  epsilon: z.number(),
  /** JSON: the list of them. */
  frequencies: z.string(),
  biased: z.boolean(),
  normed: z.boolean(),
});

const promptsSchema = z.array(z.tuple([z.array(count), z.array(count)]));
const frequenciesSchema = z.array(z.number());

/**
 * Routers' weights of all layers, [layers * experts, hidden], from the base's hidden states on the experts' prompts:
 * of each layer and expert the direction of mean(P) - mean(N), where P and N are the states that go into the layer
 * after positive and negative prompts. Inputs: the prompts' embeddings, [tokens, hidden], prompts in the order of
 * `prompts`, then the weights of the layers in the order of core/moe/forward.ts; the last layer's are not needed.
 * The planner's own, for recipes of mergekit-moe. Source: mergekit `moe/router.py`.
 */
export const moe_gates = Object.freeze({
  id: "moe_gates",
  title: "Routers from hidden states",
  source: "mergekit-moe, https://github.com/arcee-ai/mergekit",
  inputCount: { min: 1, max: Number.POSITIVE_INFINITY },
  base: "none",
  locality: "element",
  reducePasses: 0,
  seeded: false,
  embeddingMismatch: "error",
  parameters,
  modelParameters: z.strictObject({}),
  scratchBytes: (tensor) =>
    forwardBytes(readModel(tensor.parameters).model) + allocatedBytes(4 * elementCount(tensor.shape)),
  compile: () => assert.fail("gates are no function of tiles"),
  async *stream(tensor, kernels, read) {
    const { model, prompts, average } = readModel(tensor.parameters);
    const { hidden } = model;
    const rows = kernels.allocateTile(prompts.length * hidden);
    for await (const { values: state } of hiddenStates(model, kernels, read)) {
      let start = 0;
      prompts.forEach(([positive, negative], expert) => {
        const row = new Float64Array(hidden);
        for (const [lengths, sign] of [
          [positive, 1],
          [negative, -1],
        ] as const) {
          for (const length of lengths) {
            const first = average ? start : start + length - 1;
            const factor = sign / (lengths.length * (average ? length : 1));
            start += length;
            for (let i = first * hidden; i < start * hidden; i++) {
              row[i % hidden] = (row[i % hidden] ?? 0) + factor * (state[i] ?? 0);
            }
          }
        }
        const norm = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
        subTile(rows, expert * hidden, hidden).values.set(row.map((value) => value / Math.max(norm, NORM_FLOOR)));
      });
      yield rows;
    }
  },
} satisfies MergeMethod);

function readModel(values: ParameterValues) {
  const { prompts: listed, average, frequencies, ...sizes } = parameters.parse(values);
  const prompts = promptsSchema.parse(JSON.parse(listed));
  const model: ForwardModel & ForwardSizes = {
    ...sizes,
    lengths: prompts.flat(2),
    frequencies: frequenciesSchema.parse(JSON.parse(frequencies)),
  };
  return { model, prompts, average };
}
