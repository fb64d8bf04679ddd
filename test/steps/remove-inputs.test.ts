// What gc removes of uploads and universal checkpoints, and what it leaves to those who may need them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { gcStep } from "../../steps/collect-garbage.ts";
import { pushStep } from "../../steps/push/push.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { initYard } from "../../steps/yard.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { Crash, createDyingStore } from "./failing-stores.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { finishPipeline, makeYard, plan, recipe, runOneUnit, runPipeline } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

/** After everything that the memory store's own clock gives. */
const LATER = Date.UTC(2027, 0, 1);
const DAY_MS = 86_400_000;
const SMALL = "pipelines/small.yaml";

type Wanted = { keep?: number; keepUploads?: number; keepCheckpoints?: number; isTrial?: boolean; graceMs?: number };

async function gc(yard: ObjectStore, wanted: Wanted, nowMs = LATER): Promise<readonly string[]> {
  const deps = { ...testDeps(openerOf(yard)), now: () => nowMs };
  const { removed } = await runStep(gcStep, { yard: yard.uri, graceMs: DAY_MS, ...wanted }, deps);
  return removed.map(({ prefix }) => prefix);
}

const depsOf = (yard: ObjectStore) =>
  testDeps(openerOf(yard), { executeMerge: createInThreadExecutor(openerOf(yard)) });
const keysUnder = async (yard: ObjectStore, prefix: string) =>
  (await Array.fromAsync(yard.list(prefix))).map(({ key }) => key);
const foldersUnder = async (yard: ObjectStore, prefix: string) =>
  [...new Set((await keysUnder(yard, prefix)).map((key) => key.split("/").slice(0, 3).join("/")))].sort();

/** A run for each upload of `a`: three versions, three universal checkpoints of `a` and one of `b`. */
async function threeNights(): Promise<ObjectStore> {
  const yard = newStore();
  await makeYard(yard);
  await runPipeline(yard, depsOf(yard));
  for (const seed of [12, 13]) {
    await putModel(yard, `incoming/a/${seed}/`, { seed });
    await runPipeline(yard, depsOf(yard));
  }
  return yard;
}

test("uploads beyond the number go from the newest one on that a run has read; a trial removes nothing", async () => {
  const yard = newStore();
  await makeYard(yard);
  for (const seed of [12, 13]) await putModel(yard, `incoming/a/${seed}/`, { seed });
  await putText(yard, "incoming/a/half/config.json", "{}");
  assert.deepEqual(await gc(yard, { keepUploads: 1 }), [], "no run has read any");
  await runPipeline(yard, depsOf(yard));
  assert.deepEqual(await gc(yard, { keepUploads: 1, graceMs: 1e12 }), [], "all are young");
  assert.deepEqual(await gc(yard, { keepUploads: 2 }), ["incoming/a/1/"]);
  for (const seed of [14, 15]) await putModel(yard, `incoming/a/${seed}/`, { seed });
  const expected = ["incoming/a/12/", "incoming/a/13/"];
  const before = await keysUnder(yard, "");
  // Uploads come newest first; 14 is not the newest, but no run has looked at the yard since it came.
  assert.deepEqual((await gc(yard, { keepUploads: 1, isTrial: true })).toSorted(), expected);
  assert.deepEqual(await keysUnder(yard, ""), before);
  assert.deepEqual((await gc(yard, { keepUploads: 1 })).toSorted(), expected);
  const left = ["incoming/a/14", "incoming/a/15", "incoming/a/half", "incoming/b/1"];
  assert.deepEqual(await foldersUnder(yard, "incoming/"), left);
  assert.equal((await runPipeline(yard, depsOf(yard))).result?.outcome, "published");
  assert.deepEqual(await gc(yard, { keepUploads: 1 }), ["incoming/a/14/"]);
  assert.equal((await runPipeline(yard, depsOf(yard))).result, undefined, "nothing has changed");
});

test("a universal checkpoint goes with the last version and the last upload that lead to it", async () => {
  const yard = await threeNights();
  const [made] = [await foldersUnder(yard, "checkpoints/a/")];
  assert.equal(made.length, 3);
  assert.deepEqual(await gc(yard, { keepCheckpoints: 1 }), [], "versions name them");
  assert.equal((await gc(yard, { keep: 1 })).length, 2);
  assert.deepEqual(await gc(yard, { keepCheckpoints: 1 }), [], "the cache leads to them");
  const would = await gc(yard, { keepUploads: 1, keepCheckpoints: 1, isTrial: true });
  assert.equal(would.filter((prefix) => prefix.startsWith("checkpoints/a/")).length, 2);
  assert.deepEqual(await gc(yard, { keepUploads: 1, keepCheckpoints: 1 }), would);
  assert.deepEqual(await foldersUnder(yard, "incoming/a/"), ["incoming/a/13"]);
  assert.equal((await foldersUnder(yard, "checkpoints/")).length, 2);
  assert.deepEqual(await gc(yard, { keepUploads: 1, keepCheckpoints: 1 }), []);
  assert.equal((await runPipeline(yard, depsOf(yard))).result, undefined, "nothing has changed");
  const [version = ""] = await foldersUnder(yard, "artifacts/ab/");
  const folder = openerOf(yard)(yard.uri);
  const inFolder: ObjectStore = { ...folder, uri: `${yard.uri}/${version}` };
  const prefixed = (key: string) => `${version}/${key}`;
  const own: ObjectStore = {
    ...inFolder,
    head: (key, o) => folder.head(prefixed(key), o),
    get: (key, limit, o) => folder.get(prefixed(key), limit, o),
    readInto: (key, offset, into, o) => folder.readInto(prefixed(key), offset, into, o),
  };
  const verified = await runStep(verifyStep, { folder: own.uri, yard: yard.uri }, testDeps(openerOf(yard, own)));
  assert.deepEqual(
    verified.lineage?.map(({ place }) => place !== null),
    [true, true],
  );
});

test("a folder of a checkpoint that was never finished goes, unless a run may be making it", async () => {
  const yard = newStore();
  await makeYard(yard);
  await putText(yard, "checkpoints/a/0123456789abcdef/model.safetensors", "old");
  await plan(yard, depsOf(yard));
  assert.deepEqual(await gc(yard, { keepCheckpoints: 1 }), []);
  await runPipeline(yard, depsOf(yard));
  assert.deepEqual(await gc(yard, { keepCheckpoints: 1 }), ["checkpoints/a/0123456789abcdef/"]);
});

test("what an unfinished run reads stays, however old, and what a pipeline names", async () => {
  const yard = newStore();
  await makeYard(yard);
  const first = await plan(yard, depsOf(yard));
  await putModel(yard, "incoming/a/2/", { seed: 12 });
  await putText(yard, SMALL, recipe(0.25));
  await runPipeline(yard, depsOf(yard));
  assert.deepEqual(await gc(yard, { keepUploads: 1, keepCheckpoints: 1 }, LATER + 1e12), []);
  assert.equal((await finishPipeline(first, depsOf(yard))).result?.outcome, "lost-race");
  await putText(yard, "pipelines/pinned.yaml", recipe(0.5).replace("incoming/a", "incoming/a/1"));
  assert.deepEqual(await gc(yard, { keepUploads: 1 }), []);
  await yard.delete("pipelines/pinned.yaml");
  assert.deepEqual(await gc(yard, { keepUploads: 1, isTrial: true }), ["incoming/a/1/"]);
  const [checkpoint = ""] = await foldersUnder(yard, "checkpoints/a/");
  const naming = checkpoint.replace(/\/([0-9a-f]+)$/, `@sha256:$1${"0".repeat(48)}`);
  await putText(yard, "pipelines/pinned.yaml", recipe(0.5).replace("incoming/a", naming));
  for await (const { key } of yard.list("cache/")) await yard.delete(key);
  for await (const { key } of yard.list("artifacts/")) await yard.delete(key);
  const gone = await gc(yard, { keepCheckpoints: 1 });
  assert.ok(!gone.includes(`${checkpoint}/`), gone.join());
});

/** Runs `then` when gc creates its first note, before or after it is there. */
function atFirstNote(yard: ObjectStore, when: "before" | "after", then: () => Promise<unknown>): ObjectStore {
  let isDone = false;
  const once = async (moment: string) => {
    if (isDone || moment !== when) return;
    isDone = true;
    await then();
  };
  const create: ObjectStore["create"] = async (key, bytes, options) => {
    if (!key.endsWith("/_REMOVED")) return yard.create(key, bytes, options);
    await once("before");
    const created = await yard.create(key, bytes, options);
    await once("after");
    return created;
  };
  return { ...yard, create };
}

test("a checkpoint that a run is planned with while gc looks stays", async () => {
  const yard = await threeNights();
  const recipes = newStore();
  await putText(recipes, "p.yaml", recipe(0.75).replace("incoming/a", "incoming/a/1"));
  const deps = { ...depsOf(yard), openStore: openerOf(yard, recipes) };
  const raced = atFirstNote(yard, "before", () => plan(yard, deps, "p.yaml", recipes));
  const gone = await gc(raced, { keep: 1, keepUploads: 1, keepCheckpoints: 1 });
  // Of two old uploads and their checkpoints the plan names one each.
  assert.deepEqual(
    gone.map((prefix) => prefix.split("/").slice(0, 2).join("/")),
    ["artifacts/ab", "artifacts/ab", "incoming/a", "checkpoints/a"],
  );
  const isKept = (await keysUnder(yard, "checkpoints/")).filter((key) => key.endsWith("/_REMOVED")).length === 0;
  assert.ok(isKept, "no note is left");
});

test("of an upload that is about to be adopted either the note is seen, or the plan", async () => {
  for (const when of ["before", "after"] as const) {
    const yard = newStore();
    await makeYard(yard);
    await putModel(yard, "incoming/a/2/", { seed: 12 });
    await runPipeline(yard, depsOf(yard));
    const recipes = newStore();
    await putText(recipes, "p.yaml", recipe(0.75).replace("incoming/a", "incoming/a/1"));
    const deps = { ...depsOf(yard), openStore: openerOf(yard, recipes) };
    const planned = () => plan(yard, deps, "p.yaml", recipes);
    let during: unknown;
    // A listing that was taken before the note is there.
    const { list } = yard;
    const stale = await Array.fromAsync(list("incoming/a/"));
    const raced = atFirstNote(yard, when, async () => {
      const blind: ObjectStore = {
        ...yard,
        list: (prefix, o) =>
          prefix.startsWith("incoming/a/")
            ? (async function* () {
                yield* stale.filter(({ key }) => key.startsWith(prefix));
              })()
            : list(prefix, o),
      };
      const late = { ...deps, openStore: openerOf(blind, recipes) };
      during = await plan(blind, late, "p.yaml", recipes).catch((error: unknown) => error);
    });
    assert.deepEqual(await gc(raced, { keepUploads: 1 }), []);
    if (when === "after") assert.equal(Object(during).code, "YardRemovalUnderWay");
    const again = await planned();
    assert.equal((await finishPipeline(again, deps)).result?.outcome, "published");
  }
});

test("a run that begins and ends while gc looks keeps what its version names", async () => {
  const yard = await threeNights();
  await gc(yard, { keep: 1 });
  for await (const { key } of yard.list("cache/")) await yard.delete(key);
  const checkpoints = await foldersUnder(yard, "checkpoints/a/");
  const recipes = newStore();
  await putText(recipes, "p.yaml", recipe(0.75).replace("incoming/a", "incoming/a/1"));
  const deps = { ...depsOf(yard), openStore: openerOf(yard, recipes) };
  const raced = atFirstNote(yard, "before", () => runPipeline(yard, deps, "p.yaml", recipes));
  assert.deepEqual(await gc(raced, { keepCheckpoints: 1 }), [], "the run makes checkpoints of that model");
  assert.deepEqual(await foldersUnder(yard, "checkpoints/a/"), checkpoints);
});

test("a checkpoint that is being removed is not made anew before it is gone", async () => {
  const yard = newStore();
  await makeYard(yard);
  await runPipeline(yard, depsOf(yard));
  const [checkpoint = ""] = await foldersUnder(yard, "checkpoints/a/");
  for await (const { key } of yard.list("cache/")) await yard.delete(key);
  await putText(yard, `${checkpoint}/_REMOVED`, '{"removal":1,"state":"decided","cache":null,"isPushed":false}');
  await putText(yard, SMALL, recipe(0.25));
  const planned = await plan(yard, depsOf(yard));
  const unit = (stage: number, index: number) =>
    runOneUnit(planned, stage, index, depsOf(yard)).catch((error: unknown) => error);
  const [adopt, describe] = planned.stages;
  for (let index = 0; index < (adopt?.units ?? 0); index += 1) await unit(adopt?.index ?? 0, index);
  const ends = [await unit(describe?.index ?? 0, 0), await unit(describe?.index ?? 0, 1)];
  assert.deepEqual(ends.map((end) => Object(end).code).toSorted(), ["YardRemovalUnderWay", undefined]);
  assert.deepEqual(await gc(yard, {}), [`${checkpoint}/`], "what was decided is carried out");
  assert.equal((await runPipeline(yard, depsOf(yard))).result?.outcome, "published");
});

test("gc that is killed at any write leaves a yard that runs, and the next one ends its work", async () => {
  const old = { keep: 1, keepUploads: 1, keepCheckpoints: 1 };
  const whole = await threeNights();
  await gc(whole, old);
  const expected = (await keysUnder(whole, "")).filter((key) => !key.startsWith("runs/"));
  for (let at = 1; ; at += 3) {
    const yard = await threeNights();
    const dying = createDyingStore(yard, at, at % 6 === 1 ? "before" : "after");
    const died = await gc(dying.store, old).then(
      () => false,
      (error: unknown) => error instanceof Crash,
    );
    if (!died) {
      assert.ok(at > 30, `${at} writes`);
      break;
    }
    assert.equal((await runPipeline(yard, depsOf(yard))).result, undefined, "nothing has changed");
    await gc(yard, old);
    const left = (await keysUnder(yard, "")).filter((key) => !key.startsWith("runs/"));
    assert.deepEqual(left, expected, `killed at write ${at}`);
  }
});

test("an upload that gc removed is not pushed again by itself, but under another name", async () => {
  const [yard, job] = [newStore(), newStore()];
  await initYard(yard);
  await putText(yard, SMALL, recipe(0.5));
  await putModel(yard, "incoming/b/1/", { seed: 2 });
  const push = (upload?: string) =>
    runStep(pushStep, { yard: yard.uri, source: job.uri, model: "a", upload }, testDeps(openerOf(yard, job)));
  await putModel(job, "", { seed: 1 });
  const first = await push();
  await putModel(job, "", { seed: 2 });
  await push();
  await runPipeline(yard, depsOf(yard));
  assert.deepEqual(await gc(yard, { keepUploads: 1 }), [first.prefix]);
  assert.deepEqual(await keysUnder(yard, first.prefix), [`${first.prefix}_REMOVED`]);
  assert.deepEqual(await gc(yard, { keepUploads: 1 }), []);
  await assert.rejects(push(first.upload), { code: "UploadRemoved" });
  assert.equal((await push("again")).outcome, "committed");
});
