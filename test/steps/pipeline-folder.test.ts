// The pipeline in a folder, where an adopted upload and a published file are links: the same version as anywhere, and
// nothing that a user does to an upload reaches what was made from it unseen.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, recipe, runPipeline } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

const opener = (uri: string) => openStore(uri, {});
const deps = () => testDeps(opener, { executeMerge: createInThreadExecutor(opener) });

async function newFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), "pipeline-"));
  t.after(() => rm(folder, { recursive: true }));
  return pathToFileURL(folder).href;
}

async function makeFolderYard(t: TestContext): Promise<ObjectStore> {
  const yard = opener(await newFolder(t));
  await makeYard(yard);
  return yard;
}

const pathIn = (store: ObjectStore, key: string) => path.join(fileURLToPath(store.uri), key);

test("a folder gives the same version as memory", async (t) => {
  const memory = newStore();
  await makeYard(memory);
  const inMemory = openerOf(memory);
  const expected = await runPipeline(memory, testDeps(inMemory, { executeMerge: createInThreadExecutor(inMemory) }));
  const yard = await makeFolderYard(t);
  const { result } = await runPipeline(yard, deps());
  assert.equal(result?.version, expected.result?.version);
  assert.equal((await runPipeline(yard, deps())).plan.outcome, "unchanged");
  const folder = `${yard.uri}/artifacts/ab/${result?.version}`;
  assert.equal((await runStep(verifyStep, { folder }, deps())).version, result?.version);
});

test("an upload that is written over in place is a new input, and its old content comes back whole", async (t) => {
  const yard = await makeFolderYard(t);
  const first = (await runPipeline(yard, deps())).result?.version;
  const other = newStore();
  await putModel(other, "", { seed: 9 });
  const shard = "model-00001-of-00003.safetensors";
  const target = pathIn(yard, `incoming/a/1/${shard}`);
  const info = await other.head(shard);
  const bytes = new Uint8Array(info?.bytes ?? 0);
  await other.readInto(shard, 0, bytes);
  const before = await readFile(target);
  assert.equal(before.length, bytes.length);
  await writeFile(target, bytes);
  const second = (await runPipeline(yard, deps())).result?.version;
  assert.notEqual(second, first);
  // The first checkpoint's link now holds other bytes; the same content, uploaded again, must not be taken from it.
  await putModel(yard, "incoming/a/2/", { seed: 1 });
  assert.equal((await runPipeline(yard, deps())).result?.version, first);
});

test("models are read from folders beside the recipe and adopted into the yard", async (t) => {
  const yard = await makeFolderYard(t);
  const recipes = opener(await newFolder(t));
  await putModel(recipes, "models/a/", { seed: 1 });
  await putModel(recipes, "models/b/", { seed: 2 });
  const text = recipe(0.5).replace("incoming/a", "models/a").replace("incoming/b", "./models/b");
  await putText(recipes, "small.yaml", text);
  const fromYard = (await runPipeline(yard, deps())).result;
  const merged: string[] = [];
  const executeMerge = createInThreadExecutor(opener, ({ unit }) => void merged.push(unit.file));
  const { plan, result } = await runPipeline(yard, testDeps(opener, { executeMerge }), "small.yaml", recipes);
  assert.equal(plan.outcome, "planned");
  assert.deepEqual(merged, [], "the same tensors from another place are in the cache");
  assert.equal(result?.outcome, "published");
  assert.notEqual(result?.version, fromYard?.version, "the manifest keeps the recipe, which is another");
});
