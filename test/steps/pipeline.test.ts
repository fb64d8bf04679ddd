// The pipeline end to end on memory stores: every step, the engine's own regions, no threads.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { verifyFile } from "../../steps/stream.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, recipe, runPipeline } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

/** A yard, and dependencies that count the units that were computed. */
async function setUp() {
  const yard = newStore();
  await makeYard(yard);
  const merged: string[] = [];
  const openStore = openerOf(yard);
  const executeMerge = createInThreadExecutor(openStore, ({ unit }) => void merged.push(unit.file));
  return { yard, merged, deps: testDeps(openStore, { executeMerge }) };
}

async function listKeys(store: ObjectStore, prefix = ""): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys;
}

test("a pipeline publishes a version that opens, verifies and says where it came from", async () => {
  const { yard, deps, merged } = await setUp();
  const { plan, result } = await runPipeline(yard, deps);
  assert.deepEqual(
    plan.stages.map(({ name, units }) => [name, units]),
    [
      ["adopt", 6],
      ["describe", 2],
      ["merge", merged.length],
    ],
  );
  assert.ok(merged.length > 1);
  assert.equal(result?.outcome, "published");
  const prefix = `artifacts/ab/${result?.version}/`;
  const manifest = parseManifest(await readAll(yard, `${prefix}manifest.json`, 1e6));
  assert.deepEqual(
    manifest?.inputs.map(({ model }) => model),
    ["one", "two"],
  );
  assert.ok(manifest?.inputs.every(({ digest }) => digest !== null));
  const keys = await listKeys(yard, prefix);
  assert.deepEqual(
    keys,
    [...(manifest?.files ?? []).map(({ name }) => prefix + name), `${prefix}manifest.json`].sort(),
  );
  for (const file of manifest?.files ?? []) {
    await verifyFile({ store: yard, key: prefix + file.name, bytes: file.bytes }, file, deps.signal);
  }
  const opened = await openCheckpoint(yard, prefix);
  assert.equal(opened.checkpoint.tensors.length, 4);
  assert.deepEqual(new Set(opened.checkpoint.tensors.map(({ dtype }) => dtype)), new Set(["BF16"]));
});
