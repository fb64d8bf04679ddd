// Values of written DeepSpeed files that its engine looks at only later in training.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { cutGroups, flatState } from "../../../core/formats/deepspeed/write.ts";
import { optimizerCommon } from "../../../core/formats/deepspeed/write-model.ts";
import { torchDtype } from "../../../core/formats/pickle/write.ts";
import type { JsonObject } from "../../../core/json.ts";
import type { SourceRange, TargetTensor } from "../../../core/universal/box.ts";
import { gatherWhole } from "../../../core/universal/box.ts";

const trainingOf = (weights: "F32" | "F16" | "BF16", optimizer: JsonObject) => {
  return { weights, groups: [], optimizer, client: {} };
};

/** Class and fields of the scaler that is written; undefined where none is. */
function scalerOf(
  ...args: Parameters<typeof optimizerCommon>
): readonly [string, ReadonlyMap<unknown, unknown>] | undefined {
  const scaler = optimizerCommon(...args).loss_scaler;
  if (scaler === undefined) return undefined;
  assert.ok(typeof scaler === "object" && scaler?.kind === "record");
  assert.ok(typeof scaler.state === "object" && scaler.state?.kind === "dict");
  return [scaler.name.split(".").at(-1) ?? "", new Map(scaler.state.entries)];
}

suite("the loss scaler of a written optimizer file", () => {
  test("of float16 has its dtype, which the class needs when gradients overflow first", () => {
    const stated = { class: "DynamicLossScaler", cur_scale: 512, dynamic: true };
    for (const needsScaler of [false, true]) {
      const [name, fields] = scalerOf(trainingOf("F16", { loss_scaler: stated }), { needsScaler }) ?? assert.fail();
      assert.equal(name, "loss_scaler DynamicLossScaler");
      assert.deepEqual([fields.get("cur_scale"), fields.get("dtype")], [512, torchDtype("F16")]);
    }
  });

  test("is DeepSpeed's first one where the source has none and the loader takes the file's", () => {
    const [name, fields] = scalerOf(trainingOf("F16", {}), { needsScaler: true }) ?? assert.fail();
    assert.deepEqual([name, fields.get("cur_scale")], ["loss_scaler DynamicLossScaler", 65_536]);
    assert.equal(scalerOf(trainingOf("BF16", {}), { needsScaler: true })?.[0], "loss_scaler LossScaler");
    assert.equal(scalerOf(trainingOf("F16", {})), undefined);
    assert.equal(scalerOf(trainingOf("BF16", {})), undefined);
  });
});

suite("the flat state of a rank", () => {
  test("has zeros for a parameter without that moment, and the others in their places", () => {
    const tensor = (file: string): TargetTensor => {
      return { dtype: "F32", shape: [4], gather: gatherWhole([{ file, offset: 0, bytes: 16 }], [4]) };
    };
    const moments = [tensor("a"), undefined, tensor("c")];
    const group = moments.map((moment, index) => ({
      name: String(index),
      shape: [4],
      step: 1,
      states: new Map([["fp32", tensor("w")], ...(moment === undefined ? [] : [["exp_avg", moment] as const])]),
    }));
    const describe = (range: SourceRange) => ("tensor" in range ? moments.indexOf(range.tensor) : "zeros");
    for (const zero of [1, 3] as const) {
      const [cut = assert.fail()] = cutGroups([group], { tp: 1, pp: 1, dp: 1, zero });
      const [partition = assert.fail()] = cut.partitions;
      const [boxes = []] = flatState(cut, partition, "exp_avg").gather.copies;
      assert.deepEqual(
        boxes.flatMap(({ ranges }) => ranges.map((range) => [describe(range), range.bytes])),
        [
          [0, 16],
          ["zeros", 16],
          [2, 16],
        ],
      );
    }
  });
});
