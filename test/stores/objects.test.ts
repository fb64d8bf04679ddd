// Whole documents, whole files and copies from store to store; and what a place opens.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import * as z from "zod";
import { createDirectoryStore } from "../../stores/directory.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { copyAcross, findJson, readAll, readJson, writeBytes, writeObject } from "../../stores/objects.ts";
import { createStoreOpener, openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { rejectsWith } from "./conformance.ts";
import { patterned } from "./patterned.ts";

const newStore = () => createMemoryStore(randomUUID());
const encode = (text: string) => new TextEncoder().encode(text);
const schema = z.strictObject({ version: z.string(), counts: z.array(z.int()) });

test("a whole object is read up to a limit", async () => {
  const store = newStore();
  await store.create("a", patterned(10));
  assert.deepEqual(Uint8Array.from(await readAll(store, "a", 10)), patterned(10));
  await rejectsWith(readAll(store, "a", 9), "StoreObjectTooLarge");
  await rejectsWith(readAll(store, "none", 9), "StoreObjectMissing");
});

test("a JSON document is parsed, checked and given with its ETag", async () => {
  const store = newStore();
  const { etag } = await store.create("a.json", encode('{"version":"1","counts":[1,2]}'));
  assert.deepEqual(await readJson(store, "a.json", schema, 100), { version: "1", counts: [1, 2] });
  assert.deepEqual(await findJson(store, "a.json", schema, 100), { value: { version: "1", counts: [1, 2] }, etag });
  assert.equal(await findJson(store, "none.json", schema, 100), undefined);
  await rejectsWith(readJson(store, "none.json", schema, 100), "StoreObjectMissing");
  await rejectsWith(readJson(store, "a.json", schema, 5), "StoreObjectTooLarge");
});

test("a document that is no JSON, no UTF-8 or not what belongs there is refused with its place", async () => {
  const store = newStore();
  await store.create("text", encode("version: 1"));
  await store.create("bytes", Uint8Array.of(0x22, 0xff, 0x22));
  await store.create("field", encode('{"version":"1","counts":[1,"two"]}'));
  await store.create("key", encode('{"version":"1","counts":[],"more":1}'));
  for (const key of ["text", "bytes", "key"]) await rejectsWith(readJson(store, key, schema, 100), "StoreJsonInvalid");
  const error = await rejectsWith(readJson(store, "field", schema, 100), "StoreJsonInvalid");
  assert.equal(error.where.field, "counts.1");
  assert.equal(error.where.file, "field");
});

test("a stream of the wrong length is refused and leaves nothing", async () => {
  const store = newStore();
  const stream = async function* (bytes: number) {
    for (let done = 0; done < bytes; done += 5) yield patterned(Math.min(5, bytes - done));
  };
  assert.equal((await writeObject(store, "a", stream(12), 12)).bytes, 12);
  await rejectsWith(writeObject(store, "b", stream(11), 12), "StoreRegionIncomplete");
  await rejectsWith(writeObject(store, "b", stream(13), 12), "StoreRegionIncomplete");
  await rejectsWith(writeObject(store, "b", stream(1), 0), "StoreRegionIncomplete");
  assert.equal((await writeObject(store, "empty", stream(0), 0)).bytes, 0);
  assert.equal(await store.head("b"), undefined);
});

test("an object is copied from store to store in pieces", async () => {
  const [source, target] = [newStore(), newStore()];
  const content = patterned(17 * 1024 * 1024 + 5);
  await writeBytes(source, "from", content);
  let largest = 0;
  const watched: ObjectStore = {
    ...source,
    readInto(key, offset, into) {
      largest = Math.max(largest, into.byteLength);
      return source.readInto(key, offset, into);
    },
  };
  const info = await copyAcross(watched, "from", target, "to");
  assert.equal(info.bytes, content.byteLength);
  assert.ok(largest <= 8 * 1024 * 1024);
  const into = new Uint8Array(content.byteLength);
  await target.readInto("to", 0, into);
  assert.equal(Buffer.compare(into, content), 0);
  await rejectsWith(copyAcross(source, "none", target, "to"), "StoreObjectMissing");
});

test("within one store the store copies by itself", async () => {
  const store = newStore();
  await store.create("from", patterned(10));
  const noReads: ObjectStore = { ...store, readInto: () => assert.fail("read") };
  assert.equal((await copyAcross(noReads, "from", noReads, "to")).bytes, 10);
});

test("a source that changes while it is copied is noticed, and nothing is left", async () => {
  const [source, target] = [newStore(), newStore()];
  await source.create("from", patterned(10, 1));
  const changing: ObjectStore = {
    ...source,
    async readInto(key, offset, into) {
      await source.readInto(key, offset, into);
      await writeBytes(source, key, patterned(10, 2));
    },
  };
  await rejectsWith(copyAcross(changing, "from", target, "to"), "StoreObjectChanged");
  assert.equal(await target.head("to"), undefined);
});

test("a place opens the store that its URI opens again", async () => {
  const folder = await mkdtemp(join(tmpdir(), "mergeyard open #1%20-"));
  try {
    const store = openStore(join(folder, "a yard"), {});
    await store.create("a", patterned(1));
    assert.equal((await openStore(store.uri, {}).head("a"))?.bytes, 1);
    const plain = createDirectoryStore(folder, { durable: false });
    assert.equal(openStore(plain.uri, {}).uri, plain.uri);
    assert.notEqual(openStore(folder, {}).uri, plain.uri);
    assert.equal(openStore(".", {}).uri, createDirectoryStore(resolve("."), { durable: true }).uri);
  } finally {
    await rm(folder, { recursive: true });
  }
  const name = randomUUID();
  await openStore(`memory://${name}`, {}).create("a", patterned(1));
  assert.notEqual(await openStore(`memory://${name}`, {}).head("a"), undefined);
});

test("a place of no known kind is refused", () => {
  const places = ["", "gs://bucket/x", "https://host/x", "memory://", "file://host/x", "file:///x?durable=maybe"];
  places.push("file:///x?other=1", "file:///x#y", "file:///a%2Fb", "a\0b", "s3://", "s3:///x", "s3://UPPER_case/x");
  for (const place of places) {
    assert.throws(() => openStore(place, {}), { code: "StoreUriInvalid" }, place);
  }
});

test("an opener gives one store for one place", () => {
  const open = createStoreOpener({});
  assert.equal(open("memory://x"), open("memory://x"));
  assert.notEqual(open("memory://x"), open("memory://y"));
});
