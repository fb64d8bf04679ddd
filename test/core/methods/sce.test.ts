// Goal: sce does what section 4.11 of the merge reference says. Method: whole tensors through the engine against a
// plain implementation that sorts, with equal variances at the cut, and sizes around the tile's and the sample's.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { sce } from "../../../core/methods/sce.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";
import { kernelBytes, UNWATCHED } from "../../../core/plan/memory.ts";
import { runTensor, type TensorCase, unitTensorOf } from "../../engine/in-memory.ts";
import { uniforms } from "../../random-numbers.ts";
import { makeLlama, planText } from "../plan/checkpoints.ts";

const { fround } = Math;

/** Models that left some elements as they were; `step` makes many variances equal. */
function caseOf(count: number, models: number, step: number, topk: number): TensorCase {
  const next = uniforms(count + models);
  const base = Float32Array.from({ length: count }, () => Math.round((next() - 0.5) * 64) / 64);
  const change = () => (step === 0 ? next() - 0.5 : Math.round((next() - 0.5) / step) * step);
  const others = Array.from({ length: models }, (_, index) => ({
    model: `ft${index}`,
    values: base.map((value, i) => (i % 7 === 0 ? value : value + change() * (1 + index))),
  }));
  return {
    method: sce,
    shape: [count],
    models: [{ model: "base", values: base }, ...others],
    parameters: { select_topk: topk },
  };
}

function varianceOf(values: readonly number[]): number {
  let [mean, squares] = [0, 0];
  values.forEach((value, index) => {
    const distance = value - mean;
    mean += distance / (index + 1);
    squares += distance * (value - mean);
  });
  return fround(squares / values.length);
}

function expected({ models: [base, ...others], parameters }: TensorCase): Float32Array {
  assert.ok(base !== undefined);
  const share = Number(parameters?.select_topk);
  const all = others.map(({ values }) => values.map((value, i) => value - (base.values[i] ?? 0)));
  const variances = base.values.map((_, i) => varianceOf(all.map((delta) => delta[i] ?? 0)));
  const order = Uint32Array.from(variances.keys()).sort((a, b) => (variances[b] ?? 0) - (variances[a] ?? 0) || a - b);
  const varying = variances.filter((value) => value !== 0).length;
  const kept = new Set(share >= 1 ? order : order.subarray(0, share <= 0 ? 0 : Math.floor(varying * share)));
  const deltas = all.map((delta) => delta.map((value, i) => (kept.has(i) ? value : 0)));
  const squares = deltas.map((delta) => delta.reduce((sum, value) => sum + value * value, 0) / delta.length);
  const total = squares.reduce((sum, value) => sum + value, 0);
  const weights = squares.map((square) => fround(total < 1e-6 ? 1 / squares.length : square / total));
  return base.values.map((origin, i) => {
    const values = deltas.map((delta) => delta[i] ?? 0);
    const majority = values.reduce((sum, value) => fround(sum + value), 0) >= 0 ? 1 : -1;
    const votes = values.map((value) => Math.sign(value) === majority);
    const sum = values.reduce((s, value, j) => (votes[j] ? fround(s + fround(value * (weights[j] ?? 0))) : s), 0);
    const weight = weights.reduce((s, own, j) => (votes[j] ? fround(s + own) : s), 0);
    return fround(origin + fround(sum / Math.max(weight, fround(1e-6))));
  });
}

describe("sce", () => {
  for (const [count, models] of [
    [1, 2],
    [13, 1],
    [8192, 2],
    [20_003, 3],
    [300_001, 3],
  ] as const) {
    for (const step of [0, 1 / 8]) {
      for (const topk of [1, 0.4]) {
        const changes = step === 0 ? "distinct" : "equal";
        test(`${models} models of ${count} ${changes} changes, select_topk ${topk}`, async () => {
          const entry = caseOf(count, models, step, topk);
          const wanted = expected(entry);
          const { values } = await runTensor(entry);
          const off = values.findIndex((value, i) => Math.abs(value - (wanted[i] ?? 0)) > 2e-6);
          assert.equal(off, -1, `element ${off} is ${values[off]}, expected ${wanted[off]}`);
        });
      }
    }
  }

  test("a share of 0, or one model alone under selection, leaves the base", async () => {
    for (const entry of [caseOf(1000, 3, 0, 0), caseOf(1000, 3, 0, -1), caseOf(1000, 1, 0, 0.5)]) {
      // -0 + 0 is 0, as in the reference.
      const base = entry.models[0]?.values.map((value) => value + 0);
      assert.deepEqual((await runTensor(entry)).values, base);
    }
  });

  test("nearly equal models weigh the same", async () => {
    const models = [
      { model: "base", values: Float32Array.of(0, 0) },
      { model: "x", values: Float32Array.of(2 ** -12, 0) },
      { model: "y", values: Float32Array.of(2 ** -13, 0) },
    ];
    const { values } = await runTensor({ method: sce, shape: [2], models });
    assert.deepEqual([...values], [1.5 * 2 ** -13, 0]);
  });

  test("windows and kernels change nothing, and memory stays within what the plan reserves", async () => {
    const entry = caseOf(40_000, 3, 1 / 8, 0.4);
    const { values } = await runTensor(entry);
    const tight = createScalarKernels(kernelBytes(sce, unitTensorOf(entry), 8192, UNWATCHED));
    assert.deepEqual((await runTensor(entry, { kernels: tight, windowElements: 8192 })).values, values);
  });

  test("what cannot be merged is refused at plan time", () => {
    const models = { a: makeLlama(), b: makeLlama() };
    const text = (rest: string) => `merge_method: sce\n${rest}\n`;
    assert.throws(() => planText(text("base_model: a\nmodels: [{model: a}]"), models), {
      code: "PlanInputCount",
      found: "1 models",
      expected: "at least 2 for sce",
    });
    assert.throws(() => planText(text("models: [{model: a}, {model: b}]"), models), {
      code: "RecipeBaseMissing",
      found: "no base_model",
    });
  });
});
