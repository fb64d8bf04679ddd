import assert from "node:assert/strict";
import { test } from "node:test";
import { type ModelScope, resolveModel, resolveUri } from "../../steps/resolve-model.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newYard, openerOf, putText } from "./deps.ts";
import { putModel } from "./small-model.ts";

const { signal } = new AbortController();

/** Tells ages apart in listings. */
const aWhile = () => new Promise((resolve) => setTimeout(resolve, 5));

function scopeOf(yard: ObjectStore, scope: Partial<ModelScope> = {}): ModelScope {
  return { openStore: openerOf(yard), yard, aliases: [], folders: [], signal, ...scope };
}

/** A published version, as far as resolving looks. */
async function putVersion(yard: ObjectStore, model: string, version: string, channel?: string): Promise<void> {
  await putText(yard, `artifacts/${model}/${version}/manifest.json`, "{}");
  if (channel === undefined) return;
  const record = { channel: 1, version, run: null, decidedMs: 1, history: [] };
  await putText(yard, `channels/${model}/${channel}.json`, JSON.stringify(record));
}

test("a bare name is the published version behind latest, else the newest complete upload", async () => {
  const yard = await newYard();
  await putModel(yard, "incoming/chat/1/", { seed: 1 });
  await aWhile();
  await putModel(yard, "incoming/chat/2/", { seed: 2 });
  assert.deepEqual((await resolveModel(scopeOf(yard), "chat")).prefix, "incoming/chat/2/");
  await putVersion(yard, "chat", "aaaa", "stable");
  assert.deepEqual((await resolveModel(scopeOf(yard), "chat")).prefix, "incoming/chat/2/");
  await putVersion(yard, "chat", "bbbb", "latest");
  const { prefix, kind, name } = await resolveModel(scopeOf(yard), "chat");
  assert.deepEqual([prefix, kind, name], ["artifacts/chat/bbbb/", "version", "chat"]);
  assert.equal((await resolveModel(scopeOf(yard), "incoming/chat")).prefix, "incoming/chat/2/");
  assert.equal((await resolveModel(scopeOf(yard), "incoming/chat/1")).prefix, "incoming/chat/1/");
});

test("an artifact is named by version, by channel, or by latest", async () => {
  const yard = await newYard();
  await putVersion(yard, "chat", "aaaa", "stable");
  for (const text of [
    "artifacts/chat@aaaa",
    "artifacts/chat@stable",
    "artifacts/chat:stable",
    "chat@stable",
    "chat:stable",
  ]) {
    assert.equal((await resolveModel(scopeOf(yard), text)).prefix, "artifacts/chat/aaaa/", text);
  }
  await assert.rejects(resolveModel(scopeOf(yard), "artifacts/chat"), { code: "YardChannelMissing" });
  await assert.rejects(resolveModel(scopeOf(yard), "artifacts/chat@bbbb"), { code: "YardVersionMissing" });
  await assert.rejects(resolveModel(scopeOf(yard), "artifacts/nobody@1"), { code: "YardModelMissing" });
});

test("a universal checkpoint is named by the start of its digest", async () => {
  const yard = await newYard();
  const digest = "0123456789abcdef".repeat(4);
  await putText(yard, "checkpoints/chat/0123456789abcdef/universal.json", "{}");
  for (const text of [`checkpoints/chat@sha256:${digest}`, "checkpoints/chat@0123456789abcdef"]) {
    assert.equal((await resolveModel(scopeOf(yard), text)).kind, "checkpoint");
  }
  await assert.rejects(resolveModel(scopeOf(yard), "checkpoints/chat@ffffffffffffffff"), { code: "YardModelMissing" });
  await assert.rejects(resolveModel(scopeOf(yard), "checkpoints/chat"), { code: "YardReferenceInvalid" });
});

test("an upload counts when it is complete: by its marker, by a whole index, or alone", async () => {
  const yard = await newYard();
  await putModel(yard, "incoming/chat/1/", { seed: 1 });
  await aWhile();
  await putModel(yard, "incoming/chat/2/", { seed: 2 });
  await yard.delete("incoming/chat/2/model-00003-of-00003.safetensors");
  assert.equal((await resolveModel(scopeOf(yard), "chat")).prefix, "incoming/chat/1/");
  await assert.rejects(resolveModel(scopeOf(yard), "incoming/chat/2"), { code: "YardUploadIncomplete" });
  await yard.delete("incoming/chat/2/model.safetensors.index.json");
  await assert.rejects(resolveModel(scopeOf(yard), "incoming/chat/2"), { code: "YardUploadIncomplete" });
  await putText(yard, "incoming/chat/2/_COMPLETE", "");
  assert.equal((await resolveModel(scopeOf(yard), "chat")).prefix, "incoming/chat/2/");
  await assert.rejects(resolveModel(scopeOf(yard), "incoming/chat/9"), {
    code: "YardModelMissing",
    found: "uploads: 2, 1",
  });
});

test("names given for the run win over the pipeline's, and both over the yard", async () => {
  const yard = await newYard();
  await putModel(yard, "incoming/chat/1/", { seed: 1 });
  await putModel(yard, "incoming/code/1/", { seed: 1 });
  const scope = scopeOf(yard, {
    aliases: [{ base: "incoming/code" }, { base: "incoming/chat", chat: "incoming/code" }],
  });
  assert.equal((await resolveModel(scope, "base")).prefix, "incoming/code/1/");
  assert.equal((await resolveModel(scope, "chat")).prefix, "incoming/code/1/");
});

test("a path is looked for beside the recipe, then in the current folder; the error names every place", async () => {
  const yard = await newYard();
  const root = `memory://resolve-${process.pid}`;
  await putText(createMemoryStore(`${root.slice(9)}/here/models/chat`), "config.json", "{}");
  await putText(createMemoryStore(`${root.slice(9)}/there/models/chat`), "config.json", "{}");
  await putText(createMemoryStore(`${root.slice(9)}/here/only`), "config.json", "{}");
  const scope = scopeOf(yard, { folders: [`${root}/there`, `${root}/here`] });
  assert.equal((await resolveModel(scope, "models/chat")).store.uri, `${root}/there/models/chat`);
  assert.equal((await resolveModel(scope, "./models/../models/chat/")).store.uri, `${root}/there/models/chat`);
  assert.equal((await resolveModel(scope, "only")).store.uri, `${root}/here/only`);
  assert.equal((await resolveModel(scope, `${root}/here/only`)).name, "only");
  const places = [`${yard.uri}/artifacts/nowhere/`, `${yard.uri}/incoming/nowhere/`, `${root}/there/nowhere`];
  const expected = [...places, `${root}/here/nowhere`].join(" or ");
  await assert.rejects(resolveModel(scope, "nowhere"), { code: "YardModelMissing", expected });
  await assert.rejects(resolveModel(scope, `${root}/nowhere`), {
    code: "YardModelMissing",
    expected: `${root}/nowhere`,
  });
});

test("paths become URIs with their odd characters escaped", () => {
  assert.equal(resolveUri("file:///a/b", "c d#1?"), "file:///a/b/c%20d%231%3F");
  assert.equal(resolveUri("file:///a/b/?durable=false", "../c"), "file:///a/c");
  assert.equal(resolveUri("s3://bucket/a", "b/../c"), "s3://bucket/a/c");
  assert.equal(resolveUri("s3://bucket/a", "/models/x"), "file:///models/x");
  assert.equal(resolveUri("memory://m", ""), "memory://m");
});
