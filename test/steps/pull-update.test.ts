// A folder that follows a model: pulled again, it becomes the newer version, and only what changed is fetched.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { Crash, createDyingStore } from "./failing-stores.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, recipe, runPipeline } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

/** A yard with three versions of one model: in the second one tensor differs, in the third all do. */
async function publishThree() {
  const yard = newStore();
  await makeYard(yard);
  const openStore = openerOf(yard);
  const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) });
  const publish = async () => (await runPipeline(yard, deps)).result?.version ?? "";
  const first = await publish();
  await putModel(yard, "incoming/b/2/", { seed: 2, changedTensor: 2 });
  const second = await publish();
  await putText(yard, "pipelines/small.yaml", recipe(0.25));
  return { yard, first, second, third: await publish() };
}

const pull = (yard: ObjectStore, target: ObjectStore, version: string) => {
  const input = { yard: yard.uri, model: `ab@${version}`, target: target.uri };
  return runStep(pullStep, input, testDeps(openerOf(yard, target)));
};
const verify = (store: ObjectStore, version: string) =>
  runStep(verifyStep, { folder: store.uri, version }, testDeps(openerOf(store)));
const keysOf = async (store: ObjectStore) => (await Array.fromAsync(store.list(""))).map(({ key }) => key);

/** Counts the bytes that are read of tensor files in the yard. */
function countReads(yard: ObjectStore) {
  let bytes = 0;
  const readInto: ObjectStore["readInto"] = async (key, offset, into, options) => {
    if (key.endsWith(".safetensors")) bytes += into.byteLength;
    await yard.readInto(key, offset, into, options);
  };
  return { store: { ...yard, readInto }, bytes: () => bytes };
}

test("a folder of the version before becomes the newer one; only changed tensors are fetched", async () => {
  const { yard, first, second } = await publishThree();
  const target = newStore();
  const fresh = await pull(yard, target, first);
  assert.deepEqual([fresh.fetchedBytes, fresh.reusedBytes], [fresh.bytes, 0]);
  const counted = countReads(yard);
  const updated = await pull(counted.store, target, second);
  await verify(target, second);
  const changed = 24 * 8 * 2; // of one BF16 matrix
  assert.ok(counted.bytes() >= changed && counted.bytes() < changed + 400, `${counted.bytes()} bytes with a header`);
  assert.equal(updated.fetchedBytes + updated.reusedBytes, updated.bytes);
  assert.ok(updated.present >= 2 && updated.present < updated.files);
  assert.equal((await pull(yard, target, first)).version, first, "and back");
  await verify(target, first);
});

test("files that the newer version does not have go, others of the user's stay", async () => {
  const { yard, first, third } = await publishThree();
  const target = newStore();
  await pull(yard, target, first);
  const manifest = JSON.parse(Buffer.from(await readAll(target, "manifest.json", 1e6)).toString());
  await putText(target, "notes.txt", "mine");
  await pull(yard, target, third);
  await verify(target, third);
  assert.ok((await keysOf(target)).includes("notes.txt"));
  assert.equal((await keysOf(target)).length, manifest.files.length + 2);
});

test("an update that is killed goes on, also to another version, and never claims to be whole", async () => {
  const { yard, first, second, third } = await publishThree();
  let crashes = 0;
  for (let at = 1; ; at += 1) {
    const target = newStore();
    await pull(yard, target, first);
    const dying = createDyingStore(target, at, at % 2 === 0 ? "after" : "before");
    const end = await pull(yard, dying.store, second).catch((error) => error);
    if (!dying.isDead()) break;
    assert.ok(end instanceof Crash);
    crashes += 1;
    const claims = await target.get("manifest.json", 1e6);
    if (claims !== undefined) await runStep(verifyStep, { folder: target.uri }, testDeps(openerOf(target)));
    const wanted = at % 3 === 0 ? third : second;
    await pull(yard, target, wanted);
    await verify(target, wanted);
    assert.ok(!(await keysOf(target)).some((key) => key.startsWith(".")));
  }
  assert.ok(crashes > 8, `${crashes} crashes`);
});

test("a file that was changed since it was pulled is not lost to an update", async () => {
  const { yard, first, second } = await publishThree();
  const target = newStore();
  await pull(yard, target, first);
  const [shard = ""] = (await keysOf(target)).filter((key) => key.endsWith(".safetensors"));
  const tuned = await readAll(target, shard, 1e6);
  tuned[tuned.length - 1] = (tuned.at(-1) ?? 0) ^ 1;
  await writeBytes(target, shard, tuned);
  await assert.rejects(pull(yard, target, second), { code: "YardTargetOccupied" });
  assert.deepEqual(await readAll(target, shard, 1e6), tuned);
  assert.ok(await target.head("manifest.json"));
  await target.delete(shard);
  await pull(yard, target, second);
  await verify(target, second);
});

test("a folder of another model's version is refused", async () => {
  const { yard, first, second } = await publishThree();
  const target = newStore();
  await pull(yard, target, first);
  const manifest = Buffer.from(await readAll(target, "manifest.json", 1e6)).toString();
  await putText(target, "manifest.json", manifest.replace('"model":"ab"', '"model":"other"'));
  await assert.rejects(pull(yard, target, second), { code: "YardTargetOccupied" });
});

test("whoever may only read objects can pull, and update", async () => {
  const { yard, first, second } = await publishThree();
  // As S3 answers without s3:ListBucket: what is missing is denied.
  const denied = (key: string) => new MergeyardError("StoreAccessDenied", { where: { store: yard.uri, file: key } });
  const readOnly: ObjectStore = {
    ...yard,
    async *list(prefix) {
      yield* [];
      throw denied(prefix);
    },
    async get(key, ...rest) {
      return (await yard.get(key, ...rest)) ?? Promise.reject(denied(key));
    },
    async head(key, options) {
      return (await yard.head(key, options)) ?? Promise.reject(denied(key));
    },
  };
  const target = newStore();
  const input = { yard: yard.uri, model: "ab:nightly", target: target.uri };
  await pull(readOnly, target, first);
  await runStep(pullStep, { ...input, model: `ab@${second}` }, testDeps(openerOf(readOnly, target)));
  await verify(target, second);
  const latest = await runStep(pullStep, input, testDeps(openerOf(readOnly, target)));
  await verify(target, latest.version);
  const error = await pull(readOnly, newStore(), "0000000000000000").catch((cause) => cause);
  assert.equal(error.code, "StoreAccessDenied");
});
