// Goal: iso_c, iso_cts, knots, tsv_m and wudi do what section 13 of the merge reference says, in the plan's memory.
// Method: by properties that the result has for any input (its singular values, its rank, its loss), on odd shapes
// through the engine; the golden cases compare values.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, test } from "node:test";
import { iso_c } from "../../../core/methods/iso_c.ts";
import { iso_cts } from "../../../core/methods/iso_cts.ts";
import { knots } from "../../../core/methods/knots.ts";
import type { MergeMethod } from "../../../core/methods/method.ts";
import { tsv_m } from "../../../core/methods/tsv_m.ts";
import { wudi } from "../../../core/methods/wudi.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";
import { type Matrix, onHeap } from "../../../core/ops/linalg/matrix.ts";
import { svd } from "../../../core/ops/linalg/svd.ts";
import { kernelBytes, UNWATCHED } from "../../../core/plan/memory.ts";
import { runMerge } from "../../../tools/golden/run-merge.ts";
import { valuesOf } from "../../../tools/golden/tensors.ts";
import { writePlainModel } from "../../cli/model-files.ts";
import { runTensor, type TensorCase, unitTensorOf } from "../../engine/in-memory.ts";
import { randomMatrix } from "../ops/linalg/matrices.ts";
import { makeLlama, planText } from "../plan/checkpoints.ts";

const METHODS = [iso_c, iso_cts, knots, tsv_m, wudi] as const;
const SHAPES = [[1, 1], [1, 9], [9, 1], [12, 30], [30, 12], [16, 16], [7], [2, 3, 4], [3, 0]] as const;

function caseOf(method: MergeMethod, shape: readonly number[], models = 3, parameters = {}): TensorCase {
  const count = shape.reduce((product, length) => product * length, 1);
  const part = (model: number) => Float32Array.from(randomMatrix(model + 1, Math.max(1, count)).values.slice(0, count));
  const base = part(0);
  const others = Array.from({ length: models }, (_, index) => ({
    model: `ft${index}`,
    values: part(index + 1).map((value, i) => (base[i] ?? 0) + value / 8),
  }));
  return { method, shape, models: [{ model: "base", values: base }, ...others], parameters };
}

/** What was added to the base. */
function change({ models, shape }: TensorCase, values: Float32Array): Matrix {
  const [rows = 0, columns = 0] = shape;
  return { rows, columns, values: Float64Array.from(values, (value, i) => value - (models[0]?.values[i] ?? 0)) };
}

function sumOfTasks({ models: [base, ...others] }: TensorCase): Float64Array {
  return Float64Array.from(base?.values ?? [], (origin, i) =>
    others.reduce((sum, { values }) => sum + Math.fround((values[i] ?? 0) - origin), 0),
  );
}

function assertClose(got: ArrayLike<number>, expected: ArrayLike<number>, bound: number): void {
  for (let i = 0; i < expected.length; i++) {
    assert.ok(Math.abs((got[i] ?? 0) - (expected[i] ?? 0)) <= bound, `${i}: ${got[i]}, not ${expected[i]}`);
  }
}

describe("merging of task matrices", () => {
  for (const method of METHODS) {
    for (const shape of SHAPES) {
      test(`${method.id} of [${shape.join(", ")}] in exactly the memory of the plan, by both kernel sets`, async () => {
        const entry = caseOf(method, shape, 3, method.id === "wudi" ? { iter_num: 3 } : {});
        const bytes = kernelBytes(method, unitTensorOf(entry), 2 ** 16, UNWATCHED);
        const own = await runTensor(entry, { kernels: createScalarKernels(bytes) });
        assert.deepEqual((await runTensor(entry)).values, own.values);
        assert.equal(own.passes, shape.includes(0 as never) ? 0 : 1);
        if (shape.length === 2) return;
        const mean = sumOfTasks(entry).map((value) => value / 3);
        assertClose(change(entry, own.values).values, mean, 1e-6);
      });
    }

    test(`${method.id}: a NaN makes the tensor NaN where it is let through`, async () => {
      const entry = caseOf(method, [4, 5]);
      const [, first] = entry.models;
      if (first !== undefined) first.values[3] = Number.NaN;
      const { values } = await runTensor({ ...entry, rules: { nonFinite: "propagate" } });
      assert.ok(values.every(Number.isNaN));
      await assert.rejects(runTensor(entry), { code: "EngineNonFinite" });
    });

    test(`${method.id} of models like the base is the base`, async () => {
      const entry = caseOf(method, [6, 4]);
      const [base] = entry.models;
      const models = entry.models.map((model) => ({ ...model, values: base?.values ?? model.values }));
      assert.deepEqual((await runTensor({ ...entry, models })).values, base?.values);
    });

    test(`${method.id} without a base, or with the base alone, is refused`, () => {
      const models = { a: makeLlama(), b: makeLlama() };
      const none = `merge_method: ${method.id}\nmodels: [{model: a}, {model: b}]\n`;
      assert.throws(() => planText(none, models), { code: "RecipeBaseMissing", found: "no base_model" });
      const alone = `merge_method: ${method.id}\nbase_model: a\nmodels: [{model: a}]\n`;
      assert.throws(() => planText(alone, models), { code: "PlanInputCount", found: "1 models" });
    });
  }

  for (const method of [iso_c, iso_cts]) {
    test(`${method.id}: all singular values of the change are one number, times the scale`, async () => {
      for (const shape of [
        [12, 30],
        [30, 12],
      ] as const) {
        const plain = caseOf(method, shape);
        const { values } = svd(change(plain, (await runTensor(plain)).values), onHeap);
        for (const value of values) assert.ok(Math.abs(value / (values[0] ?? 1) - 1) < 1e-4, `${value}`);
        const scaled = caseOf(method, shape, 3, { scale: 0.5 });
        const half = svd(change(scaled, (await runTensor(scaled)).values), onHeap).values;
        assert.ok(Math.abs((half[0] ?? 0) / (values[0] ?? 1) - 0.5) < 1e-4);
      }
    });
  }

  test("iso_c keeps the nuclear norm of the summed task vectors", async () => {
    const entry = caseOf(iso_c, [9, 14]);
    const nuclear = (matrix: Matrix) => svd(matrix, onHeap).values.reduce((sum, value) => sum + value, 0);
    const wanted = nuclear({ rows: 9, columns: 14, values: sumOfTasks(entry) });
    assert.ok(Math.abs(nuclear(change(entry, (await runTensor(entry)).values)) / wanted - 1) < 1e-5);
  });

  test("iso_cts with the whole space in common is iso_c", async () => {
    const whole = caseOf(iso_cts, [10, 6], 3, { common_space_fraction: 1 });
    assertClose((await runTensor(whole)).values, (await runTensor(caseOf(iso_c, [10, 6]))).values, 1e-6);
  });

  test("tsv_m: one task of two is the other's base: half of its triplets, orthonormal already", async () => {
    const entry = caseOf(tsv_m, [8, 6], 2, { alpha: 2 });
    const [base, first] = entry.models;
    assert.ok(base !== undefined && first !== undefined);
    const models = [base, first, { model: "same", values: base.values }];
    const delta = Float64Array.from(first.values, (value, i) => Math.fround(value - (base.values[i] ?? 0)));
    const { values } = svd({ rows: 8, columns: 6, values: delta }, onHeap);
    const merged = svd(change(entry, (await runTensor({ ...entry, models })).values), onHeap).values;
    assertClose(
      merged,
      [...values.subarray(0, 3), 0, 0, 0].map((value) => 2 * value),
      1e-5,
    );
  });

  test("knots of one task besides the base is that task, and sparsified it keeps the largest coordinates", async () => {
    const entry = caseOf(knots, [5, 7], 2);
    const [base, first] = entry.models;
    assert.ok(base !== undefined && first !== undefined);
    const models = [base, first, { model: "same", values: base.values }];
    assertClose((await runTensor({ ...entry, models })).values, first.values, 1e-6);
    const few = models.map((model) => ({ ...model, parameters: { density: 0.2 } }));
    const kept = change(entry, (await runTensor({ ...entry, models: few })).values);
    const whole = change(entry, first.values);
    // In its own basis a task's coordinates are orthogonal rows: what is kept has the sum of their squares.
    const energy = ({ values }: Matrix) => values.reduce((sum, value) => sum + value * value, 0);
    const { values, right } = svd(whole, onHeap);
    const squares = Array.from(right.values, (value, i) => (value * (values[Math.floor(i / 7)] ?? 0)) ** 2);
    const largest = squares.sort((a, b) => b - a).slice(0, 8);
    assert.ok(Math.abs(energy(kept) - largest.reduce((sum, value) => sum + value, 0)) < 1e-6 * energy(whole));
  });

  test("knots chooses among the coordinates of all tensors together", async (t) => {
    const folder = mkdtempSync(path.join(tmpdir(), "knots-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const tensors = (scale: number) => ({
      large: { shape: [1, 4], values: [8, -7, 6, 5].map((value) => value * scale) },
      small: { shape: [1, 4], values: [4, 3, -2, 1].map((value) => value * scale) },
      vector: { shape: [2], values: [scale, scale] },
    });
    for (const [name, scale] of [
      ["base", 0],
      ["tuned", 1],
      ["same", 0],
    ] as const) {
      writePlainModel(path.join(folder, name), "model.safetensors", tensors(scale));
    }
    const merged = async (density: number) => {
      const models = ["tuned", "same"].map((model) => ({ model, parameters: { density } }));
      const recipe = { merge_method: "knots", base_model: "base", models };
      const { tensors: own } = await runMerge(folder, JSON.stringify(recipe));
      return (name: string) =>
        [...valuesOf(own.get(name) ?? assert.fail(name))].map((value) => Math.round(value * 1e4) / 1e4);
    };
    // One more than the share is kept, as in the authors' code.
    const half = await merged(0.4);
    assert.deepEqual(
      [half("large"), half("small"), half("vector")],
      [
        [8, -7, 6, 5],
        [0, 0, 0, 0],
        [0.5, 0.5],
      ],
    );
    const most = await merged(0.7);
    assert.deepEqual(
      [most("large"), most("small")],
      [
        [8, -7, 6, 5],
        [4, 3, 0, 0],
      ],
    );
    assert.deepEqual((await merged(0))("large"), [0, 0, 0, 0]);
  });

  test("knots: coordinates that disagree with the sum are left out, the others averaged", async () => {
    const values = (x: number) => Float32Array.of(x, 0);
    const models = [0, 3, 1, -2].map((x, index) => ({ model: `m${index}`, values: values(x) }));
    const { values: merged } = await runTensor({ method: knots, shape: [1, 2], models });
    assertClose(merged, [2, 0], 1e-6);
  });

  test("tsv_m of more tasks than a side takes the mean", async () => {
    const entry = caseOf(tsv_m, [2, 6], 3);
    const mean = sumOfTasks(entry).map((value) => value / 3);
    assertClose(change(entry, (await runTensor(entry)).values).values, mean, 1e-6);
  });

  test("wudi: no steps give the sum, and every step less interference", async () => {
    const loss = async (steps: number) => {
      const entry = caseOf(wudi, [6, 8], 3, { iter_num: steps, lr: 1e-3 });
      const merged = change(entry, (await runTensor(entry)).values).values;
      if (steps === 0) assertClose(merged, sumOfTasks(entry), 1e-6);
      return interference(entry, merged);
    };
    const losses = [await loss(0), await loss(5), await loss(40)];
    assert.deepEqual(
      losses.toSorted((a, b) => b - a),
      losses,
    );
    assert.ok((losses[2] ?? 0) < 0.8 * (losses[0] ?? 0), `${losses}`);
  });

  test("weights multiply task vectors first", async () => {
    const entry = caseOf(iso_c, [5, 7]);
    const weighted = entry.models.map((model, i) => ({ ...model, parameters: { weight: i === 1 ? 2 : 0 } }));
    const [base, first] = entry.models;
    assert.ok(base !== undefined && first !== undefined);
    const alone = { model: "alone", values: base.values };
    const doubled = first.values.map((value, i) => 2 * value - (base.values[i] ?? 0));
    const models = [base, { model: "doubled", values: doubled }, alone];
    assertClose(
      (await runTensor({ ...entry, models: weighted })).values,
      (await runTensor({ ...entry, models })).values,
      1e-6,
    );
  });
});

/** sum_i |(M - D_i) D_i^T|^2 / |D_i|^2. */
function interference({ models: [base, ...others], shape: [rows = 0, columns = 0] }: TensorCase, merged: Float64Array) {
  return others.reduce((sum, { values }) => {
    const delta = values.map((value, i) => value - (base?.values[i] ?? 0));
    let [product, square] = [0, 0];
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < rows; j++) {
        let dot = 0;
        for (let k = 0; k < columns; k++) {
          dot += ((merged[i * columns + k] ?? 0) - (delta[i * columns + k] ?? 0)) * (delta[j * columns + k] ?? 0);
        }
        product += dot * dot;
      }
    }
    for (const value of delta) square += value * value;
    return sum + product / square;
  }, 0);
}
