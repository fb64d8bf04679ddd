// What callers of a store do again and again, on the interface alone: whole documents, whole files, copies from store
// to store. Memory stays bounded by the limit or by one buffer, whatever the size of the object.
import type * as z from "zod";
import { MergeyardError } from "../core/error.ts";
import { objectMissing } from "./errors.ts";
import type { ObjectInfo, ObjectStore, Region, RegionReceipt, StoreOptions, WriteTicket } from "./store.ts";

/** Bytes in flight while an object is copied from store to store. Too low: more requests; too high: memory. */
const COPY_BYTES = 8 * 1024 * 1024;

/** A document and the ETag that `replace` needs. */
export type Found<T> = { readonly value: T; readonly etag: string };

/** The bytes of a whole small object. Throws StoreObjectMissing, StoreObjectTooLarge. */
export async function readAll(
  store: ObjectStore,
  key: string,
  limitBytes: number,
  options?: StoreOptions,
): Promise<Uint8Array> {
  const object = await store.get(key, limitBytes, options);
  if (object === undefined) throw objectMissing(store.uri, key);
  return object.bytes;
}

/** `bytes` bytes from `offset` on, in memory of their own. Throws what the store throws; nothing is read for none. */
export async function readRange(
  store: ObjectStore,
  key: string,
  offset: number,
  bytes: number,
  options?: StoreOptions,
): Promise<Uint8Array> {
  const into = new Uint8Array(bytes);
  if (bytes > 0) await store.readInto(key, offset, into, options);
  return into;
}

/**
 * A JSON document, checked against its schema.
 * Throws StoreObjectMissing, StoreObjectTooLarge, and StoreJsonInvalid (with the path of the first wrong field).
 */
export async function readJson<Schema extends z.ZodType>(
  store: ObjectStore,
  key: string,
  schema: Schema,
  limitBytes: number,
  options?: StoreOptions,
): Promise<z.output<Schema>> {
  const found = await findJson(store, key, schema, limitBytes, options);
  if (found === undefined) throw objectMissing(store.uri, key);
  return found.value;
}

/** The same with its ETag; undefined when there is no such object. */
export async function findJson<Schema extends z.ZodType>(
  store: ObjectStore,
  key: string,
  schema: Schema,
  limitBytes: number,
  options?: StoreOptions,
): Promise<Found<z.output<Schema>> | undefined> {
  const object = await store.get(key, limitBytes, options);
  if (object === undefined) return undefined;
  const result = schema.safeParse(parseJson(store, key, object.bytes));
  if (result.success) return { value: result.data, etag: object.etag };
  const issue = result.error.issues[0];
  const where = { store: store.uri, file: key, field: issue?.path.map(String).join(".") ?? "" };
  throw new MergeyardError("StoreJsonInvalid", { where, found: issue?.message, cause: result.error });
}

function parseJson(store: ObjectStore, key: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : undefined;
    throw new MergeyardError("StoreJsonInvalid", { where: { store: store.uri, file: key }, found, cause });
  }
}

/**
 * Makes a large object of regions: it is visible when `write` has resolved to what was made of each, in order, and
 * nothing is left behind when it rejects. That what was begun cannot be taken away any more is not the error to show.
 */
export async function writeRegions<Result extends { readonly receipt: RegionReceipt }>(
  store: ObjectStore,
  { key, bytes, regions }: { readonly key: string; readonly bytes: number; readonly regions: readonly Region[] },
  options: StoreOptions | undefined,
  write: (ticket: WriteTicket) => Promise<readonly Result[]>,
): Promise<{ readonly info: ObjectInfo; readonly results: readonly Result[] }> {
  const spans = regions.map(({ offset, bytes }) => ({ offset, bytes }));
  const ticket = await store.beginWrite(key, bytes, spans, options);
  try {
    const results = await write(ticket);
    const receipts = results.map(({ receipt }) => receipt);
    return { info: await store.finishWrite(ticket, receipts, options), results };
  } catch (error) {
    await store.abortWrite(ticket).catch(() => undefined);
    throw error;
  }
}

/**
 * Writes a large object from its start to its end, overwriting; the caller owns the key. `bytes` must be the exact
 * size: StoreRegionIncomplete otherwise. After any failure nothing is visible and nothing is left behind.
 */
export async function writeObject(
  store: ObjectStore,
  key: string,
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  bytes: number,
  options?: StoreOptions,
): Promise<ObjectInfo> {
  const place = { key, bytes, regions: bytes === 0 ? [] : [{ offset: 0, bytes }] };
  const { info } = await writeRegions(store, place, options, async (ticket) => {
    if (bytes === 0) {
      for await (const piece of pieces) if (piece.byteLength > 0) throw tooManyBytes(store, key, piece.byteLength);
      return [];
    }
    const writer = await store.openRegion(ticket, 0, options);
    for await (const piece of pieces) await writer.write(piece);
    return [{ receipt: await writer.close() }];
  });
  return info;
}

/** Writes a whole large object from memory, as `writeObject` does. */
export async function writeBytes(
  store: ObjectStore,
  key: string,
  bytes: Uint8Array,
  options?: StoreOptions,
): Promise<ObjectInfo> {
  return writeObject(store, key, [bytes], bytes.byteLength, options);
}

/**
 * Copies an object to another store, streaming; within one store the store copies by itself. Throws StoreObjectMissing,
 * and StoreObjectChanged when the source did not stay the same meanwhile.
 */
export async function copyAcross(
  source: ObjectStore,
  sourceKey: string,
  target: ObjectStore,
  targetKey: string,
  options?: StoreOptions,
): Promise<ObjectInfo> {
  if (source.uri === target.uri) return await target.copy(sourceKey, targetKey, options);
  const before = await source.head(sourceKey, options);
  if (before === undefined) throw objectMissing(source.uri, sourceKey);
  return await writeObject(target, targetKey, readPieces(source, before, options), before.bytes, options);
}

async function* readPieces(source: ObjectStore, info: ObjectInfo, options?: StoreOptions): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(Math.min(COPY_BYTES, info.bytes));
  for (let offset = 0; offset < info.bytes; offset += buffer.byteLength) {
    const piece = buffer.subarray(0, Math.min(buffer.byteLength, info.bytes - offset));
    await source.readInto(info.key, offset, piece, options);
    yield piece;
  }
  const after = await source.head(info.key, options);
  if (after?.etag !== info.etag) {
    const where = { store: source.uri, file: info.key };
    throw new MergeyardError("StoreObjectChanged", { where, found: after?.etag ?? "nothing", expected: info.etag });
  }
}

function tooManyBytes(store: ObjectStore, key: string, found: number): MergeyardError {
  const where = { store: store.uri, file: key };
  return new MergeyardError("StoreRegionIncomplete", { where, found: `${found} bytes`, expected: "0 bytes" });
}
