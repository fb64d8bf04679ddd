// Goal: arcee_fusion does what section 4.14 of the merge reference says, with exact quartiles. Method: whole tensors
// through the engine against a plain implementation that sorts, with sizes around the tile's and the sample's.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { arcee_fusion } from "../../../core/methods/arcee_fusion.ts";
import { fusionSteps } from "../../../core/methods/frames/fusion-working.ts";
import { rowDivergence } from "../../../core/ops/divergence.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";
import { kernelBytes, UNWATCHED } from "../../../core/plan/memory.ts";
import { elementCount } from "../../../core/tensor.ts";
import { runTensor, type TensorCase, unitTensorOf } from "../../engine/in-memory.ts";
import { uniforms } from "../../random-numbers.ts";
import { makeLlama, planText, tensorOf } from "../plan/checkpoints.ts";

const { fround } = Math;

function caseOf(shape: readonly number[]): TensorCase {
  const uniform = uniforms(99);
  const next = () => uniform() - 0.5;
  const base = Float32Array.from({ length: elementCount(shape) }, next);
  const other = base.map((value, i) => (i % 3 === 0 ? value : value + Math.round(next() * 8) / 32));
  const models = [
    { model: "base", values: base },
    { model: "other", values: other },
  ];
  return { method: arcee_fusion, shape, models };
}

function expected({ shape, models: [base, other] }: TensorCase): Float32Array {
  assert.ok(base !== undefined && other !== undefined);
  const length = shape.at(-1) ?? 1;
  const scratch = { p: new Float64Array(length), q: new Float64Array(length) };
  const [a, b] = [base.values, other.values];
  const rows = Array.from({ length: a.length / length }, (_, row) => {
    const [from, to] = [row * length, (row + 1) * length];
    return fround(rowDivergence(b.subarray(from, to), a.subarray(from, to), scratch));
  });
  const scores = a.map((value, i) => Math.abs(fround((b[i] ?? 0) - value)) * (rows[Math.floor(i / length)] ?? 0));
  const sorted = scores.slice().sort();
  const at = (share: number) => sorted[Math.floor(fround(share * fround(a.length - 1)))] ?? 0;
  const threshold = fround(at(0.5) + fround(1.5 * fround(at(0.75) - at(0.25))));
  return a.map((value, i) => value + ((scores[i] ?? 0) >= threshold ? fround((b[i] ?? 0) - value) : 0));
}

describe("arcee_fusion", () => {
  for (const shape of [[1], [7, 1], [13], [97, 171], [9000], [3, 4, 5, 6], [301, 1001], [30, 11008]]) {
    test(`a tensor of [${shape}] is the base, but the other model where that differs most`, async () => {
      const entry = caseOf(shape);
      assert.deepEqual((await runTensor(entry)).values, expected(entry));
    });
  }

  test("windows and kernels change nothing, and memory stays within what the plan reserves", async () => {
    const entry = caseOf([40, 1000]);
    const tight = createScalarKernels(kernelBytes(arcee_fusion, unitTensorOf(entry), 8192, UNWATCHED));
    assert.deepEqual((await runTensor(entry, { kernels: tight, windowElements: 8192 })).values, expected(entry));
  });

  test("equal models merge to themselves", async () => {
    const [base] = caseOf([5, 8]).models;
    assert.ok(base !== undefined);
    const models = [base, { ...base, model: "other" }];
    assert.deepEqual((await runTensor({ method: arcee_fusion, shape: [5, 8], models })).values, base.values);
  });

  test("steps in 16 bits: codes of values keep their order, negative ones too, and come back", () => {
    for (const dtype of ["BF16", "F16"] as const) {
      const { encode, decode } = fusionSteps(dtype);
      const values = [-2, -0.5, -(2 ** -14), 0, 2 ** -14, 0.25, 1.5, Number.POSITIVE_INFINITY];
      assert.deepEqual(
        values.map((value) => decode(encode(value))),
        values,
      );
      const codes = [...values, Number.NaN].map(encode);
      assert.ok(codes.every((code, i) => code > 0 && (i === 0 || code > (codes[i - 1] ?? 0))));
      assert.ok(Number.isNaN(decode(encode(Number.NaN))));
    }
  });

  test("the base alone is copied; embeddings are cut to what both have", () => {
    const models = { a: makeLlama(), b: makeLlama({ vocabulary: 12 }), c: makeLlama() };
    const alone = planText("merge_method: arcee_fusion\nbase_model: a\nmodels: [{model: a}]\n", models);
    assert.equal(tensorOf(alone, "model.norm.weight").method, "copy");
    const both = planText("merge_method: arcee_fusion\nbase_model: b\nmodels: [{model: a}, {model: b}]\n", models);
    assert.deepEqual(tensorOf(both, "model.embed_tokens.weight").shape, [10, 4]);
    const three = "merge_method: arcee_fusion\nbase_model: a\nmodels: [{model: a}, {model: b}, {model: c}]\n";
    assert.throws(() => planText(three, models), {
      code: "PlanInputCount",
      found: "3 models",
      expected: "1 to 2 for arcee_fusion",
    });
    const none = "merge_method: arcee_fusion\nmodels: [{model: a}, {model: b}]\n";
    assert.throws(() => planText(none, models), { code: "RecipeBaseMissing", found: "no base_model" });
  });
});
