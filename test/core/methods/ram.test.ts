// Goal: ram and ramplus_tl do what section 4.16 of the merge reference says. Method: by hand on a few elements, and
// against a plain implementation on tensors of several tiles, through the engine.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { MergeMethod } from "../../../core/methods/method.ts";
import { ram } from "../../../core/methods/ram.ts";
import { ramplus_tl } from "../../../core/methods/ramplus_tl.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";
import { runTensor, type TensorCase } from "../../engine/in-memory.ts";
import { uniforms } from "../../random-numbers.ts";
import { makeLlama, planText } from "../plan/checkpoints.ts";

const { fround } = Math;

/** A base and models that each changed a share of its elements. */
function caseOf(method: MergeMethod, count: number, models: number, parameters = {}): TensorCase {
  const next = uniforms(7);
  const base = Float32Array.from({ length: count }, () => next() - 0.5);
  const others = Array.from({ length: models }, (_, index) => ({
    model: `ft${index}`,
    values: base.map((value) => (next() < 0.3 ? value + (next() - 0.5) / 8 : value)),
  }));
  return { method, shape: [count], models: [{ model: "base", values: base }, ...others], parameters };
}

function expected({ models: [base, ...others] }: TensorCase, epsilon: number, r: number, alpha: number): Float32Array {
  assert.ok(base !== undefined);
  const deltas = others.map(({ values }) => values.map((value, i) => value - (base.values[i] ?? 0)));
  const isLarge = (delta: number | undefined) => Math.abs(delta ?? 0) > fround(epsilon);
  const counts = base.values.map((_, i) => deltas.filter((delta) => isLarge(delta[i])).length);
  const factors = deltas.map((delta) => {
    const unique = delta.filter((value, i) => isLarge(value) && counts[i] === 1).length;
    const overlapping = delta.filter((value, i) => isLarge(value) && (counts[i] ?? 0) > 1).length;
    return fround(1 + r * Math.min(Math.max(overlapping / Math.max(unique, epsilon), 0), alpha));
  });
  return base.values.map((origin, i) => {
    const sum = deltas.reduce((total, delta, j) => {
      const factor = counts[i] === 1 ? (factors[j] ?? 1) : 1;
      return isLarge(delta[i]) ? fround(total + fround((delta[i] ?? 0) * factor)) : total;
    }, 0);
    return fround(origin + fround(sum / Math.max(counts[i] ?? 0, 1)));
  });
}

describe("ram and ramplus_tl", () => {
  test("one model's change is taken whole, several models' are averaged, small ones are nothing", async () => {
    const models = [
      { model: "base", values: Float32Array.of(1, 1, 1, 1) },
      { model: "x", values: Float32Array.of(3, 2, 1.25, 1) },
      { model: "y", values: Float32Array.of(1, 4, 1, 1) },
    ];
    const { values } = await runTensor({ method: ram, shape: [4], models, parameters: { epsilon: 0.5 } });
    assert.deepEqual([...values], [3, 3, 1, 1]);
  });

  test("ramplus_tl multiplies unique changes by 1 + r clamp(overlapping / unique, 0, alpha)", async () => {
    const models = [
      { model: "base", values: Float32Array.of(1, 1, 1, 1) },
      { model: "x", values: Float32Array.of(3, 2, 1, 1) },
      { model: "y", values: Float32Array.of(1, 4, 1, 2) },
    ];
    const own = { method: ramplus_tl, shape: [4], models };
    const low = await runTensor({ ...own, parameters: { r: 0.5, alpha: 0.5 } });
    assert.deepEqual([...low.values], [3.5, 3, 1, 2.25]);
    const high = await runTensor({ ...own, parameters: { r: 0.5, alpha: 5 } });
    assert.deepEqual([...high.values], [4, 3, 1, 2.5]);
  });

  for (const [models, count] of [
    [1, 1],
    [2, 13],
    [3, 8192],
    [5, 20_001],
  ] as const) {
    test(`${models} models of ${count} elements, by both kernel sets`, async () => {
      const cases = [
        [caseOf(ram, count, models, { epsilon: 0.01 }), 0.01, 0, 0],
        [caseOf(ramplus_tl, count, models, { epsilon: 0.02, r: 0.3, alpha: 1.5 }), 0.02, 0.3, 1.5],
        [caseOf(ramplus_tl, count, models), 1e-5, 0.1, 0.2],
      ] as const;
      for (const [entry, epsilon, r, alpha] of cases) {
        const wanted = expected(entry, epsilon, r, alpha);
        assert.deepEqual((await runTensor(entry)).values, wanted);
        assert.deepEqual((await runTensor(entry, { kernels: createScalarKernels(2 ** 24) })).values, wanted);
      }
    });
  }

  test("NaN stays, where it is let through", async () => {
    const models = [
      { model: "base", values: Float32Array.of(1, 1) },
      { model: "x", values: Float32Array.of(Number.NaN, 2) },
      { model: "y", values: Float32Array.of(4, 2) },
    ];
    const rules = { nonFinite: "propagate" } as const;
    assert.deepEqual([...(await runTensor({ method: ram, shape: [2], models, rules })).values], [Number.NaN, 2]);
    await assert.rejects(runTensor({ method: ram, shape: [2], models }), { code: "EngineNonFinite" });
  });

  test("the base alone is refused, and a recipe without one", () => {
    const models = { a: makeLlama(), b: makeLlama() };
    for (const method of ["ram", "ramplus_tl"]) {
      const alone = `merge_method: ${method}\nbase_model: a\nmodels: [{model: a}]\n`;
      assert.throws(() => planText(alone, models), { code: "PlanInputCount", found: "1 models" });
      const none = `merge_method: ${method}\nmodels: [{model: a}, {model: b}]\n`;
      assert.throws(() => planText(none, models), { code: "RecipeBaseMissing", found: "no base_model" });
    }
  });
});
