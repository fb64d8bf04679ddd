// What gc removes, and what it leaves alone beside running work.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { moveChannel } from "../../steps/channel.ts";
import { gcStep } from "../../steps/collect-garbage.ts";
import { promote } from "../../steps/decide-channel.ts";
import { pushStep } from "../../steps/push/push.ts";
import { runStep } from "../../steps/step.ts";
import { initYard } from "../../steps/yard.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { patterned } from "../stores/patterned.ts";
import { newStore, newYard, openerOf, putText, testDeps } from "./deps.ts";
import { createDyingStore } from "./failing-stores.ts";
import { makeYard, plan, recipe } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

const { signal } = new AbortController();
/** After everything that the memory store's own clock gives. */
const LATER = Date.UTC(2027, 0, 1);
const DAY_MS = 86_400_000;

async function putVersion(yard: ObjectStore, version: string): Promise<void> {
  await putText(yard, `${layout.version("ab", version)}notes.txt`, version);
  await putText(yard, layout.versionManifest("ab", version), "{}");
}

/** Four versions, the third one in `nightly`, which went through the first three. */
async function fourVersions(): Promise<ObjectStore> {
  const yard = await newYard();
  for (const version of ["v1", "v2", "v3", "v4"]) await putVersion(yard, version);
  for (const [index, version] of ["v1", "v2", "v3"].entries()) {
    const wanted = { version, run: "r", decidedMs: 10 + index };
    await moveChannel(yard, { model: "ab", channel: "nightly" }, wanted, signal);
  }
  return yard;
}

function gc(yard: ObjectStore, input: { keep?: number; graceMs?: number; isTrial?: boolean } = {}, nowMs = LATER) {
  const deps = { ...testDeps(openerOf(yard)), now: () => nowMs };
  return runStep(gcStep, { yard: yard.uri, graceMs: DAY_MS, ...input }, deps);
}

const prefixes = ({ removed }: Awaited<ReturnType<typeof gc>>) => removed.map(({ prefix }) => prefix);
const keysUnder = async (yard: ObjectStore, prefix: string) =>
  (await Array.fromAsync(yard.list(prefix))).map(({ key }) => key);

test("versions beyond the number that is kept go, but not those of channels; a trial removes nothing", async () => {
  const yard = await fourVersions();
  const expected = ["artifacts/ab/v1/", "artifacts/ab/v2/"];
  assert.deepEqual(prefixes(await gc(yard, { keep: 1, isTrial: true })), expected);
  assert.equal((await keysUnder(yard, "artifacts/")).length, 8);
  const { removed, bytes } = await gc(yard, { keep: 1 });
  assert.deepEqual(
    removed.map(({ prefix }) => prefix),
    expected,
  );
  assert.ok(bytes > 0);
  assert.deepEqual(await keysUnder(yard, "artifacts/ab/v1/"), []);
  assert.equal((await keysUnder(yard, "artifacts/")).length, 4);
  assert.deepEqual((await gc(yard, { keep: 1 })).removed, []);
});

test("without a number the yard's pipelines say it, else every version stays", async () => {
  const yard = await fourVersions();
  assert.deepEqual((await gc(yard)).removed, []);
  await putText(yard, "pipelines/other.yaml", recipe(0.5, "publish: { model: other, channel: nightly, keep: 1 }"));
  assert.deepEqual((await gc(yard)).removed, []);
  await putText(yard, "pipelines/small.yaml", recipe(0.5, "publish: { model: ab, channel: nightly, keep: 3 }"));
  assert.deepEqual(prefixes(await gc(yard)), ["artifacts/ab/v1/"]);
  await putText(yard, "pipelines/broken.yaml", "merge: [");
  await assert.rejects(gc(yard), { code: "RecipeSyntax" });
  assert.deepEqual(prefixes(await gc(yard, { keep: 1 })), ["artifacts/ab/v2/"]);
});

test("what is younger than the grace period stays, and what a channel left within it", async () => {
  const yard = await fourVersions();
  assert.deepEqual((await gc(yard, { keep: 1, graceMs: 1e12 })).removed, []);
  const place = { model: "ab", channel: "nightly" };
  await moveChannel(yard, place, { version: "v4", run: "r", decidedMs: LATER - 1000 }, signal);
  assert.deepEqual(prefixes(await gc(yard, { keep: 1 })), ["artifacts/ab/v1/", "artifacts/ab/v2/"]);
  assert.deepEqual(prefixes(await gc(yard, { keep: 1 }, LATER + 2 * DAY_MS)), ["artifacts/ab/v3/"]);
});

test("folders without a manifest go, unless a run that publishes the model is under way", async () => {
  const yard = newStore();
  await makeYard(yard);
  await putText(yard, "artifacts/ab/half/model.safetensors", "old");
  const deps = testDeps(openerOf(yard));
  await plan(yard, deps);
  const before = await gc(yard, { keep: 1, graceMs: LATER - Date.UTC(2026, 0, 1) });
  assert.deepEqual(before.removed, [], "the run is younger than that");
  assert.deepEqual(prefixes(await gc(yard, { keep: 1 })), ["artifacts/ab/half/"]);
});

test("a version that an unfinished run reads stays", async () => {
  const yard = await fourVersions();
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  await yard.delete(layout.versionManifest("ab", "v1"));
  await putModel(yard, layout.version("ab", "v1"), { seed: 2 });
  await putText(yard, layout.versionManifest("ab", "v1"), "{}");
  await putVersion(yard, "v4"); // the newest
  const text = recipe(0.5).replace("incoming/b", "artifacts/ab@v1");
  await putText(yard, "pipelines/reading.yaml", text);
  await plan(yard, testDeps(openerOf(yard)), "pipelines/reading.yaml");
  const infos = await Array.fromAsync(yard.list("runs/"));
  const planned = Math.max(...infos.map(({ modifiedMs }) => modifiedMs));
  const since = planned - 500; // after the versions, before the run
  // Whichever version planned it.
  const key = infos.find((info) => info.key.endsWith("plan.jsonl"))?.key ?? "";
  const lines = Buffer.from(await readAll(yard, key, 1e6)).toString();
  await writeBytes(yard, key, Buffer.from(lines.replace("{", '{"addedLater":1,')));
  assert.deepEqual(prefixes(await gc(yard, { keep: 1, graceMs: 0 }, since)), ["artifacts/ab/v2/"]);
  assert.ok((await keysUnder(yard, "artifacts/ab/v1/")).length > 2);
});

test("a version that a pipeline names stays, by its name, its beginning or its folder", async () => {
  for (const name of ["ab@v1", "artifacts/ab@v1", "artifacts/ab/v1", "ab@v"]) {
    const yard = await fourVersions();
    await putText(yard, "pipelines/small.yaml", recipe(0.5).replace("incoming/a,", `"${name}",`));
    const gone = name === "ab@v" ? [] : ["artifacts/ab/v2/"];
    assert.deepEqual(prefixes(await gc(yard, { keep: 1 })), gone, name);
  }
});

test("a push that nobody goes on with goes, with what is on its way; an upload by hand stays", async () => {
  const [yard, folder] = [newStore(), newStore()];
  await initYard(yard);
  await putModel(folder, "", { seed: 1 });
  await writeBytes(folder, "optimizer.pt", patterned(20 * 2 ** 20));
  const push = (store: ObjectStore, upload: string) => {
    const input = { yard: yard.uri, source: folder.uri, model: "ab", upload };
    return runStep(pushStep, input, testDeps(openerOf(store, folder)));
  };
  await assert.rejects(push(createDyingStore(yard, 18, "after").store, "dead"));
  await push(yard, "whole");
  await putText(yard, "incoming/ab/hand/config.json", "{}");
  assert.deepEqual((await gc(yard, { graceMs: 1e12 })).removed, []);
  assert.deepEqual(prefixes(await gc(yard)), ["incoming/ab/dead/"]);
  assert.deepEqual(await keysUnder(yard, "incoming/ab/dead/"), []);
  assert.ok((await keysUnder(yard, "incoming/ab/whole/")).length > 7);
  assert.equal((await keysUnder(yard, "incoming/ab/hand/")).length, 1);
});

test("a version that is promoted while it is removed is there again, whole", async () => {
  const yard = await fourVersions();
  let isPromoted = false;
  const remove: ObjectStore["delete"] = async (key, options) => {
    if (key === layout.versionManifest("ab", "v1") && !isPromoted) {
      isPromoted = true;
      await promote(yard, "ab@v1", "stable", testDeps(openerOf(yard)));
    }
    await yard.delete(key, options);
  };
  const result = await gc({ ...yard, delete: remove }, { keep: 1 });
  assert.deepEqual(prefixes(result), ["artifacts/ab/v2/"]);
  assert.equal((await keysUnder(yard, "artifacts/ab/v1/")).length, 2);
});
