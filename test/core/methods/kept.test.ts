// Goal: a method's count of kept elements is what it did to the output. Method: one model, or two that moved alike,
// whose differences are never 0, so that an element was kept where the output differs from the base; sizes around the
// groups of mask bits and the tile.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { findMethod } from "../../../core/methods/registry.ts";
import { countBits } from "../../../core/ops/deltas.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";
import { createWasmKernels } from "../../../kernels/wasm/host.ts";
import { runTensor, type TensorCase } from "../../engine/in-memory.ts";

const SHAPES = [[2], [15], [16], [517], [101, 97], [3, 9001]] as const;
const KERNELS = [createWasmKernels(2 ** 23), createScalarKernels(2 ** 23)];
/** By method: parameters of the merge, and of each model. */
const METHODS: Readonly<Record<string, { readonly own: Record<string, number>; readonly model: object }>> = {
  ties: { own: { min_keep: 1 }, model: { weight: 1, density: 0.3 } },
  breadcrumbs: { own: {}, model: { weight: 1, density: 0.5, gamma: 0.1 } },
  breadcrumbs_ties: { own: {}, model: { weight: 1, density: 0.5, gamma: 0.1 } },
  dare_linear: { own: {}, model: { weight: 1, density: 0.4 } },
  dare_ties: { own: {}, model: { weight: 1, density: 0.4 } },
  della: { own: {}, model: { weight: 1, density: 0.4, epsilon: 0.2 } },
  della_linear: { own: {}, model: { weight: 1, density: 0.4, epsilon: 0.2 } },
  sce: { own: { select_topk: 0.3 }, model: {} },
};

/** Models that moved up from the base everywhere: the second twice as far. */
function caseOf(id: string, shape: readonly number[], models: number): TensorCase {
  const method = findMethod(id);
  assert.ok(method !== undefined, `${id} is registered`);
  const count = shape.reduce((product, size) => product * size, 1);
  const base = Float32Array.from({ length: count }, (_, i) => Math.fround(Math.sin(i)));
  const moved = Array.from({ length: models }, (_, index) => ({
    model: `ft${index}`,
    values: base.map((value, i) => value + (index + 1) * (0.25 + ((i * 7919) % 1013) / 1000)),
    parameters: { ...METHODS[id]?.model },
  }));
  const parameters = METHODS[id]?.own ?? {};
  return { method, shape, models: [{ model: "base", values: base }, ...moved], parameters, seed: 5 };
}

function changedElements(before: Float32Array | undefined, after: Float32Array): number {
  return after.filter((value, i) => value !== before?.[i]).length;
}

describe("kept elements are those that reach the output", () => {
  for (const id of Object.keys(METHODS)) {
    test(`${id} with either kernels and any window`, async () => {
      const models = id === "sce" ? 2 : 1;
      for (const shape of SHAPES) {
        const entry = caseOf(id, shape, models);
        for (const windowElements of [8192, 2 ** 15]) {
          for (const kernels of KERNELS) {
            const options = { kernels, windowElements, statistics: true };
            const { values, result } = await runTensor(entry, options);
            const changed = changedElements(entry.models[0]?.values, values);
            assert.deepEqual(
              result.interference?.kept,
              Array.from({ length: models }, () => changed),
              `[${shape}]`,
            );
          }
        }
      }
    });
  }

  test("under strict rules in 16 bits too", async () => {
    const entry: TensorCase = { ...caseOf("ties", [517], 1), working: "BF16", rules: { strict: true } };
    const { result } = await runTensor(entry, { statistics: true });
    assert.deepEqual(result.interference?.kept, [Math.floor(0.3 * 517)]);
    const selected: TensorCase = { ...caseOf("sce", [517], 2), working: "BF16", rules: { strict: true } };
    const kept = Math.floor(Math.fround(0.3) * 517);
    assert.deepEqual((await runTensor(selected, { statistics: true })).result.interference?.kept, [kept, kept]);
  });
});

test("a model of density 1 keeps all, beside a sparse one and alone", async () => {
  const entry = caseOf("dare_linear", [517], 2);
  const [base, sparse, dense] = entry.models;
  assert.ok(base !== undefined && sparse !== undefined && dense !== undefined);
  const whole = { ...dense, parameters: { weight: 1, density: 1 } };
  const mixed = await runTensor({ ...entry, models: [base, sparse, whole] }, { statistics: true });
  assert.equal(mixed.result.interference?.kept?.[1], 517);
  assert.ok((mixed.result.interference?.kept?.[0] ?? 517) < 300);
  const alone = await runTensor({ ...entry, models: [base, whole] }, { statistics: true });
  assert.deepEqual(alone.result.interference?.kept, [517]);
});

test("a method that does not choose among elements counts none", async () => {
  const entry = caseOf("task_arithmetic", [517], 2);
  const models = entry.models.map((model) => ({ ...model, parameters: { weight: 1 } }));
  const { result } = await runTensor({ ...entry, models }, { statistics: true });
  assert.equal(result.interference?.kept, null);
});

test("bits are counted from any group on, those behind the count left out", () => {
  const bytes = Uint8Array.of(0xff, 0xff, 0x01, 0x80, 0xff, 0xff);
  const bits = { address: 0, bytes };
  const found = [0, 1, 15, 16, 17, 31, 32, 33, 48].map((count) => countBits(bits, 0, count));
  assert.deepEqual(found, [0, 1, 15, 16, 17, 17, 18, 19, 34]);
  assert.equal(countBits(bits, 16, 32), 18);
});
