// The example recipes of methods with task vectors run on the example models, and change them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { runMerge } from "../../../tools/golden/run-merge.ts";
import { valuesOf } from "../../../tools/golden/tensors.ts";

const FOLDER = fileURLToPath(new URL("../../../examples", import.meta.url));

for (const name of ["ties", "dare-ties", "della", "breadcrumbs", "pcb", "tsv-m"]) {
  test(`examples/${name}.yaml merges finite weights that are no parent's`, async () => {
    const merged = await runMerge(FOLDER, readFileSync(`${FOLDER}/${name}.yaml`, "utf8"));
    const linear = await runMerge(FOLDER, readFileSync(`${FOLDER}/linear.yaml`, "utf8"));
    assert.deepEqual([...merged.tensors.keys()].sort(), [...linear.tensors.keys()].sort());
    for (const [tensor, own] of merged.tensors) {
      const values = valuesOf(own);
      assert.ok(values.every(Number.isFinite), tensor);
    }
    const differ = [...merged.tensors].filter(([tensor, { bytes }]) => {
      const other = linear.tensors.get(tensor);
      return other !== undefined && Buffer.compare(bytes, other.bytes) !== 0;
    });
    assert.ok(differ.length > merged.tensors.size / 2, `${differ.length} tensors differ from the average`);
  });
}
