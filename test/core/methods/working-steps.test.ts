// Goal: what strict rules do in 16 bits depends on no cut of the work and keeps to the planned memory, and inputs of
// another dtype count as if they were stored in the recipe's. What the steps give is pinned by the golden cases.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { passthrough } from "../../../core/methods/passthrough.ts";
import { findMethod } from "../../../core/methods/registry.ts";
import { scalarCast } from "../../../core/ops/cast.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";
import { kernelBytes, UNWATCHED } from "../../../core/plan/memory.ts";
import { runTensor, type TensorCase, unitTensorOf } from "../../engine/in-memory.ts";
import { uniforms } from "../../random-numbers.ts";

const COUNT = 20_000;
const PARAMETERS = {
  arcee_fusion: {},
  linear: {},
  model_stock: {},
  multislerp: {},
  nearswap: { t: 0.01 },
  nuslerp: { nuslerp_flatten: false },
  passthrough: {},
  ram: { epsilon: 0.01 },
  ramplus_tl: { epsilon: 0.01 },
  sce: { select_topk: 0.3 },
  slerp: { t: 0.3 },
  ties: {},
};

/** Values that neither dtype of 16 bits can hold. */
function caseOf(id: keyof typeof PARAMETERS, working: "F16" | "BF16"): TensorCase {
  const uniform = uniforms(7);
  const next = () => uniform() - 0.5;
  const method = findMethod(id);
  assert.ok(method !== undefined);
  const base = Float32Array.from({ length: COUNT }, next);
  const others = Math.min(2, method.inputCount.max - 1);
  const models = Array.from({ length: others }, (_, index) => ({
    model: `m${index}`,
    values: base.map((value, i) => (i % 5 === index ? value : value + next() / 10)),
    parameters: { weight: 0.4, density: 0.5 },
  }));
  const first = {
    model: "base",
    values: base,
    ...(method.base === "none" ? { parameters: { weight: 0.3, scale: 0.7 } } : {}),
  };
  return {
    method,
    shape: [100, 200],
    hasBase: method.base !== "none",
    models: [first, ...models].map(({ parameters, ...model }) => ({
      ...model,
      ...(parameters === undefined ? {} : { parameters: known(method, parameters) }),
    })),
    parameters: PARAMETERS[id],
    rules: { strict: true },
    working,
  };
}

/** Those of the parameters that the method has. */
function known({ modelParameters }: TensorCase["method"], values: Record<string, number>): Record<string, number> {
  return Object.fromEntries(Object.entries(values).filter(([name]) => name in modelParameters.shape));
}

/** The same case with its values stored as the working dtype. */
function storedAs(entry: TensorCase, dtype: "F16" | "BF16"): TensorCase {
  const models = entry.models.map((model) => {
    const kernels = createScalarKernels(2 ** 20);
    const [tile, block] = [kernels.allocateTile(COUNT), kernels.allocateBlock(2 * COUNT)];
    tile.values.set(model.values);
    scalarCast.narrow(dtype, tile, block, 0, COUNT);
    scalarCast.widen(dtype, block, 0, tile, COUNT);
    return { ...model, values: tile.values, dtype };
  });
  return { ...entry, models };
}

for (const id of Object.keys(PARAMETERS) as (keyof typeof PARAMETERS)[]) {
  describe(`${id} in 16 bits`, () => {
    test("inputs of float32 give what they give when they are stored in the recipe's dtype", async () => {
      for (const dtype of ["F16", "BF16"] as const) {
        const wide = caseOf(id, dtype);
        const { values } = await runTensor(wide);
        assert.deepEqual(values, (await runTensor(storedAs(wide, dtype))).values, dtype);
        const { working: _, ...plain } = wide;
        assert.notDeepEqual((await runTensor(plain)).values, values, dtype);
      }
    });

    test("windows and kernels change nothing, and memory stays within what the plan reserves", async () => {
      const entry = storedAs(caseOf(id, "BF16"), "BF16");
      const { values } = await runTensor(entry);
      const windowElements = 2 ** 13;
      const kernels = createScalarKernels(kernelBytes(entry.method, unitTensorOf(entry), windowElements, UNWATCHED));
      assert.deepEqual((await runTensor(entry, { kernels, windowElements })).values, values);
    });
  });
}

test("results have the working dtype before the output's", async () => {
  const models = [
    { model: "m", dtype: "BF16" as const, values: Float32Array.of(1.0078125), parameters: { scale: 1.228 } },
  ];
  const { values } = await runTensor({ method: passthrough, shape: [1], hasBase: false, models, working: "BF16" });
  assert.deepEqual([...values], [1.234375]);
});
