import assert from "node:assert/strict";
import { test } from "node:test";
import { findRun } from "../../steps/runs/find-run.ts";
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

test("a version is found by the beginning of its name, unless several begin so", async () => {
  const store = newStore();
  for (const name of ["1f2e3d4c", "1f2e9999", "77aa0000"])
    await putText(store, `artifacts/chat/${name}/manifest.json`, "{}");
  await putText(store, "artifacts/chat/77aabbbb/config.json", "{}");
  const find = (text: string) => findVersion(store, parseVersionReference(text));
  assert.equal((await find("chat@1f2e3")).version, "1f2e3d4c");
  assert.equal((await find("chat@77aa")).prefix, "artifacts/chat/77aa0000/", "the other one was never published");
  await assert.rejects(find("chat@1f2e"), {
    code: "YardNameAmbiguous",
    found: "1f2e3d4c, 1f2e9999",
    expected: "1f2e",
  });
  await assert.rejects(find("chat@77a"), { code: "YardVersionMissing" }, "three characters are too few");
  await putText(store, "artifacts/chat/1f2e/manifest.json", "{}");
  assert.equal((await find("chat@1f2e")).version, "1f2e", "a whole name means itself");
});

test("a run is found by the beginning of its name, unless several begin so", async () => {
  const store = newStore();
  for (const run of ["0123aaaa", "0123aaaa-2", "0124bbbb"]) await putText(store, `runs/${run}/plan.jsonl`, "{}");
  const find = (text: string) => findRun(store, text, new AbortController().signal);
  assert.deepEqual([await find("0124"), await find("0123aaaa")], ["0124bbbb", "0123aaaa"]);
  await assert.rejects(find("0123"), { code: "YardNameAmbiguous", found: "0123aaaa, 0123aaaa-2" });
  await assert.rejects(find("012"), { code: "YardRunMissing", found: "012" });
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
