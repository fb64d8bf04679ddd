// The yard's small JSON records (receipts, results, channels, cache entries): how they are written and read.
import type * as z from "zod";
import { digestBytes } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import { mapBounded } from "../core/map-bounded.ts";
import { type Found, findJson, readAll } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";

/** A record with its ETag, undefined when there is none. Throws StoreJsonInvalid when it was damaged. */
export function readRecord<Schema extends z.ZodType>(
  store: ObjectStore,
  key: string,
  schema: Schema,
  signal?: AbortSignal,
): Promise<Found<z.output<Schema>> | undefined> {
  return findJson(store, key, schema, STORE_LIMITS.conditionalBytes, { signal });
}

/** Those of some records that are there, in the order of their keys. Throws StoreJsonInvalid when one was damaged. */
export async function readRecords<Schema extends z.ZodType>(
  store: ObjectStore,
  keys: readonly string[],
  schema: Schema,
  signal?: AbortSignal,
): Promise<readonly z.output<Schema>[]> {
  const found = await mapBounded(keys, (key) => readRecord(store, key, schema, signal));
  return found.flatMap((record) => (record === undefined ? [] : [record.value]));
}

/** Keys of the objects whose key starts with `prefix`, in their order. */
export async function listKeys(store: ObjectStore, prefix: string, signal?: AbortSignal): Promise<readonly string[]> {
  return Array.fromAsync(store.list(prefix, { signal }), ({ key }) => key);
}

/** UTF-8 JSON of a record, one field a line, ending in a newline. */
export function encodeRecord(value: unknown): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 1)}\n`);
}

/**
 * Creates an object whose key is made from its content; that it is there already is fine, other bytes under the same
 * key are not. Throws YardNameConflict. Returns whether this call created it.
 */
export async function createOnce(
  store: ObjectStore,
  key: string,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<boolean> {
  if ((await store.create(key, bytes, { signal })).created) return true;
  const there = await readAll(store, key, STORE_LIMITS.conditionalBytes, { signal });
  if (Buffer.compare(there, bytes) === 0) return false;
  throw new MergeyardError("YardNameConflict", {
    where: { store: store.uri, file: key },
    found: digestBytes(there),
    expected: digestBytes(bytes),
  });
}

/** Writes a small object over the one that may be there; when another writer is at it, one of the two stays. */
export async function overwrite(
  store: ObjectStore,
  key: string,
  bytes: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  const { created, etag } = await store.create(key, bytes, { signal });
  if (!created) await store.replace(key, bytes, etag, { signal });
}
