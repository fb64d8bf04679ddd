import assert from "node:assert/strict";
import { test } from "node:test";
import { findVersion, initYard, listModels, listUploads, openYard, parseVersionReference } from "../../steps/yard.ts";
import { newStore, openerOf, putText } from "./deps.ts";

const channelText = (version: string) => JSON.stringify({ channel: 1, version, run: null, decidedMs: 1, history: [] });

test("a new place becomes a yard once, and opens as one", async () => {
  const store = newStore();
  assert.deepEqual(await initYard(store), { created: true });
  assert.deepEqual(await initYard(store), { created: false });
  assert.equal((await openYard(openerOf(store), store.uri)).uri, store.uri);
});

test("a place that holds other files does not become a yard", async () => {
  const store = newStore();
  await putText(store, "photos/cat.png", "not yours");
  await assert.rejects(initYard(store), { code: "YardPlaceNotEmpty", found: "photos/cat.png" });
  assert.equal(await store.head("yard.json"), undefined);
});

test("a place without a marker is no yard, and a marker of another layout is refused", async () => {
  const store = newStore();
  await assert.rejects(openYard(openerOf(store), store.uri), { code: "YardMissing" });
  await putText(store, "yard.json", '{"yard": 2}');
  await assert.rejects(openYard(openerOf(store), store.uri), { code: "YardFormatUnknown", found: "2", expected: "1" });
});

test("models are listed with versions, channels and uploads, stray folders passed over", async () => {
  const store = newStore();
  await putText(store, "artifacts/chat/aaaa/manifest.json", "{}");
  await putText(store, "artifacts/chat/bbbb/model.safetensors", "published without its manifest: not yet a version");
  await putText(store, "artifacts/chat/cccc/deep/manifest.json", "{}");
  await putText(store, "channels/chat/nightly.json", channelText("aaaa"));
  await putText(store, "incoming/code/1/model.safetensors", "12345");
  await putText(store, "incoming/code/2/a/b.bin", "1");
  await putText(store, "incoming/.trash/1/x", "1");
  await putText(store, "incoming/stray-file", "1");
  const [chat, code, ...others] = await listModels(store);
  assert.equal(others.length, 0);
  assert.deepEqual(
    chat?.versions.map(({ version, channels }) => [version, channels]),
    [["aaaa", ["nightly"]]],
  );
  assert.deepEqual(chat?.channels, { nightly: "aaaa" });
  assert.deepEqual(
    code?.uploads.map(({ upload, bytes }) => [upload, bytes]),
    [
      ["2", 1],
      ["1", 5],
    ],
  );
});

test("a version is asked for by name, by channel, or by nothing", () => {
  assert.deepEqual(parseVersionReference("chat@1f2e"), { model: "chat", version: "1f2e", channel: undefined });
  assert.deepEqual(parseVersionReference("chat:stable"), { model: "chat", version: undefined, channel: "stable" });
  assert.deepEqual(parseVersionReference("chat"), { model: "chat", version: undefined, channel: "latest" });
  for (const text of ["", "a/b", "chat@", "chat@1:2", ":latest"]) {
    assert.throws(() => parseVersionReference(text), { code: "YardReferenceInvalid" }, text);
  }
});

test("a version that is not there is refused with what is", async () => {
  const store = newStore();
  const find = (text: string) => findVersion(store, parseVersionReference(text));
  await assert.rejects(find("chat"), { code: "YardModelMissing" });
  await putText(store, "artifacts/chat/aaaa/manifest.json", "{}");
  await assert.rejects(find("chat"), { code: "YardChannelMissing", expected: "latest", found: "channels: none" });
  await assert.rejects(find("chat@bbbb"), { code: "YardVersionMissing", expected: "bbbb", found: "versions: aaaa" });
  await putText(store, "channels/chat/latest.json", channelText("aaaa"));
  assert.equal((await find("chat")).prefix, "artifacts/chat/aaaa/");
});

test("uploads are listed newest first", async () => {
  const store = newStore();
  await putText(store, "incoming/chat/b/model.safetensors", "1");
  await new Promise((resolve) => setTimeout(resolve, 5));
  await putText(store, "incoming/chat/a/model.safetensors", "1");
  assert.deepEqual(
    (await listUploads(store, "chat")).map((entry) => entry.upload),
    ["a", "b"],
  );
});
