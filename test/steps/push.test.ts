// Pushing: what lies in the yard after a push, a killed one, a changed folder, several ranks.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseUploadMarker, UPLOAD_MARKER, uploadMarkerSchema } from "../../core/artifact/upload.ts";
import { MergeyardError } from "../../core/error.ts";
import { onUploadStep } from "../../steps/on-upload.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import { pushStep } from "../../steps/push/push.ts";
import { resolveModel } from "../../steps/resolve-model.ts";
import { runStep, type StepDeps } from "../../steps/step.ts";
import { createFaultyStore } from "../../stores/faulty.ts";
import { readAll, readJson, writeBytes } from "../../stores/objects.ts";
import { createRetryStore } from "../../stores/retry.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { patterned } from "../stores/patterned.ts";
import { newStore, newYard, openerOf, putText, testDeps } from "./deps.ts";
import { Crash, createDyingStore, createFullStore } from "./failing-stores.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, runPipeline } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

const MIB = 2 ** 20;

/** A small model with one more file, of several regions. */
async function newFolder(extraBytes = 17 * MIB + 5): Promise<ObjectStore> {
  const folder = newStore();
  await putModel(folder, "", { seed: 1 });
  await writeBytes(folder, "optimizer.pt", patterned(extraBytes));
  return folder;
}

type Extra = { readonly upload?: string; readonly rank?: number; readonly ranks?: number };

function push(yard: ObjectStore, source: ObjectStore, extra: Extra = {}, deps?: StepDeps) {
  const input = { yard: yard.uri, source: source.uri, model: "chat", ...extra };
  return runStep(pushStep, input, deps ?? testDeps(openerOf(yard, source)));
}

async function keysUnder(store: ObjectStore, prefix: string): Promise<string[]> {
  return (await Array.fromAsync(store.list(prefix))).map(({ key }) => key.slice(prefix.length));
}

const seen = (yard: ObjectStore) =>
  runStep(onUploadStep, { yard: yard.uri, key: "incoming/chat/up/config.json" }, depsOf(yard));
const depsOf = (yard: ObjectStore) => testDeps(openerOf(yard));

async function assertSame(yard: ObjectStore, prefix: string, folder: ObjectStore): Promise<void> {
  for await (const { key, bytes } of folder.list("")) {
    assert.deepEqual(await readAll(yard, prefix + key, bytes), await readAll(folder, key, bytes), key);
  }
}

test("a folder is pushed whole, and pushed again nothing is sent", async () => {
  const [yard, folder] = [await newYard(), await newFolder()];
  const pushed = await push(yard, folder);
  assert.deepEqual([pushed.outcome, pushed.files, pushed.sentBytes], ["committed", 7, pushed.bytes]);
  await assertSame(yard, pushed.prefix, folder);
  const marker = await readJson(yard, `${pushed.prefix}${UPLOAD_MARKER}`, uploadMarkerSchema, 1e6);
  assert.deepEqual(
    marker.files.map(({ name }) => name),
    (await keysUnder(folder, "")).sort(),
  );
  const again = await push(yard, folder);
  assert.deepEqual([again.outcome, again.upload, again.sentBytes], ["present", pushed.upload, 0]);
  const scope = { openStore: openerOf(yard), yard, aliases: [], folders: [], signal: new AbortController().signal };
  assert.equal((await resolveModel(scope, "incoming/chat")).prefix, pushed.prefix);
});

test("a push that is killed at any write is invisible, goes on, and sends no region twice", async () => {
  const folder = await newFolder();
  const clean = await newYard();
  const total = await countSent(clean, folder);
  let crashes = 0;
  for (let at = 1; ; at += 1) {
    const yard = await newYard();
    const dying = createDyingStore(yard, at, at % 2 === 0 ? "after" : "before");
    const sent = countRegions(dying.store);
    const end = await push(sent.store, folder, { upload: "up" }).catch((error: unknown) => error);
    if (!dying.isDead()) break;
    assert.ok(end instanceof Crash);
    crashes += 1;
    const isCommitted = (await yard.head(`incoming/chat/up/${UPLOAD_MARKER}`)) !== undefined;
    if ((await keysUnder(yard, "incoming/")).length > 0) {
      assert.equal((await seen(yard)).upload, isCommitted ? "complete" : "incomplete", `write ${at}`);
    }
    const rest = countRegions(yard);
    const pushed = await push(rest.store, folder, { upload: "up" });
    assert.equal(pushed.outcome, isCommitted ? "present" : "committed");
    assert.ok(sent.closed() + rest.closed() <= total, `write ${at}: ${sent.closed()} + ${rest.closed()} regions`);
    await assertSame(yard, "incoming/chat/up/", folder);
  }
  assert.ok(crashes > 25, `${crashes} crashes`);
});

async function countSent(yard: ObjectStore, folder: ObjectStore): Promise<number> {
  const sent = countRegions(yard);
  await push(sent.store, folder, { upload: "up" });
  return sent.closed();
}

/** Counts the regions that were closed whole, of objects that have several: what a later push need not send again. */
function countRegions(store: ObjectStore): { readonly store: ObjectStore; readonly closed: () => number } {
  let closed = 0;
  const openRegion: ObjectStore["openRegion"] = async (...args) => {
    const writer = await store.openRegion(...args);
    const close = async () => {
      const receipt = await writer.close();
      if (args[0].regions.length > 1) closed += 1;
      return receipt;
    };
    return { write: (bytes) => writer.write(bytes), close };
  };
  return { store: { ...store, openRegion }, closed: () => closed };
}

test("a disk that fills up stops a push with one error, and the push goes on when there is room", async () => {
  const folder = await newFolder();
  let refusals = 0;
  for (let from = 1; ; from += 3) {
    const yard = await newYard();
    const full = createFullStore(yard, from);
    const end = await push(full.store, folder).catch((error) => error);
    if (full.met() === 0) break;
    assert.equal(end.code, "StoreFull", `from write ${from}`);
    refusals += 1;
    assert.equal((await push(yard, folder)).outcome, "committed");
  }
  assert.ok(refusals > 5);
});

test("an upload is invisible until its marker is there, even when its index and shards are", async () => {
  const [yard, folder] = [await newYard(), await newFolder()];
  const pushed = await push(yard, folder, { upload: "up" });
  assert.equal((await seen(yard)).upload, "complete");
  await yard.delete(`${pushed.prefix}${UPLOAD_MARKER}`);
  assert.equal((await seen(yard)).upload, "incomplete");
  await push(yard, folder, { upload: "up" });
  await yard.delete(`${pushed.prefix}tokenizer.json`);
  assert.equal((await seen(yard)).upload, "incomplete", "a marker whose files are not all there");
});

test("a file that changes while it is pushed ends the push, and nothing of it stays", async () => {
  for (const change of [
    (folder: ObjectStore) => writeBytes(folder, "optimizer.pt", patterned(100)).then(() => undefined),
    (folder: ObjectStore) => folder.delete("optimizer.pt"),
    (folder: ObjectStore) => putText(folder, "tokenizer.json", "{}"),
    (folder: ObjectStore) => putText(folder, "added.json", "{}"),
  ]) {
    const [yard, folder] = [await newYard(), await newFolder()];
    let isChanged = false;
    const progress = ({ bytesWritten }: { bytesWritten: number }) => {
      if (bytesWritten < 9 * MIB || isChanged) return;
      isChanged = true;
      void change(folder);
    };
    const deps = { ...testDeps(openerOf(yard, folder)), progress };
    await assert.rejects(push(yard, folder, {}, deps), { code: "StoreObjectChanged" });
    assert.deepEqual(await keysUnder(yard, "incoming/"), []);
    if ((await folder.head("optimizer.pt")) !== undefined)
      assert.equal((await push(yard, folder)).outcome, "committed");
  }
});

test("a folder that is no whole checkpoint is refused before anything is sent", async () => {
  const [yard, folder] = [await newYard(), await newFolder()];
  await folder.delete("model-00002-of-00003.safetensors");
  await assert.rejects(push(yard, folder), { code: "CheckpointShardMissing" });
  const text = newStore();
  await putText(text, "notes.txt", "none");
  await assert.rejects(push(yard, text), { code: "CheckpointFormatUnknown" });
  await assert.rejects(push(yard, newStore()), { code: "CheckpointEmpty" });
  assert.deepEqual(await keysUnder(yard, "incoming/"), []);
});

test("a name that other files have is refused", async () => {
  const [yard, folder, other] = [await newYard(), await newFolder(), newStore()];
  await putModel(other, "", { seed: 2 });
  await putText(yard, "incoming/chat/mine/config.json", "{}");
  await assert.rejects(push(yard, folder, { upload: "mine" }), { code: "UploadOccupied" });
  await push(yard, folder, { upload: "up" });
  await assert.rejects(push(yard, other, { upload: "up" }), { code: "UploadOccupied" });
  await putText(yard, "incoming/chat/dropped/_COMPLETE", "");
  await assert.rejects(push(yard, other, { upload: "dropped" }), { code: "UploadOccupied" });
  await assert.rejects(push(yard, other, { upload: "../x" }), { code: "StoreNameInvalid" });
});

test("of two processes that push the same, the one that came last goes on", async () => {
  const [yard, folder] = [await newYard(), await newFolder()];
  let second: ReturnType<typeof push> | undefined;
  const openRegion: ObjectStore["openRegion"] = async (ticket, index, options) => {
    if (ticket.regions.length > 1 && index === 2) {
      second ??= push(yard, folder, { upload: "up" });
      await second;
    }
    return yard.openRegion(ticket, index, options);
  };
  await assert.rejects(push({ ...yard, openRegion }, folder, { upload: "up" }), { code: "UploadTakenOver" });
  const { outcome, sentBytes, bytes } = (await second) ?? assert.fail();
  assert.deepEqual([outcome, sentBytes < bytes / 2], ["committed", true]);
  assert.equal((await seen(yard)).upload, "complete");
});

/** The small model cut over two ranks: each has a shard or two, the second the index. */
async function splitFolder(): Promise<readonly [ObjectStore, ObjectStore]> {
  const [whole, first, second] = [newStore(), newStore(), newStore()];
  await putModel(whole, "", { seed: 1 });
  for await (const { key, bytes } of whole.list("")) {
    const target = key.startsWith("model-00001") ? first : second;
    await writeBytes(target, key, await readAll(whole, key, bytes));
  }
  return [first, second];
}

test("ranks that each have a part commit one upload, whichever ends last", async () => {
  for (const order of [
    [0, 1],
    [1, 0],
  ] as const) {
    const yard = await newYard();
    const folders = await splitFolder();
    const outcomes: string[] = [];
    for (const rank of order) {
      assert.notEqual((await keysUnder(yard, "incoming/")).includes(UPLOAD_MARKER), true);
      const pushed = await push(yard, folders[rank], { upload: "up", rank, ranks: 2 });
      outcomes.push(pushed.outcome);
    }
    assert.deepEqual(outcomes, ["waiting", "committed"]);
    assert.equal((await seen(yard)).upload, "complete");
    const again = await push(yard, folders[0], { upload: "up", rank: 0, ranks: 2 });
    assert.deepEqual([again.outcome, again.sentBytes], ["present", 0]);
  }
});

test("ranks that disagree, or whose parts are no checkpoint together, do not commit", async () => {
  const yard = await newYard();
  const [first, second] = await splitFolder();
  await putText(second, "model-00001-of-00003.safetensors", "another");
  await push(yard, first, { upload: "up", rank: 0, ranks: 2 });
  await assert.rejects(push(yard, second, { upload: "up", rank: 1, ranks: 2 }), { code: "UploadRanksDisagree" });
  const other = await newYard();
  const [part, rest] = await splitFolder();
  await rest.delete("model-00003-of-00003.safetensors");
  await push(other, part, { upload: "up", rank: 0, ranks: 2 });
  await assert.rejects(push(other, rest, { upload: "up", rank: 1, ranks: 2 }), { code: "CheckpointShardMissing" });
  assert.equal((await seen(other)).upload, "incomplete");
});

test("a version that was pulled and changed is pushed without its manifest; a damaged one is refused", async () => {
  const yard = await newYard();
  await makeYard(yard);
  const openStore = openerOf(yard);
  await runPipeline(yard, testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) }));
  const pullInto = async () => {
    const folder = newStore();
    const deps = testDeps(openerOf(yard, folder));
    const { version } = await runStep(pullStep, { yard: yard.uri, model: "ab:nightly", target: folder.uri }, deps);
    return { folder, version };
  };
  const untouched = await pullInto();
  const same = await push(yard, untouched.folder);
  assert.deepEqual([same.base, same.changed], [null, []]);
  assert.ok(await yard.head(`${same.prefix}manifest.json`), "a version that was not changed keeps its manifest");

  const { folder, version } = await pullInto();
  const [shard = ""] = (await keysUnder(folder, "")).filter((key) => key.endsWith(".safetensors"));
  const bytes = await readAll(folder, shard, 1e6);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  await writeBytes(folder, shard, bytes); // later than the manifest: fine-tuned
  const changed = await push(yard, folder);
  assert.deepEqual([changed.base, changed.changed], [{ model: "ab", version }, [shard]]);
  assert.equal(await yard.head(`${changed.prefix}manifest.json`), undefined);
  const marker = parseUploadMarker(await readAll(yard, `${changed.prefix}${UPLOAD_MARKER}`, 1e6));
  assert.deepEqual(marker?.base, { model: "ab", version });

  const damaged = await pullInto();
  await writeBytes(damaged.folder, shard, bytes);
  const manifest = await readAll(damaged.folder, "manifest.json", 1e6);
  await writeBytes(damaged.folder, "manifest.json", manifest); // nothing was written after it
  await assert.rejects(push(yard, damaged.folder), { code: "YardFileCorrupt" });
});

test("a yard that answers with faults is pushed to and pulled from, or the push ends in one error", async () => {
  const folder = await newFolder();
  const policy = { attemptsMax: 12, delayMs: 0.1, delayMsMax: 1, random: () => 0.5 };
  const faults = ["before", "after", "cut", "conflict", "delay"] as const;
  for (const seed of [1, 2, 3]) {
    const plain = await newYard();
    const faulty = createFaultyStore(plain, { seed, rate: 0.2, faults });
    const pushed = await push(createRetryStore(faulty.store, policy), folder);
    assert.equal(pushed.outcome, "committed");
    assert.ok(faulty.counts.faults > 5);
    await assertSame(plain, pushed.prefix, folder);
  }
  const yard = await newYard();
  const gone = createFaultyStore(yard, { seed: 1, rate: 1, faults: ["before"] });
  const isReading = (key: string) => key === "yard.json";
  const down: ObjectStore = {
    ...gone.store,
    get: (key, ...rest) => (isReading(key) ? yard : gone.store).get(key, ...rest),
  };
  await assert.rejects(push(createRetryStore(down, policy), folder), { code: "StoreUnavailable" });
  assert.equal((await push(yard, folder)).outcome, "committed");
});

test("credentials that expire in the middle end the push with their own error; it goes on with new ones", async () => {
  const [yard, folder] = [await newYard(), await newFolder()];
  let opened = 0;
  const openRegion: ObjectStore["openRegion"] = async (ticket, ...rest) => {
    opened += 1;
    if (opened > 7) throw new MergeyardError("StoreCredentialsInvalid", { where: { file: ticket.key } });
    return yard.openRegion(ticket, ...rest);
  };
  await assert.rejects(push({ ...yard, openRegion }, folder, { upload: "up" }), { code: "StoreCredentialsInvalid" });
  assert.equal((await seen(yard)).upload, "incomplete");
  const pushed = await push(yard, folder, { upload: "up" });
  assert.ok(pushed.outcome === "committed" && pushed.sentBytes < pushed.bytes);
});

test("what ended a push is told, also where its record cannot be written either", async () => {
  const [yard, folder] = [await newYard(), await newFolder()];
  let isBroken = false;
  const openRegion: ObjectStore["openRegion"] = async () => {
    isBroken = true;
    throw new MergeyardError("StoreAccessDenied", { where: { store: yard.uri } });
  };
  const replace: ObjectStore["replace"] = (...write) => {
    if (isBroken) throw new MergeyardError("StoreFull", { where: { store: yard.uri } });
    return yard.replace(...write);
  };
  await assert.rejects(push({ ...yard, openRegion, replace }, folder), { code: "StoreAccessDenied" });
});
