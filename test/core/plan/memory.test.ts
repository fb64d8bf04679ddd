// Goal: the bound on a tensor's memory counts what the engine allocates for it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { della } from "../../../core/methods/della.ts";
import { ties } from "../../../core/methods/ties.ts";
import { fitMemory, kernelBytes, UNWATCHED } from "../../../core/plan/memory.ts";
import type { UnitTensor } from "../../../core/plan/schema.ts";
import { unitTensorOf } from "../../engine/in-memory.ts";

test("rows that are computed take windows of float32, whatever is stored", () => {
  const values = new Float32Array(64 * 16);
  const models = [
    { model: "base", values },
    { model: "tuned", values, parameters: { weight: 1 } },
  ];
  const tensor = unitTensorOf({ method: ties, shape: [64, 16], models });
  const bytesOf = (dtype: "BF16" | "F32") => {
    const rows: UnitTensor["inputs"][number]["rows"] = {
      dtype: "F32",
      others: [],
      means: [
        [
          [0, 0],
          [0, 1],
        ],
      ],
      runs: [[0, 0, 64]],
    };
    return kernelBytes(
      ties,
      { ...tensor, inputs: tensor.inputs.map((input) => ({ ...input, dtype, rows })) },
      1024,
      UNWATCHED,
    );
  };
  assert.equal(bytesOf("BF16"), bytesOf("F32"));
});

test("fused experts of 16 million elements each go through della in less than three tiles of float32", () => {
  const shape = [128, 2880, 5760];
  const slice = 2880 * 5760;
  const values = new Float32Array(0);
  const models = ["base", "a", "b"].map((model) => ({
    model,
    values,
    dtype: "BF16" as const,
    parameters: { weight: 1, density: 0.5 },
  }));
  const tensor = unitTensorOf({ method: della, shape, models, dtype: "BF16" });
  const bytes = kernelBytes(della, tensor, 2 ** 16, UNWATCHED);
  // Two windows of every input and of the output, keys, ranks and marks: in float32 a tile more of each would come.
  assert.ok(bytes < 23 * slice, `${(bytes / slice).toFixed(1)} bytes an element of a slice`);
  assert.ok(kernelBytes(della, tensor, 2 ** 16, { statistics: true, derives: false }) > 39 * slice);
  assert.ok(kernelBytes(della, { ...tensor, dtype: "F32" }, 2 ** 16, UNWATCHED) > 39 * slice);
});

test("windows of inputs behind a network are larger, where memory allows, and threads come first", () => {
  // Sixteen bytes of windows an element, on each thread.
  const needs = (windowElements: number) => 16 * windowElements;
  const near = fitMemory(needs, { threads: 2, memoryBytes: 2 ** 29 });
  const far = fitMemory(needs, { threads: 2, memoryBytes: 2 ** 29, isRemote: true });
  assert.deepEqual([near.windowElements, near.threads], [2 ** 19, 2]);
  assert.deepEqual([far.windowElements, far.threads], [2 ** 21, 2]);
  assert.ok(far.peakBytes <= 2 ** 29);
  const tight = fitMemory(needs, { threads: 2, memoryBytes: 200 * 2 ** 20, isRemote: true });
  assert.deepEqual([tight.windowElements, tight.threads], [2 ** 20, 2]);
});
