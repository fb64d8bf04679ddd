import assert from "node:assert/strict";
import { test } from "node:test";
import { convertStep } from "../../steps/convert/convert.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import { listKeys } from "../../steps/records.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { Crash, createDyingStore } from "./failing-stores.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, recipe, runPipeline } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

/** A yard with two published versions, the second one current in `nightly`. */
async function publishTwo() {
  const yard = newStore();
  await makeYard(yard);
  const openStore = openerOf(yard);
  const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) });
  const first = (await runPipeline(yard, deps)).result?.version ?? "";
  await putText(yard, "pipelines/small.yaml", recipe(0.25));
  const second = (await runPipeline(yard, deps)).result?.version ?? "";
  return { yard, first, second };
}

const pull = (yard: ObjectStore, target: ObjectStore, model: string) =>
  runStep(pullStep, { yard: yard.uri, model, target: target.uri }, testDeps(openerOf(yard, target)));
const verify = (store: ObjectStore, version?: string) =>
  runStep(verifyStep, { folder: store.uri, ...(version && { version }) }, testDeps(openerOf(store)));

async function flipLastByte(store: ObjectStore, key: string): Promise<void> {
  const bytes = await readAll(store, key, 1e6);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  await writeBytes(store, key, bytes);
}

test("a version is pulled by channel or by name, verifies, and is fetched once", async () => {
  const { yard, first, second } = await publishTwo();
  const target = newStore();
  const pulled = await pull(yard, target, "ab:nightly");
  assert.deepEqual([pulled.version, pulled.channel, pulled.present], [second, "nightly", 0]);
  assert.deepEqual((await listKeys(target, "")).length, pulled.files + 1);
  const verified = await verify(target, second);
  assert.deepEqual([verified.model, verified.files, verified.tensors], ["ab", pulled.files, 4]);
  assert.equal((await pull(yard, target, "ab:nightly")).present, pulled.files);
  assert.equal((await pull(yard, newStore(), `ab@${first}`)).version, first);
  await assert.rejects(pull(yard, newStore(), "ab"), { code: "YardChannelMissing" });
});

test("a pull that is killed at any write goes on, and shows no manifest before the files", async () => {
  const { yard, first } = await publishTwo();
  let crashes = 0;
  for (let at = 1; ; at += 1) {
    const target = newStore();
    const dying = createDyingStore(target, at, "after");
    const end = await pull(yard, dying.store, `ab@${first}`).catch((error) => error);
    if (!dying.isDead()) break;
    assert.ok(end instanceof Crash);
    crashes += 1;
    if ((await target.head("manifest.json")) !== undefined) await verify(target, first);
    else await assert.rejects(verify(target), { code: "YardManifestMissing" });
    await pull(yard, target, `ab@${first}`);
    await verify(target, first);
    assert.ok(!(await listKeys(target, "")).some((key) => key.startsWith(".")));
  }
  assert.ok(crashes > 10);
});

test("a user's own files are neither overwritten nor mixed with", async () => {
  const { yard, first } = await publishTwo();
  for (const [key, isRefused] of [
    ["config.json", true],
    ["other.safetensors", true],
    ["notes.txt", false],
  ] as const) {
    const target = newStore();
    await putText(target, key, "mine");
    const end = await pull(yard, target, `ab@${first}`).catch((error) => error);
    assert.equal(end.code, isRefused ? "YardTargetOccupied" : undefined, key);
    assert.equal(Buffer.from(await readAll(target, key, 100)).toString(), "mine");
  }
  const foreign = newStore();
  await putText(foreign, "manifest.json", '{"name": "a web app"}');
  await assert.rejects(pull(yard, foreign, `ab@${first}`), { code: "YardTargetOccupied" });
});

test("a damaged file of a version is met when it is pulled, and when it is verified", async () => {
  const { yard, first } = await publishTwo();
  const target = newStore();
  await pull(yard, target, `ab@${first}`);
  const shards = (await listKeys(target, "")).filter((key) => key.endsWith(".safetensors"));
  await flipLastByte(target, shards[0] ?? "");
  const failed = await verify(target).catch((error) => error);
  assert.deepEqual([failed.code, failed.where.file], ["YardFileCorrupt", shards[0]]);
  assert.equal(typeof failed.where.tensor, "string");
  const again = await pull(yard, target, `ab@${first}`);
  assert.equal(again.present, again.files - 1);
  await verify(target, first);
  await target.delete("config.json");
  await assert.rejects(verify(target), { code: "YardFileCorrupt", found: "no such file" });
  await flipLastByte(yard, `artifacts/ab/${first}/${shards[1]}`);
  const other = newStore();
  await assert.rejects(pull(yard, other, `ab@${first}`), { code: "YardFileCorrupt" });
  assert.equal(await other.head(shards[1] ?? ""), undefined);
  assert.equal(await other.head("manifest.json"), undefined);
});

test("a manifest under another version's name is refused", async () => {
  const { yard, first, second } = await publishTwo();
  await yard.copy(`artifacts/ab/${first}/manifest.json`, `artifacts/ab/${second}/manifest.json`);
  await assert.rejects(pull(yard, newStore(), `ab@${second}`), { code: "YardFileCorrupt", expected: second });
  const target = newStore();
  await pull(yard, target, `ab@${first}`);
  await assert.rejects(verify(target, second), { code: "YardFileCorrupt" });
});

test("a checkpoint converts to the universal format and back without a changed byte", async () => {
  const [source, universal, back] = [newStore(), newStore(), newStore()];
  await putModel(source, "", { seed: 1 });
  const convert = (from: ObjectStore, to: ObjectStore, format: string, sourceFile?: string) => {
    const input = { source: from.uri, target: to.uri, to: format, ...(sourceFile && { sourceFile }) };
    return runStep(convertStep, input, testDeps(openerOf(from, to)));
  };
  const made = await convert(source, universal, "universal");
  assert.deepEqual([made.tensors, made.digest], [4, (await openCheckpoint(universal, "")).digest]);
  assert.equal((await verify(universal)).version, null);
  await convert(universal, back, "safetensors");
  assert.deepEqual(await listKeys(back, ""), await listKeys(source, ""));
  for (const key of await listKeys(source, "")) {
    assert.deepEqual(await readAll(back, key, 1e6), await readAll(source, key, 1e6), key);
  }
  const second = newStore();
  assert.equal((await convert(universal, second, "universal")).digest, made.digest);
  await assert.rejects(convert(source, second, "universal"), { code: "YardTargetOccupied" });
  const single = await convert(source, newStore(), "universal", "model-00003-of-00003.safetensors");
  assert.deepEqual([single.files, single.tensors], [1, 1]);
  await flipLastByte(universal, "model-00001-of-00003.safetensors");
  const target = newStore();
  await assert.rejects(convert(universal, target, "safetensors"), { code: "YardFileCorrupt" });
  assert.equal(await target.head("model-00001-of-00003.safetensors"), undefined);
});

test("a universal checkpoint without its index gets one as a folder of several files", async () => {
  const [source, universal, back] = [newStore(), newStore(), newStore()];
  await putModel(source, "", { seed: 1 });
  const deps = testDeps(openerOf(source, universal, back));
  await runStep(convertStep, { source: source.uri, target: universal.uri, to: "universal" }, deps);
  const document = JSON.parse(Buffer.from(await readAll(universal, "universal.json", 1e6)).toString());
  const isIndex = ({ name }: { name: string }) => name === "model.safetensors.index.json";
  document.sideFiles = document.sideFiles.filter((file: { name: string }) => !isIndex(file));
  document.source.files = document.source.files.filter((file: { name: string }) => !isIndex(file));
  await putText(universal, "universal.json", JSON.stringify(document));
  await universal.delete("model.safetensors.index.json");
  await runStep(convertStep, { source: universal.uri, target: back.uri, to: "safetensors" }, deps);
  assert.equal((await openCheckpoint(back, "")).checkpoint.tensors.length, 4);
});
