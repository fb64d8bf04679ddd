// The model test of stores: random sequences of operations, compared after every step with a plain map.
import assert from "node:assert/strict";
import fc from "fast-check";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { patterned } from "./patterned.ts";

type Known = { readonly bytes: Uint8Array; readonly etag: string };
/** The reference: what is where, and every ETag that a key ever had. */
type Model = { readonly objects: Map<string, Known>; readonly pastEtags: Map<string, string> };
type Operation = (store: ObjectStore, model: Model) => Promise<void>;

// Never one key as the folder of another: S3 has no folders, a file system does.
const key = fc.constantFrom("a", "b/c", "b/d", "b/e/f", "g-h", "b.c");
// Around the size where a folder store's ETags change their kind.
const content = fc
  .tuple(fc.constantFrom(0, 1, 100, 65_536, 65_537), fc.nat(1000))
  .map(([n, seed]) => patterned(n, seed));

const operation: fc.Arbitrary<{ name: string; run: Operation }> = fc.oneof(
  fc.tuple(key, content).map(([k, c]) => ({ name: `create ${k} ${c.length}`, run: runCreate(k, c) })),
  fc
    .tuple(key, content, fc.boolean())
    .map(([k, c, old]) => ({ name: `replace ${k} ${old}`, run: runReplace(k, c, old) })),
  fc.tuple(key, content).map(([k, c]) => ({ name: `write ${k} ${c.length}`, run: runWrite(k, c) })),
  fc.tuple(key, key).map(([from, to]) => ({ name: `copy ${from} ${to}`, run: runCopy(from, to) })),
  key.map((k) => ({ name: `delete ${k}`, run: runDelete(k) })),
  fc
    .tuple(key, fc.nat(70_000), fc.nat(200))
    .map(([k, o, n]) => ({ name: `read ${k} ${o}+${n}`, run: runRead(k, o, n) })),
);

/** Runs random sequences against a store that is emptied before each. */
export async function checkAgainstModel(store: ObjectStore, runs: number): Promise<void> {
  const property = fc.asyncProperty(fc.array(operation, { minLength: 5, maxLength: 25 }), async (operations) => {
    for await (const info of store.list("")) await store.delete(info.key);
    const model: Model = { objects: new Map(), pastEtags: new Map() };
    for (const { run } of operations) await run(store, model);
    await compare(store, model);
  });
  await fc.assert(property, { numRuns: runs, seed: 20_261_123 });
}

function runCreate(key: string, bytes: Uint8Array): Operation {
  return async (store, model) => {
    const before = model.objects.get(key);
    const result = await store.create(key, bytes);
    assert.equal(result.created, before === undefined);
    if (before !== undefined) assert.equal(result.etag, before.etag);
    else remember(model, key, bytes, result.etag);
  };
}

function runReplace(key: string, bytes: Uint8Array, usesPastEtag: boolean): Operation {
  return async (store, model) => {
    const before = model.objects.get(key);
    const etag = (usesPastEtag ? model.pastEtags.get(key) : before?.etag) ?? "none";
    const result = await store.replace(key, bytes, etag);
    assert.equal(result.replaced, before?.etag === etag);
    if (result.replaced) remember(model, key, bytes, result.etag);
    else assert.equal(result.etag, before?.etag ?? "");
  };
}

function runWrite(key: string, bytes: Uint8Array): Operation {
  return async (store, model) => {
    const info = await writeBytes(store, key, bytes);
    remember(model, key, bytes, info.etag);
  };
}

function runCopy(from: string, to: string): Operation {
  return async (store, model) => {
    const source = model.objects.get(from);
    if (source === undefined) {
      await assert.rejects(store.copy(from, to), { code: "StoreObjectMissing" });
    } else {
      const info = await store.copy(from, to);
      remember(model, to, source.bytes, info.etag);
    }
  };
}

function runDelete(key: string): Operation {
  return async (store, model) => {
    await store.delete(key);
    model.objects.delete(key);
  };
}

function runRead(key: string, offset: number, bytes: number): Operation {
  return async (store, model) => {
    const known = model.objects.get(key);
    const into = new Uint8Array(bytes);
    const read = store.readInto(key, offset, into);
    if (known === undefined) await assert.rejects(read, { code: "StoreObjectMissing" });
    else if (bytes > 0 && offset + bytes > known.bytes.byteLength) {
      await assert.rejects(read, { code: "StoreShortRead" });
    } else {
      await read;
      assert.equal(Buffer.compare(into, known.bytes.subarray(offset, offset + bytes)), 0);
    }
  };
}

function remember(model: Model, key: string, bytes: Uint8Array, etag: string): void {
  const before = model.objects.get(key);
  if (before !== undefined && Buffer.compare(before.bytes, bytes) !== 0) {
    assert.notEqual(etag, before.etag, "an ETag must change with the content");
  }
  if (before !== undefined) model.pastEtags.set(key, before.etag);
  model.objects.set(key, { bytes, etag });
}

async function compare(store: ObjectStore, model: Model): Promise<void> {
  const infos = await Array.fromAsync(store.list(""));
  const keys = [...model.objects.keys()].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  assert.deepEqual(
    infos.map((info) => info.key),
    keys,
  );
  for (const info of infos) {
    const known = model.objects.get(info.key);
    assert.equal(info.etag, known?.etag);
    const found = await store.get(info.key, 100_000);
    assert.equal(Buffer.compare(found?.bytes ?? new Uint8Array(0), known?.bytes ?? new Uint8Array(0)), 0);
    assert.equal(found?.etag, info.etag);
  }
}
