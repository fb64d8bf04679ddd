// Every recipe in examples/ runs on the example models: finite weights, and where it merges the two fine-tunes, weights
// that are not those of their plain average. The pipeline among them is the demo's, which has a test of its own.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { isFloatDtype } from "../../../core/ops/cast.ts";
import { runMerge } from "../../../tools/golden/run-merge.ts";
import { valuesOf } from "../../../tools/golden/tensors.ts";

const FOLDER = fileURLToPath(new URL("../../../examples", import.meta.url));
const AVERAGE = "linear.yaml";
const PIPELINE = "pipeline.yaml";
/** Of other models or with other layers. */
const UNLIKE_AVERAGE = [AVERAGE, "lora.yaml", "moe.yaml", "passthrough.yaml", "slices.yaml", "tokenizer-union.yaml"];

const names = readdirSync(FOLDER).filter((name) => name.endsWith(".yaml") && name !== PIPELINE);
const merge = (name: string) => runMerge(FOLDER, readFileSync(`${FOLDER}/${name}`, "utf8"));
const average = merge(AVERAGE);

test("there are examples", () => assert.ok(names.length > 20, `${names}`));

for (const name of names) {
  test(`examples/${name} merges finite weights`, async () => {
    const { tensors } = await merge(name);
    for (const [tensor, own] of tensors) {
      if (isFloatDtype(own.dtype)) assert.ok(valuesOf(own).every(Number.isFinite), tensor);
    }
    if (UNLIKE_AVERAGE.includes(name)) return;
    const other = (await average).tensors;
    assert.deepEqual([...tensors.keys()].sort(), [...other.keys()].sort());
    const differ = [...tensors].filter(([tensor, { bytes }]) => {
      const same = other.get(tensor);
      return same !== undefined && Buffer.compare(bytes, same.bytes) !== 0;
    });
    assert.ok(differ.length > tensors.size / 2, `${differ.length} tensors differ from the average`);
  });
}
