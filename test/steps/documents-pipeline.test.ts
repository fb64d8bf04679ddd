// A pipeline of several documents: intermediate results are stages of the run, no part of the version, found again by
// their content, and checked when they are read.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { readAll } from "../../stores/objects.ts";
import { refusal } from "../refusal.ts";
import { newYard, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { documentsRecipe, plan, runOneUnit, runPipeline } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

async function setUp() {
  const yard = await newYard();
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  await putModel(yard, "incoming/b/1/", { seed: 2 });
  await putText(yard, "pipelines/small.yaml", documentsRecipe(1));
  const merged: string[] = [];
  const openStore = openerOf(yard);
  const executeMerge = createInThreadExecutor(openStore, ({ unit, target }) => void merged.push(target.key, unit.file));
  return { yard, merged, deps: testDeps(openStore, { executeMerge }) };
}

test("the version holds the output only, and says which models it was made from", async () => {
  const { yard, deps } = await setUp();
  const { plan: planned, result } = await runPipeline(yard, deps);
  assert.deepEqual(
    planned.stages.map(({ name, kind }) => [name, kind]),
    [
      ["adopt", "shard"],
      ["describe", "shard"],
      ["merge-half", "apply"],
      ["merge", "apply"],
    ],
  );
  const prefix = layout.version("several", result?.version ?? "");
  const manifest = parseManifest(await readAll(yard, `${prefix}manifest.json`, 1e6));
  assert.deepEqual(
    manifest?.inputs.map(({ model, digest }) => [model, digest !== null]),
    [
      ["one", true],
      ["two", true],
    ],
  );
  const card = Buffer.from(await readAll(yard, `${prefix}README.md`, 1e6)).toString();
  for (const { model, digest } of manifest?.inputs ?? []) assert.ok(card.includes(`| ${model} | ${digest} |`), card);
  const file = manifest?.files.find(({ name }) => name === "model-00001-of-00004.safetensors");
  assert.ok(file !== undefined && "tensors" in file, "four files of their own, as in one document");
});

test("an unchanged intermediate result is found again when only the last document changes", async () => {
  const { yard, merged, deps } = await setUp();
  const first = await runPipeline(yard, deps);
  const intermediate = merged.filter((key) => key.includes("/stages/"));
  assert.ok(
    intermediate.length > 1 && intermediate.every((key) => key.startsWith(layout.stageOutput(first.plan.run, 2))),
  );
  merged.length = 0;
  await putText(yard, "pipelines/small.yaml", documentsRecipe(2));
  const second = await runPipeline(yard, deps);
  assert.notEqual(second.result?.version, first.result?.version);
  assert.ok(merged.length > 0 && merged.every((key) => !key.includes("/stages/")), String(merged));

  // Without the run that held them they are made again, to the same version.
  for await (const { key } of yard.list("runs/")) await yard.delete(key);
  merged.length = 0;
  await putText(yard, "pipelines/small.yaml", documentsRecipe(3));
  assert.equal((await runPipeline(yard, deps)).result?.outcome, "published");
  assert.ok(merged.some((key) => key.includes("/stages/")));
});

test("a damaged intermediate result is noticed by the unit that reads it", async () => {
  const { yard, deps } = await setUp();
  const planned = await plan(yard, deps);
  const run = (stage: number, index: number) => runOneUnit(planned, stage, index, deps);
  for (const stage of planned.stages.slice(0, 3)) {
    for (let index = 0; index < stage.units; index += 1) await run(stage.index, index);
  }
  const key = `${layout.stageOutput(planned.run, 2)}model-00001-of-00004.safetensors`;
  const bytes = await readAll(yard, key, 1e6);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  await yard.delete(key);
  await yard.create(key, bytes);
  await assert.rejects(run(3, 0), refusal({ code: "EngineInputChanged", model: "half" }));
});
