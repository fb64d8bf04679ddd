// Signed versions: published, pulled and verified with keys, tampered with, and followed to what they were made from.
import assert from "node:assert/strict";
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { test } from "node:test";
import type { Signer } from "../../core/artifact/attestation.ts";
import { toPublicKey } from "../../core/artifact/public-key.ts";
import { publishStep } from "../../steps/publish.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, plan, recipe, runPipeline, runUnits } from "./pipeline.ts";

const SIGNATURES = "manifest.intoto.jsonl";

type Key = Signer & { readonly pem: string };

function makeKey(): Key {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  return signerOf(privateKey, publicKey);
}

function signerOf(privateKey: KeyObject, publicKey: KeyObject): Key {
  return {
    keyId: toPublicKey(publicKey, "test").id,
    sign: async (message) => sign(null, message, privateKey),
    pem: String(publicKey.export({ type: "spki", format: "pem" })),
  };
}

async function madeYard() {
  const yard = newStore();
  await makeYard(yard);
  const openStore = openerOf(yard);
  const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) });
  return { yard, deps };
}

/** Publishes with a signer; the units of the run are there already or are made. */
async function publish(yard: ObjectStore, deps: ReturnType<typeof testDeps>, signer: Signer | undefined, key?: string) {
  const planned = await plan(yard, deps, key);
  await runUnits(planned, deps);
  const ref = { yard: yard.uri, run: planned.run, plannedMs: planned.plannedMs };
  return runStep(publishStep, ref, { ...deps, signer });
}

const folderOf = (version: string | null) => `artifacts/ab/${version}/`;

function verify(yard: ObjectStore, version: string | null, trustedKeys?: string) {
  const folder = newStoreAt(yard, folderOf(version));
  const input = { folder: folder.uri, yard: yard.uri, ...(trustedKeys && { trustedKeys }) };
  return runStep(verifyStep, input, testDeps(openerOf(yard, folder)));
}

/** The store as it looks from one of its folders. */
function newStoreAt(store: ObjectStore, prefix: string): ObjectStore {
  return {
    ...store,
    uri: `${store.uri}/${prefix}`,
    head: (key, o) => store.head(prefix + key, o),
    get: (key, limit, o) => store.get(prefix + key, limit, o),
    readInto: (key, offset, into, o) => store.readInto(prefix + key, offset, into, o),
  };
}

const pull = (yard: ObjectStore, target: ObjectStore, trustedKeys?: string) =>
  runStep(
    pullStep,
    { yard: yard.uri, model: "ab:nightly", target: target.uri, ...(trustedKeys && { trustedKeys }) },
    testDeps(openerOf(yard, target)),
  );

test("a version has the same name and manifest whether it is signed or not, and by whom", async () => {
  const versions = await Promise.all(
    [undefined, makeKey(), makeKey()].map(async (signer) => {
      const { yard, deps } = await madeYard();
      const { version } = await publish(yard, deps, signer);
      return [version, Buffer.from(await readAll(yard, `${folderOf(version)}manifest.json`, 1e6)).toString()];
    }),
  );
  assert.deepEqual(versions[1], versions[0]);
  assert.deepEqual(versions[2], versions[0]);
});

test("a signed version verifies and is pulled with its key, and its folder verifies afterwards", async () => {
  const { yard, deps } = await madeYard();
  const key = makeKey();
  const { version } = await publish(yard, deps, key);
  const valid = { status: "valid", keyIds: [key.keyId] };
  assert.deepEqual((await verify(yard, version, key.pem)).signature, valid);
  assert.deepEqual((await verify(yard, version)).signature, { status: "unchecked", keyIds: [key.keyId] });
  const target = newStore();
  assert.deepEqual((await pull(yard, target, makeKey().pem + key.pem)).signature, valid);
  const pulled = { folder: target.uri, trustedKeys: key.pem };
  assert.deepEqual((await runStep(verifyStep, pulled, testDeps(openerOf(target)))).signature, valid);
});

test("with keys, an unsigned version and one that another key signed are not fetched", async () => {
  const { yard, deps } = await madeYard();
  const key = makeKey();
  const { version } = await publish(yard, deps, undefined);
  const target = newStore();
  await assert.rejects(pull(yard, target, key.pem), { code: "SignatureMissing" });
  await assert.rejects(verify(yard, version, key.pem), { code: "SignatureMissing" });
  assert.equal((await verify(yard, version)).signature?.status, "absent");
  await publish(yard, deps, makeKey());
  await assert.rejects(pull(yard, target, key.pem), { code: "SignatureUntrusted" });
  await assert.rejects(pull(yard, target, "no key"), { code: "SigningKeyInvalid" });
  for await (const { key: file } of target.list("")) assert.fail(`${file} was fetched`);
});

test("a version that recurs gets the new key's signature beside the old one's, once", async () => {
  const { yard, deps } = await madeYard();
  const [old, current] = [makeKey(), makeKey()];
  const { version } = await publish(yard, deps, old);
  for (const signer of [current, current, old]) await publish(yard, deps, signer);
  const text = Buffer.from(await readAll(yard, folderOf(version) + SIGNATURES, 1e6)).toString();
  assert.equal(text.trimEnd().split("\n").length, 2);
  for (const { pem, keyId } of [old, current]) {
    assert.deepEqual((await verify(yard, version, pem)).signature?.keyIds, [keyId]);
  }
});

test("32 publishers with keys of their own leave 32 signatures, and those of one key leave one", async () => {
  const { yard, deps } = await madeYard();
  await publish(yard, deps, undefined);
  const keys = Array.from({ length: 32 }, makeKey);
  const ends = await Promise.all([...keys, ...keys].map((key) => publish(yard, deps, key)));
  const text = Buffer.from(await readAll(yard, folderOf(ends[0]?.version ?? "") + SIGNATURES, 1e6)).toString();
  assert.equal(text.trimEnd().split("\n").length, 32);
});

test("a signature of another version, and a damaged one, are refused", async () => {
  const { yard, deps } = await madeYard();
  const key = makeKey();
  const { version: first } = await publish(yard, deps, key);
  await putText(yard, "pipelines/small.yaml", recipe(0.25));
  const { version: second } = await publish(yard, deps, key);
  const other = Buffer.from(await readAll(yard, folderOf(first) + SIGNATURES, 1e6)).toString();
  await putText(yard, folderOf(second) + SIGNATURES, other);
  await assert.rejects(verify(yard, second, key.pem), { code: "SignatureWrong" });
  await putText(yard, folderOf(second) + SIGNATURES, "damaged");
  await assert.rejects(verify(yard, second, key.pem), { code: "SignatureInvalid" });
});

test("a key that fails to sign fails the publish, and nothing is visible", async () => {
  const { yard, deps } = await madeYard();
  const failing: Signer = { keyId: "k", sign: () => Promise.reject(new Error("no")) };
  await assert.rejects(publish(yard, deps, failing), /no/);
  for await (const { key } of yard.list("artifacts/")) assert.ok(!key.endsWith("manifest.json"), key);
  for await (const { key } of yard.list("channels/")) assert.fail(key);
});

test("verify follows a version to its inputs, and theirs, and misses what was taken away", async () => {
  const { yard, deps } = await madeYard();
  const key = makeKey();
  const { version: first } = await publish(yard, deps, key);
  const again = recipe(0.25).replace("one: incoming/a", `one: artifacts/ab@${first}`);
  await putText(yard, "pipelines/again.yaml", again);
  const { version: second } = await publish(yard, deps, key, "pipelines/again.yaml");
  const { lineage } = await verify(yard, second, key.pem);
  const places = lineage?.map(({ of, model, place }) => [of, model, place?.split("/").slice(0, 2).join("/")]);
  assert.deepEqual(places, [
    ["ab", "one", "artifacts/ab"],
    ["ab", "two", "checkpoints/b"],
    ["ab", "one", "checkpoints/a"],
  ]);
  const manifest = `${folderOf(first)}manifest.json`;
  const bytes = await readAll(yard, manifest, 1e6);
  await putText(yard, manifest, Buffer.from(bytes).toString().replace('"engine":"', '"engine":"x'));
  await assert.rejects(verify(yard, second), { code: "YardLineageBroken" });
  await yard.delete(manifest);
  await assert.rejects(verify(yard, second, key.pem), { code: "YardLineageBroken" }, "it was signed that it was there");
  assert.equal((await verify(yard, second)).lineage?.[0]?.place, null, "without proof it may be from elsewhere");
});

test("an unsigned pipeline stays as it was", async () => {
  const { yard, deps } = await madeYard();
  const { result } = await runPipeline(yard, deps);
  assert.equal(await yard.head(folderOf(result?.version ?? "") + SIGNATURES), undefined);
});
