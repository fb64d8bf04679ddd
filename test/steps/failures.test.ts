// What a pipeline leaves behind when it fails or is killed, and that the next run goes on from there.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { checkStep } from "../../steps/check.ts";
import { publishStep } from "../../steps/publish.ts";
import { listKeys } from "../../steps/records.ts";
import { runStep } from "../../steps/step.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { Crash, createDyingStore, createFullStore } from "./failing-stores.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, plan, recipe, runPipeline, runUnits } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

/** Dependencies on one store as this process sees it, counting the units that are computed. */
function depsOn(store: ObjectStore, merged: string[] = []) {
  const openStore = openerOf(store);
  return testDeps(openStore, {
    executeMerge: createInThreadExecutor(openStore, ({ unit }) => void merged.push(unit.file)),
  });
}

/** All that users of the yard can see: versions, channels, checkpoints and uploads. */
async function readPublished(yard: ObjectStore): Promise<ReadonlyMap<string, string>> {
  const seen = new Map<string, string>();
  for (const area of ["artifacts/", "channels/", "incoming/", "pipelines/"]) {
    for await (const { key } of yard.list(area)) {
      seen.set(key, Buffer.from(await readAll(yard, key, 1e6)).toString("base64"));
    }
  }
  return seen;
}

/** Every version whose manifest is there has every file that it lists, and every channel a version. */
async function assertNothingHalf(yard: ObjectStore): Promise<void> {
  for await (const { key } of yard.list("artifacts/")) {
    if (!key.endsWith("/manifest.json")) continue;
    const manifest = parseManifest(await readAll(yard, key, 1e6));
    for (const file of manifest?.files ?? []) {
      const info = await yard.head(key.replace("manifest.json", file.name));
      assert.equal(info?.bytes, file.bytes, `${key} lists ${file.name}`);
    }
  }
  for await (const { key } of yard.list("channels/")) {
    const { version } = JSON.parse(Buffer.from(await readAll(yard, key, 1e6)).toString());
    assert.ok(await yard.head(`artifacts/ab/${version}/manifest.json`), `${key} points to ${version}`);
  }
}

async function expectedVersion(): Promise<string> {
  const yard = newStore();
  await makeYard(yard);
  return (await runPipeline(yard, depsOn(yard))).result?.version ?? "";
}

test("a run killed at any write goes on to the same version, and nothing is ever half there", async () => {
  const version = await expectedVersion();
  let crashes = 0;
  for (let at = 1; ; at += 1) {
    // Dying after one write is dying before the next; both are tried in turn.
    const when = at % 2 === 0 ? "after" : "before";
    const yard = newStore();
    await makeYard(yard);
    const dying = createDyingStore(yard, at, when);
    const end = await runPipeline(yard, depsOn(dying.store)).catch((error: unknown) => error);
    if (!dying.isDead()) break;
    // The very last write is the summary; a run that cannot keep it has ended all the same.
    assert.ok(end instanceof Crash || !(end instanceof Error), `${when} write ${at}: ${String(end)}`);
    crashes += 1;
    await assertNothingHalf(yard);
    const finished = await receiptsOfMerges(yard);
    const again: string[] = [];
    const { result } = await runPipeline(yard, depsOn(yard, again));
    if (result !== undefined) assert.equal(result.version, version, `${when} write ${at}`);
    const repeated = again.filter((file) => finished.has(file));
    assert.deepEqual(repeated, [], `${when} write ${at}: finished units ran again`);
    await assertNothingHalf(yard);
    const next = await plan(yard, depsOn(yard));
    assert.deepEqual([next.outcome, next.version], ["unchanged", version], `${when} write ${at}`);
  }
  assert.ok(crashes > 40, `${crashes} crashes`);
});

/** Files of the merge units that have a receipt. */
async function receiptsOfMerges(yard: ObjectStore): Promise<ReadonlySet<string>> {
  const files = new Set<string>();
  for await (const { key } of yard.list("runs/")) {
    if (!key.includes("/receipts/")) continue;
    const receipt = JSON.parse(Buffer.from(await readAll(yard, key, 1e6)).toString());
    if (receipt.op === "merge") files.add(receipt.file.name);
  }
  return files;
}

test("a disk that is full at any write leaves what is published as it was", async () => {
  let refusals = 0;
  for (let from = 1; ; from += 1) {
    const yard = newStore();
    await makeYard(yard);
    await runPipeline(yard, depsOn(yard));
    await putText(yard, "pipelines/small.yaml", recipe(0.25));
    const before = await readPublished(yard);
    const full = createFullStore(yard, from);
    const end = await runPipeline(yard, depsOn(full.store)).catch((error: unknown) => error);
    if (full.met() === 0) break;
    refusals += 1;
    await assertNothingHalf(yard);
    const after = await readPublished(yard);
    for (const [key, bytes] of before) {
      if (!key.startsWith("channels/")) assert.equal(after.get(key), bytes, `write ${from}: ${key}`);
    }
    // From the channel's move on, the new version is published; a result or summary that cannot be kept comes later.
    const isMoved = after.get("channels/ab/nightly.json") !== before.get("channels/ab/nightly.json");
    if (!isMoved) assert.equal((end as { code?: string }).code, "StoreFull", `write ${from}`);
  }
  assert.ok(refusals > 20, `${refusals} refusals`);
});

test("NaN in an input stops the run with its tensor, and the published version stays", async () => {
  const yard = newStore();
  await makeYard(yard);
  await runPipeline(yard, depsOn(yard));
  const before = await readPublished(yard);
  await putModel(yard, "incoming/b/2/", { seed: 2, nanAt: 7 });
  const failed = await runPipeline(yard, depsOn(yard)).catch((error) => error);
  assert.equal(failed.where?.tensor, "model.embed_tokens.weight");
  assert.match(failed.code, /NonFinite$/);
  const after = await readPublished(yard);
  for (const [key, bytes] of before) assert.equal(after.get(key), bytes);
});

test("NaN that the merge may pass on is stopped by the check", async () => {
  const yard = newStore();
  await makeYard(yard);
  await putModel(yard, "incoming/b/2/", { seed: 2, nanAt: 7 });
  const passing = recipe(0.5).replace("  dtype: bfloat16", "  dtype: bfloat16\n  non_finite: propagate");
  await putText(yard, "pipelines/small.yaml", passing);
  await assert.rejects(runPipeline(yard, depsOn(yard)), { code: "YardNonFinite", expected: "at most 0" });
  await putText(yard, "pipelines/small.yaml", `${passing}\nchecks: { max_nonfinite: 1 }\n`);
  assert.equal((await runPipeline(yard, depsOn(yard))).result?.outcome, "published");
});

test("a truncated shard is no complete upload: the one before counts, or the run is refused", async () => {
  const yard = newStore();
  await makeYard(yard);
  const { result } = await runPipeline(yard, depsOn(yard));
  await putModel(yard, "incoming/b/2/", { seed: 3 });
  const shard = "incoming/b/2/model-00002-of-00003.safetensors";
  const bytes = await readAll(yard, shard, 1e6);
  await writeBytes(yard, shard, bytes.subarray(0, 500));
  assert.equal((await plan(yard, depsOn(yard))).version, result?.version);
  for await (const { key } of yard.list("incoming/b/1/")) await yard.delete(key);
  const before = await readPublished(yard);
  await assert.rejects(plan(yard, depsOn(yard)), refusal({ code: "YardUploadIncomplete", file: shard }));
  await putText(yard, "incoming/b/2/_COMPLETE", "");
  await assert.rejects(plan(yard, depsOn(yard)), { code: "SafetensorsDataTruncated" });
  await yard.delete("incoming/b/2/_COMPLETE");
  assert.deepEqual(await readPublished(yard), before);
});

test("a missing model, an unknown method and a misspelt key are refused, and nothing is written", async () => {
  const yard = newStore();
  await makeYard(yard);
  const cases = [
    [recipe(0.5).replace("incoming/a", "nowhere"), "YardModelMissing"],
    [recipe(0.5).replace("linear", "lineal"), "RecipeMethodUnknown"],
    [recipe(0.5).replace("weight", "wieght"), "RecipeParameterUnknown"],
    [recipe(0.5).replace("publish", "publsh"), "RecipeUnknownKey"],
  ] as const;
  for (const [text, code] of cases) {
    await putText(yard, "pipelines/small.yaml", text);
    const before = await listKeys(yard, "");
    await assert.rejects(plan(yard, depsOn(yard)), { code });
    assert.deepEqual(await listKeys(yard, ""), before);
  }
});

test("a run whose checkpoints were deleted while it was interrupted goes on", async () => {
  const version = await expectedVersion();
  const yard = newStore();
  await makeYard(yard);
  for (const weight of [0.5, 0.25]) {
    // First with uploads that the run itself adopts, then with uploads that another run has adopted.
    await putText(yard, "pipelines/small.yaml", recipe(weight));
    await runUnits(await plan(yard, depsOn(yard)), depsOn(yard));
    for await (const { key } of yard.list("checkpoints/")) await yard.delete(key);
    const { result } = await runPipeline(yard, depsOn(yard));
    assert.equal(result?.outcome, "published");
    if (weight === 0.5) assert.equal(result.version, version);
  }
});

test("a pipeline file that is not there is refused by name", async () => {
  const yard = newStore();
  await makeYard(yard);
  const expected = { code: "YardPipelineMissing", where: { store: yard.uri, file: "pipelines/none.yaml" } };
  await assert.rejects(plan(yard, depsOn(yard), "pipelines/none.yaml"), expected);
});

test("a source that changes after planning stops the run", async () => {
  for (const file of ["model-00001-of-00003.safetensors", "tokenizer.json"]) {
    const yard = newStore();
    await makeYard(yard);
    const planned = await plan(yard, depsOn(yard));
    const bytes = await readAll(yard, `incoming/a/1/${file}`, 1e6);
    await writeBytes(yard, `incoming/a/1/${file}`, bytes);
    await assert.rejects(runUnits(planned, depsOn(yard)), { code: "YardSourceChanged" });
  }
});

test("check refuses missing receipts and files that are not what their receipts say", async () => {
  const yard = newStore();
  await makeYard(yard);
  const deps = depsOn(yard);
  const planned = await plan(yard, deps);
  const ref = { yard: yard.uri, run: planned.run };
  await assert.rejects(runStep(checkStep, ref, deps), { code: "YardUnitsUnfinished", found: "0 receipts" });
  await runUnits(planned, deps);
  const outputs: string[] = [];
  for await (const { key } of yard.list(`runs/${planned.run}/output/`)) outputs.push(key);
  const [output = ""] = outputs;
  const bytes = await readAll(yard, output, 1e6);
  const renamed = Buffer.from(bytes);
  renamed.write("M", renamed.indexOf("model."));
  for (const damaged of [bytes.subarray(0, bytes.length - 2), renamed]) {
    await writeBytes(yard, output, damaged);
    await assert.rejects(runStep(checkStep, ref, deps), { code: "YardOutputWrong" });
  }
  await writeBytes(yard, output, bytes);
  assert.equal((await runStep(checkStep, ref, deps)).cached, 0);
});

test("a manifest that is already there under the version's name, with other bytes, is not overwritten", async () => {
  const version = await expectedVersion();
  const yard = newStore();
  await makeYard(yard);
  await putText(yard, `artifacts/ab/${version}/manifest.json`, "{}");
  await assert.rejects(runPipeline(yard, depsOn(yard)), { code: "YardNameConflict" });
  assert.equal(await yard.head("channels/ab/nightly.json"), undefined);
});

test("an interrupted publish is resumed without copying what is there", async () => {
  const yard = newStore();
  await makeYard(yard);
  const deps = depsOn(yard);
  const planned = await plan(yard, deps);
  await runUnits(planned, deps);
  const input = { yard: yard.uri, run: planned.run, plannedMs: planned.plannedMs };
  const dying = createDyingStore(yard, 4, "after");
  await assert.rejects(runStep(publishStep, input, depsOn(dying.store)), Crash);
  const whole = createDyingStore(yard, Number.POSITIVE_INFINITY, "after");
  const fresh = createDyingStore(newStore(), Number.POSITIVE_INFINITY, "after");
  await makeYard(fresh.store);
  const other = await plan(fresh.store, depsOn(fresh.store));
  await runUnits(other, depsOn(fresh.store));
  const writesBefore = fresh.writes();
  await runStep(publishStep, { ...input, yard: fresh.store.uri, run: other.run }, depsOn(fresh.store));
  await runStep(publishStep, input, depsOn(whole.store));
  assert.ok(whole.writes() < fresh.writes() - writesBefore);
});
