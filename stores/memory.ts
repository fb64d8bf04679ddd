// The object store in memory, for tests: the same promises as the others, kept by plain maps. Two stores of one name in
// one process (or one thread of it) are the same store, as two stores of one URI must be.
import assert from "node:assert/strict";
import { digestBytes } from "../core/artifact/digest.ts";
import { checkKey, checkPrefix } from "../core/artifact/key.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import { objectMissing, shortRead, tooLarge, unknownTicket } from "./errors.ts";
import { assertRegions, checkReceipts, regionMismatch, regionOf } from "./regions.ts";
import type { ObjectInfo, ObjectStore, RegionWriter, StoreOptions, WriteTicket } from "./store.ts";

type Stored = { readonly bytes: Uint8Array; readonly etag: string; readonly modifiedMs: number };

type Contents = {
  readonly uri: string;
  readonly objects: Map<string, Stored>;
  /** Large objects being written, by token; what became of it once finished. */
  readonly writes: Map<string, Uint8Array | "finished">;
  /** Indexes of the regions that were closed whole, by token. */
  readonly closed: Map<string, Set<number>>;
  /** Counts writes, so that no ETag and no token is given twice. */
  versions: number;
};

const FIRST_MS = Date.UTC(2026, 0, 1);

const named = new Map<string, Contents>();

/** The store of that name in this process, empty when it is new. */
export function createMemoryStore(name: string): ObjectStore {
  const contents = named.get(name) ?? emptyContents(`memory://${name}`);
  named.set(name, contents);
  return Object.freeze({
    uri: contents.uri,
    isLocal: true,
    async head(key, options) {
      const stored = find(contents, key, options);
      return stored && toInfo(key, stored);
    },
    readInto: async (key, offset, into, options) => readStored(contents, key, offset, into, options),
    async get(key, limitBytes, options) {
      const stored = find(contents, key, options);
      if (stored === undefined) return undefined;
      checkSize(contents, key, stored.bytes.byteLength, limitBytes);
      return { bytes: stored.bytes.slice(), etag: stored.etag };
    },
    list: (prefix, options) => listStored(contents, prefix, options),
    async create(key, bytes, options) {
      const stored = find(contents, key, options);
      checkSize(contents, key, bytes.byteLength, STORE_LIMITS.conditionalBytes);
      if (stored !== undefined) return { created: false, etag: stored.etag };
      return { created: true, etag: put(contents, key, bytes.slice()).etag };
    },
    async replace(key, bytes, etag, options) {
      const stored = find(contents, key, options);
      checkSize(contents, key, bytes.byteLength, STORE_LIMITS.conditionalBytes);
      if (stored === undefined || stored.etag !== etag) return { replaced: false, etag: stored?.etag ?? "" };
      return { replaced: true, etag: put(contents, key, bytes.slice()).etag };
    },
    async beginWrite(key, bytes, regions, options) {
      find(contents, key, options);
      assertRegions(bytes, regions);
      contents.versions += 1;
      const token = `write-${contents.versions}`;
      contents.writes.set(token, new Uint8Array(bytes));
      return { key, bytes, regions, token };
    },
    openRegion: async (ticket, index, options) => openStoredRegion(contents, ticket, index, options),
    async finishWrite(ticket, receipts, options) {
      const before = find(contents, ticket.key, options);
      checkReceipts(ticket, receipts);
      const bytes = contents.writes.get(ticket.token);
      if (bytes === "finished" && before !== undefined) return toInfo(ticket.key, before);
      if (bytes === undefined || bytes === "finished") throw unknownTicket(contents.uri, ticket);
      contents.writes.set(ticket.token, "finished");
      return toInfo(ticket.key, put(contents, ticket.key, bytes));
    },
    async recoverRegions(ticket, options) {
      find(contents, ticket.key, options);
      if (!(contents.writes.get(ticket.token) instanceof Uint8Array)) throw unknownTicket(contents.uri, ticket);
      return [...(contents.closed.get(ticket.token) ?? [])].map((index) => ({ index, parts: [] }));
    },
    async abortWrite(ticket) {
      if (contents.writes.get(ticket.token) !== "finished") contents.writes.delete(ticket.token);
    },
    async copy(sourceKey, targetKey, options) {
      const stored = find(contents, sourceKey, options);
      checkKey(targetKey);
      if (stored === undefined) throw objectMissing(contents.uri, sourceKey);
      return toInfo(targetKey, put(contents, targetKey, stored.bytes));
    },
    async delete(key, options) {
      find(contents, key, options);
      contents.objects.delete(key);
    },
  } satisfies ObjectStore);
}

function emptyContents(uri: string): Contents {
  return { uri, objects: new Map(), writes: new Map(), closed: new Map(), versions: 0 };
}

function find(contents: Contents, key: string, options: StoreOptions | undefined): Stored | undefined {
  options?.signal?.throwIfAborted();
  return contents.objects.get(checkKey(key));
}

function put(contents: Contents, key: string, bytes: Uint8Array): Stored {
  contents.versions += 1;
  const etag = `${contents.versions}-${digestBytes(bytes).slice(7, 23)}`;
  // A clock that ticks a second with each write, so that tests see the same times in every run.
  const stored = { bytes, etag, modifiedMs: FIRST_MS + contents.versions * 1000 };
  contents.objects.set(key, stored);
  return stored;
}

function toInfo(key: string, stored: Stored): ObjectInfo {
  return { key, bytes: stored.bytes.byteLength, etag: stored.etag, modifiedMs: stored.modifiedMs };
}

function readStored(contents: Contents, key: string, offset: number, into: Uint8Array, options?: StoreOptions): void {
  assert.ok(Number.isSafeInteger(offset) && offset >= 0, `offset ${offset}`);
  const stored = find(contents, key, options);
  if (stored === undefined) throw objectMissing(contents.uri, key);
  const part = stored.bytes.subarray(offset, offset + into.byteLength);
  if (part.byteLength < into.byteLength) {
    throw shortRead(contents.uri, key, offset, part.byteLength, into.byteLength);
  }
  into.set(part);
}

async function* listStored(contents: Contents, prefix: string, options?: StoreOptions): AsyncGenerator<ObjectInfo> {
  checkPrefix(prefix);
  const keys = [...contents.objects.keys()].filter((key) => key.startsWith(prefix));
  keys.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  for (const key of keys) {
    const stored = find(contents, key, options);
    if (stored !== undefined) yield toInfo(key, stored);
  }
}

function openStoredRegion(
  contents: Contents,
  ticket: WriteTicket,
  index: number,
  options?: StoreOptions,
): RegionWriter {
  const region = regionOf(ticket, index);
  const target = () => {
    options?.signal?.throwIfAborted();
    const bytes = contents.writes.get(ticket.token);
    if (bytes === undefined || bytes === "finished") throw unknownTicket(contents.uri, ticket);
    return bytes;
  };
  target();
  let written = 0;
  return {
    async write(bytes) {
      if (written + bytes.byteLength > region.bytes) throw regionMismatch(ticket, index, written + bytes.byteLength);
      target().set(bytes, region.offset + written);
      written += bytes.byteLength;
    },
    async close() {
      if (written !== region.bytes) throw regionMismatch(ticket, index, written);
      const closed = contents.closed.get(ticket.token) ?? new Set();
      contents.closed.set(ticket.token, closed.add(index));
      return { index, parts: [] };
    },
  };
}

function checkSize(contents: Contents, key: string, found: number, limit: number): void {
  if (found > limit) throw tooLarge(contents.uri, key, found, limit);
}
