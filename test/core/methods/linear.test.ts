// Goal: under strict rules linear takes the reference's 16-bit steps. Expected values were computed by torch 2.13:
// (weights * torch.stack(models)).sum(dim=0), divided by weights.sum(dim=0) with `normalize`.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { linear } from "../../../core/methods/linear.ts";
import { runTensor } from "../../engine/in-memory.ts";

/** Numbers of both dtypes, and their weights, which are not. */
const MODELS = [
  { weight: 0.3, values: [1.0078125, -3.140625, 0.1005859375, 250] },
  { weight: 0.5, values: [0.984375, 2.71875, 0.0986328125, -249] },
  { weight: 0.7, values: [1.5, 0.0625, -0.302734375, 3] },
];
const EXPECTED = {
  BF16: { sums: [1.84375, 0.45703125, -0.1328125, -47.5], means: [1.2265625, 0.3046875, -0.08837890625, -31.625] },
  F16: {
    sums: [1.845703125, 0.460693359375, -0.1324462890625, -47.40625],
    means: [1.23046875, 0.30712890625, -0.08831787109375, -31.609375],
  },
};

describe("linear under strict rules", () => {
  for (const dtype of ["BF16", "F16"] as const) {
    for (const normalize of [true, false]) {
      test(`${dtype}, ${normalize ? "averaged" : "summed"}`, async () => {
        const models = MODELS.map(({ weight, values }, index) => ({
          model: `m${index}`,
          dtype,
          values: Float32Array.from(values),
          parameters: { weight },
        }));
        const entry = { method: linear, shape: [4], hasBase: false, models, parameters: { normalize } };
        const { values } = await runTensor({ ...entry, working: dtype, rules: { strict: true } });
        assert.deepEqual([...values], normalize ? EXPECTED[dtype].means : EXPECTED[dtype].sums);
        // In float32 steps they differ.
        assert.notDeepEqual([...(await runTensor(entry)).values], [...values]);
      });
    }
  }
});
