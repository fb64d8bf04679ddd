// The pipeline end to end on memory stores: every step, the engine's own regions, no threads.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { moveChannel } from "../../steps/channel.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { listKeys, readRecord } from "../../steps/records.ts";
import { channelSchema } from "../../steps/schemas.ts";
import { verifyFile } from "../../steps/stream.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, plan, recipe, runPipeline } from "./pipeline.ts";
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

/** Keys and contents below a prefix. */
async function readTree(store: ObjectStore, prefix: string): Promise<readonly (readonly [string, string])[]> {
  const keys = await listKeys(store, prefix);
  return Promise.all(
    keys.map(async (key) => [key, Buffer.from(await readAll(store, key, 1e6)).toString("base64")] as const),
  );
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
  assert.deepEqual(
    plan.stages.map(({ jobs }) => jobs),
    [1, 1, 1],
    "work this small is not worth several jobs",
  );
  assert.equal(result?.outcome, "published");
  const prefix = `artifacts/ab/${result?.version}/`;
  const manifest = parseManifest(await readAll(yard, `${prefix}manifest.json`, 1e6));
  assert.deepEqual(
    manifest?.inputs.map(({ model }) => model),
    ["one", "two"],
  );
  assert.ok(manifest?.inputs.every(({ digest }) => digest !== null));
  const card = Buffer.from(await readAll(yard, `${prefix}README.md`, 1e6)).toString();
  for (const { model, digest } of manifest?.inputs ?? []) assert.ok(card.includes(`| ${model} | ${digest} |`), card);
  assert.doesNotMatch(card, /<!--/);
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

test("a run that finds nothing changed computes and publishes nothing, and says so", async () => {
  const { yard, deps, merged } = await setUp();
  const first = await runPipeline(yard, deps);
  const before = await listKeys(yard, "");
  merged.length = 0;
  const second = await runPipeline(yard, deps);
  assert.equal(second.plan.outcome, "unchanged");
  assert.equal(second.plan.run, first.plan.run);
  assert.equal(second.plan.version, first.result?.version);
  assert.deepEqual(second.plan.stages, []);
  assert.deepEqual(merged, []);
  assert.deepEqual(await listKeys(yard, ""), before);
});

test("the same inputs uploaded again are computed from the cache, and nothing is published", async () => {
  const { yard, deps, merged } = await setUp();
  const first = await runPipeline(yard, deps);
  await putModel(yard, "incoming/a/2/", { seed: 1 });
  merged.length = 0;
  const second = await runPipeline(yard, deps);
  assert.notEqual(second.plan.run, first.plan.run);
  assert.equal(second.result?.outcome, "unchanged");
  assert.equal(second.result?.version, first.result?.version);
  assert.deepEqual(merged, []);
  assert.equal((await listKeys(yard, "checkpoints/a/")).filter((key) => key.endsWith("universal.json")).length, 1);
  assert.equal((await runPipeline(yard, deps)).plan.outcome, "unchanged");
});

test("a changed input makes a new version and leaves the one before as it was", async () => {
  const { yard, deps } = await setUp();
  const first = await runPipeline(yard, deps);
  const kept = await readTree(yard, `artifacts/ab/${first.result?.version}/`);
  await putModel(yard, "incoming/b/2/", { seed: 3 });
  const second = await runPipeline(yard, deps);
  assert.equal(second.result?.outcome, "published");
  assert.notEqual(second.result?.version, first.result?.version);
  assert.deepEqual(await readTree(yard, `artifacts/ab/${first.result?.version}/`), kept);
  const channel = await readRecord(yard, "channels/ab/nightly.json", channelSchema);
  assert.equal(channel?.value.version, second.result?.version);
  assert.deepEqual(
    channel?.value.history.map(({ version }) => version),
    [first.result?.version],
  );
});

test("only the units whose inputs changed are computed", async () => {
  const { yard, deps, merged } = await setUp();
  await runPipeline(yard, deps);
  const all = merged.splice(0);
  await putModel(yard, "incoming/b/2/", { seed: 2, changedTensor: 3 });
  const second = await runPipeline(yard, deps);
  assert.equal(second.result?.outcome, "published");
  assert.ok(merged.length >= 1 && merged.length < all.length, `${merged.length} of ${all.length} units`);
});

test("a recipe that was used before publishes again when another one came between, without computing", async () => {
  const { yard, deps, merged } = await setUp();
  const first = await runPipeline(yard, deps);
  await putText(yard, "pipelines/small.yaml", recipe(0.25));
  const second = await runPipeline(yard, deps);
  assert.notEqual(second.result?.version, first.result?.version);
  await putText(yard, "pipelines/small.yaml", recipe(0.5));
  merged.length = 0;
  const third = await runPipeline(yard, deps);
  assert.equal(third.plan.run, first.plan.run);
  assert.equal(third.result?.outcome, "published");
  assert.equal(third.result?.version, first.result?.version);
  assert.deepEqual(merged, []);
});

test("a person's choice of version stands when the pipeline finds nothing changed", async () => {
  const { yard, deps } = await setUp();
  const first = await runPipeline(yard, deps);
  await putText(yard, "pipelines/small.yaml", recipe(0.25));
  const second = await runPipeline(yard, deps);
  const version = first.result?.version ?? "";
  const move = await moveChannel(
    yard,
    { model: "ab", channel: "nightly" },
    { version, run: null, decidedMs: deps.now() },
    deps.signal,
  );
  assert.equal(move.outcome, "moved");
  const third = await runPipeline(yard, deps);
  assert.equal(third.plan.outcome, "unchanged");
  assert.equal(third.plan.version, second.result?.version);
  assert.deepEqual(third.plan.current, { version, run: null }, "and it is told which version the channel has");
  assert.equal((await readRecord(yard, "channels/ab/nightly.json", channelSchema))?.value.version, version);
});

test("a pipeline without publish computes and keeps its files in the run", async () => {
  const { yard, deps } = await setUp();
  await putText(yard, "pipelines/small.yaml", recipe(0.5, ""));
  const { plan, result } = await runPipeline(yard, deps);
  assert.equal(result?.outcome, "not-requested");
  assert.ok((await listKeys(yard, `runs/${plan.run}/output/`)).length > 1);
  assert.deepEqual(await listKeys(yard, "artifacts/"), []);
  assert.equal((await runPipeline(yard, deps)).plan.outcome, "unchanged");
});

test("a damaged cache costs work, never a wrong byte", async () => {
  const { yard, deps, merged } = await setUp();
  const first = await runPipeline(yard, deps);
  const prefix = `artifacts/ab/${first.result?.version}/`;
  const [victim = ""] = (await listKeys(yard, prefix)).filter((key) => key.endsWith(".safetensors"));
  const bytes = await readAll(yard, victim, 1e6);
  bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) ^ 1;
  await writeBytes(yard, victim, bytes);
  await putModel(yard, "incoming/a/2/", { seed: 1 });
  merged.length = 0;
  const second = await runPipeline(yard, deps);
  assert.deepEqual(merged, [victim.slice(prefix.length)]);
  assert.equal(second.result?.outcome, "unchanged");
  assert.equal(second.result?.version, first.result?.version);
  assert.ok(deps.events.some(({ event, file }) => event === "version-file-restored" && file === victim));
  for (const key of await listKeys(yard, "cache/")) await putText(yard, key, "not JSON");
  await putModel(yard, "incoming/a/3/", { seed: 1 });
  assert.equal((await runPipeline(yard, deps)).result?.version, first.result?.version);
});

test("a run whose plan another version left in another form is begun anew", async () => {
  const { yard, deps } = await setUp();
  const before = await plan(yard, deps);
  const key = `runs/${before.run}/plan.jsonl`;
  const text = Buffer.from(await readAll(yard, key, 1e6)).toString();
  await writeBytes(yard, key, Buffer.from(text.replace("{", '{"addedLater":1,')));
  const { plan: after, result } = await runPipeline(yard, deps);
  assert.deepEqual([after.run, result?.outcome], [`${before.run}-2`, "published"]);
});
