// Goal: nearswap does what section 4.13 of the merge reference says, on whole tensors through the engine.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { nearswap } from "../../../core/methods/nearswap.ts";
import { runTensor } from "../../engine/in-memory.ts";
import { makeLlama, planText } from "../plan/checkpoints.ts";

const values = (...numbers: readonly number[]) => Float32Array.from(numbers);

describe("nearswap", () => {
  test("takes the model where it is near and approaches the base with the distance, whatever the order", async () => {
    const base = { model: "base", values: values(1, 1, 1, 1) };
    const other = { model: "other", values: values(1, 1.5, 3, -7) };
    const entry = { method: nearswap, shape: [4], models: [base, other], parameters: { t: 1 } };
    assert.deepEqual([...(await runTensor(entry)).values], [1, 1.5, 2, 0]);
  });

  test("a negative t is the base", async () => {
    const models = [
      { model: "base", values: values(1, -2) },
      { model: "other", values: values(1.5, 4) },
    ];
    const { values: got } = await runTensor({ method: nearswap, shape: [2], models, parameters: { t: -1 } });
    assert.deepEqual([...got], [1, -2]);
  });

  test("the base alone is copied, in any dtype", () => {
    const plan = planText("merge_method: nearswap\nbase_model: a\nmodels: [{model: a}]\nparameters: {t: 0.1}\n", {
      a: makeLlama({ dtype: "BF16" }),
    });
    assert.ok(plan.units.every(({ tensors }) => tensors.every(({ method }) => method === "copy")));
  });

  const THREE = { a: makeLlama(), b: makeLlama(), c: makeLlama() };
  for (const [what, text, code] of [
    [
      "a third model",
      "base_model: a\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {t: 0.1}",
      "PlanInputCount",
    ],
    ["no t", "base_model: a\nmodels: [{model: a}, {model: b}]", "RecipeParameterMissing"],
    ["no base", "models: [{model: a}, {model: b}]\nparameters: {t: 0.1}", "RecipeBaseMissing"],
    [
      "embeddings of different size",
      "base_model: a\nmodels: [{model: a}, {model: d}]\nparameters: {t: 0.1}",
      "PlanShapeMismatch",
    ],
  ] as const) {
    test(`${what} is refused at plan time`, () => {
      const models = { ...THREE, d: makeLlama({ vocabulary: 12 }) };
      assert.throws(() => planText(`merge_method: nearswap\n${text}\n`, models), { code });
    });
  }
});
