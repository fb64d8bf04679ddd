// Goal: the bound on a tensor's memory counts what the engine allocates for it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ties } from "../../../core/methods/ties.ts";
import { kernelBytes } from "../../../core/plan/memory.ts";
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
      false,
    );
  };
  assert.equal(bytesOf("BF16"), bytesOf("F32"));
});
