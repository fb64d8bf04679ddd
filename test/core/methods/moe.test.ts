// The planner's own methods for mixtures of experts: random parts are the same however a tensor is cut.
import assert from "node:assert/strict";
import test from "node:test";
import { type MergeMethod, type MergeTensor, tileElementsOf } from "../../../core/methods/method.ts";
import { moe_expert } from "../../../core/methods/moe_expert.ts";
import { moe_router } from "../../../core/methods/moe_router.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";
import { elementCount } from "../../../core/tensor.ts";

type Parts = Pick<MergeTensor, "shape"> & {
  readonly parameters?: MergeTensor["parameters"];
  readonly own?: MergeTensor["parameters"];
  readonly name?: string;
};

/** A tensor through a method, `rows` rows (or elements) at a time; undefined: as the engine cuts it. */
function run(method: MergeMethod, parts: Parts, inputs: readonly Float32Array[], tileElements?: number): Float32Array {
  const { shape, parameters = {}, own = {}, name = "t" } = parts;
  const rules = { nonFinite: "error", strict: false } as const;
  const models = inputs.map((_, index) => ({ model: `m${index}`, isBase: false, parameters: own }));
  const kernels = createScalarKernels(1 << 20);
  const { apply } = method.compile({ name, shape, inputs: models, parameters, seed: 3, rules }, kernels);
  assert.ok("tile" in apply);
  const total = elementCount(shape);
  const result = new Float32Array(total);
  const tile = tileElements ?? tileElementsOf(method.locality, shape);
  for (let first = 0; first < total; first += tile) {
    const count = Math.min(tile, total - first);
    const tiles = inputs.map((input) => {
      const own = kernels.allocateTile(count);
      own.values.set(input.subarray(first, first + count));
      return own;
    });
    const output = kernels.allocateTile(count);
    apply.tile({ inputs: tiles, output, firstElement: first, count });
    result.set(output.values.subarray(0, count), first);
  }
  return result;
}

const deviation = (values: Float32Array) =>
  Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);

test("noise is standard normal times its scale, by tensor, seed and element", () => {
  const weights = Float32Array.from({ length: 20_000 }, (_, i) => i / 1000);
  const own = { noise: 0.25, scale: 2 };
  const whole = run(moe_expert, { shape: [200, 100], own }, [weights]);
  assert.deepEqual(run(moe_expert, { shape: [200, 100], own }, [weights], 37), whole);
  const noise = whole.map((value, i) => (value / 2 - (weights[i] ?? 0)) / 0.25);
  assert.ok(Math.abs(deviation(noise) - 1) < 0.02, String(deviation(noise)));
  assert.ok(Math.abs(noise.reduce((sum, value) => sum + value, 0) / noise.length) < 0.02);
  assert.ok(noise.some((value) => value > 3) && noise.some((value) => value < -3));
  assert.notDeepEqual(run(moe_expert, { shape: [200, 100], own, name: "other" }, [weights]), whole);
  const scaled = run(moe_expert, { shape: [2], own: { scale: 0.1 } }, [Float32Array.of(1, -3)]);
  assert.deepEqual([...scaled], [Math.fround(0.1), Math.fround(-3 * Math.fround(0.1))]);
});

test("routers are standard normal, or uniform as a linear layer begins, whatever their input", () => {
  const zeros = new Float32Array(64 * 100);
  const normal = run(moe_router, { shape: [64, 100], parameters: { gate_mode: "random" } }, [zeros]);
  assert.deepEqual(run(moe_router, { shape: [64, 100], parameters: { gate_mode: "random" } }, [zeros], 300), normal);
  assert.ok(Math.abs(deviation(normal) - 1) < 0.03, String(deviation(normal)));
  const uniform = run(moe_router, { shape: [64, 100], parameters: { gate_mode: "uniform_random" } }, [zeros]);
  assert.ok(uniform.every((value) => Math.abs(value) <= 0.1));
  assert.ok(Math.abs(deviation(uniform) - 0.1 / Math.sqrt(3)) < 0.002);
});

test("a gate of prompts is the direction from the negative prompts to the positive ones", () => {
  const parameters = { gate_mode: "cheap_embed" };
  const positive = Float32Array.of(3, 4, 0, 2);
  const alone = run(moe_router, { shape: [2, 2], parameters }, [positive]);
  assert.deepEqual([...alone], [Math.fround(0.6), Math.fround(0.8), 0, 1]);
  // The first expert has no negative prompts: zeros.
  const against = run(moe_router, { shape: [2, 2], parameters }, [positive, Float32Array.of(0, 0, 5, 0)]);
  const expected = [0.6, 0.8, -Math.SQRT1_2, Math.SQRT1_2];
  for (const [index, value] of expected.entries()) assert.ok(Math.abs((against[index] ?? 0) - value) < 1e-7);
});
