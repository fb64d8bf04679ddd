// Cutting tensors into shards: names, sizes and the index as Hugging Face tools write them, and what a reader makes of
// the result.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import fc from "fast-check";
import { safetensors } from "../../../core/formats/safetensors/folder.ts";
import type { TensorSpec } from "../../../core/formats/safetensors/safetensors.ts";
import { planShards } from "../../../core/formats/safetensors/shard-plan.ts";
import { tensorBytes } from "../../../core/tensor.ts";
import { memoryFolder } from "./folder.ts";

const spec = (name: string, elements: number): TensorSpec => ({ name, dtype: "U8", shape: [elements] });

/** The planned files with zeros for data. */
function writeShards(plan: ReturnType<typeof planShards>): Record<string, Uint8Array | string> {
  const files: Record<string, Uint8Array | string> = {};
  for (const { file, header, fileBytes } of plan.shards) {
    const content = new Uint8Array(fileBytes);
    content.set(header);
    files[file] = content;
  }
  if (plan.index !== undefined) files[plan.index.name] = plan.index.text;
  return files;
}

suite("planned shards", () => {
  test("one is enough when all fits: model.safetensors without an index", () => {
    const plan = planShards([spec("b", 4), spec("a", 6)], 10);
    assert.deepEqual(
      plan.shards.map(({ file }) => file),
      ["model.safetensors"],
    );
    assert.deepEqual([plan.index, plan.totalBytes], [undefined, 10]);
  });

  test("are filled greedily in order, and a tensor is never split", () => {
    const plan = planShards([spec("d", 4), spec("c", 6), spec("b", 25), spec("a", 1), spec("e", 9)], 10);
    assert.deepEqual(
      plan.shards.map(({ file, tensors }) => [file, tensors.map(({ name }) => name)]),
      [
        ["model-00001-of-00003.safetensors", ["c", "d"]],
        ["model-00002-of-00003.safetensors", ["b"]],
        ["model-00003-of-00003.safetensors", ["a", "e"]],
      ],
    );
    assert.equal(plan.totalBytes, 45);
  });

  test("come with the index that save_pretrained writes", () => {
    const plan = planShards([spec("b", 8), spec("a", 8)], 8);
    assert.deepEqual(plan.index, {
      name: "model.safetensors.index.json",
      text: `{
  "metadata": {
    "total_size": 16
  },
  "weight_map": {
    "a": "model-00002-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors"
  }
}
`,
    });
  });

  test("bear the metadata that loaders ask for", () => {
    const [shard] = planShards([spec("a", 1)], 10).shards;
    assert.match(new TextDecoder().decode(shard?.header.subarray(8)), /^\{"__metadata__":\{"format":"pt"\},"a":/);
  });

  test("of no tensors are one empty file", () => {
    const plan = planShards([], 10);
    assert.deepEqual(
      plan.shards.map(({ file, fileBytes }) => [file, fileBytes]),
      [["model.safetensors", 40]],
    );
  });

  test("refuse one name twice, in one shard or in two", () => {
    for (const limit of [1, 100]) {
      assert.throws(() => planShards([spec("a", 4), spec("a", 4)], limit), { code: "SafetensorsNameRepeated" });
    }
  });

  test("hold every tensor once, within the limit, and open without a warning", async () => {
    const tensors = fc.uniqueArray(
      fc.record({
        name: fc.oneof(fc.string({ unit: "grapheme", maxLength: 6 }), fc.constantFrom("__proto__", "10", "9")),
        dtype: fc.constantFrom("F32" as const, "BF16" as const, "U8" as const),
        shape: fc.array(fc.nat({ max: 6 }), { maxLength: 3 }),
      }),
      { selector: ({ name }) => name, minLength: 1, maxLength: 12 },
    );
    await fc.assert(
      fc.asyncProperty(tensors, fc.integer({ min: 1, max: 400 }), async (specs, limit) => {
        if (specs.some(({ name }) => name === "__metadata__" || /\p{Cc}/u.test(name))) return;
        const plan = planShards(specs, limit);
        for (const { tensors: held } of plan.shards) {
          const bytes = held.reduce((sum, each) => sum + each.bytes, 0);
          assert.ok(bytes <= limit || held.filter((each) => each.bytes > 0).length === 1);
        }
        const { checkpoint, warnings } = await safetensors.open(memoryFolder(writeShards(plan)));
        assert.deepEqual(warnings, []);
        assert.deepEqual(checkpoint.tensors.map(({ name }) => name).sort(), specs.map(({ name }) => name).sort());
        for (const { name, dtype, shape, ranges } of checkpoint.tensors) {
          const wanted = specs.find((each) => each.name === name);
          assert.deepEqual([dtype, shape], [wanted?.dtype, wanted?.shape]);
          assert.equal(ranges[0]?.bytes, tensorBytes(dtype, shape));
        }
      }),
      { seed: 3, numRuns: 150 },
    );
  });
});
