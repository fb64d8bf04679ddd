// Goal: the bound on a tensor's memory counts what the engine allocates for it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { della } from "../../../core/methods/della.ts";
import { ties } from "../../../core/methods/ties.ts";
import { kernelBytes, UNWATCHED } from "../../../core/plan/memory.ts";
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
