// Distrust of a server that is not known to keep S3's promises (some store a body changed, some ignore conditions):
// what was written is looked at again. Small objects are read back and compared; large ones and copies must have the
// size that was written; and the first object created through this wrapper is created a second time, which must fail.
import { hasCode, MergeyardError } from "../core/error.ts";
import type { ObjectInfo, ObjectStore, StoreOptions } from "./store.ts";

/** The same store, checking what it says it did. Throws StoreContentMismatch, StoreConditionIgnored. */
export function createVerifyStore(store: ObjectStore): ObjectStore {
  let hasTriedCondition = false;
  return Object.freeze({
    ...store,
    async create(key, bytes, options) {
      const result = await store.create(key, bytes, options);
      if (!result.created) return result;
      if (!hasTriedCondition) {
        await refuseIgnoredCondition(store, key, bytes, options);
        hasTriedCondition = true;
      }
      await compareContent(store, key, bytes, result.etag, options);
      return result;
    },
    async replace(key, bytes, etag, options) {
      const result = await store.replace(key, bytes, etag, options);
      if (result.replaced) await compareContent(store, key, bytes, result.etag, options);
      return result;
    },
    async finishWrite(ticket, receipts, options) {
      const info = await store.finishWrite(ticket, receipts, options);
      compareSize(store, info, ticket.bytes);
      return info;
    },
    async copy(sourceKey, targetKey, options) {
      const source = await store.head(sourceKey, options);
      const info = await store.copy(sourceKey, targetKey, options);
      if (source !== undefined) compareSize(store, info, source.bytes);
      return info;
    },
  } satisfies ObjectStore);
}

/** The same bytes again, so that nothing is lost on a server that takes them. */
async function refuseIgnoredCondition(
  store: ObjectStore,
  key: string,
  bytes: Uint8Array,
  options: StoreOptions | undefined,
): Promise<void> {
  const again = await store.create(key, bytes, options);
  if (again.created) throw new MergeyardError("StoreConditionIgnored", { where: { store: store.uri, file: key } });
}

async function compareContent(
  store: ObjectStore,
  key: string,
  bytes: Uint8Array,
  etag: string,
  options: StoreOptions | undefined,
): Promise<void> {
  const found = await store.get(key, bytes.byteLength, options).catch(async (error: unknown) => {
    const info = hasCode(error, "StoreObjectTooLarge") ? await store.head(key, options) : undefined;
    if (info === undefined) throw error;
    return { bytes: undefined, etag: info.etag };
  });
  if (found === undefined) throw mismatch(store, key, "nothing", `${bytes.byteLength} bytes`);
  // Another writer may have replaced it since; only the version that we wrote is ours to judge.
  if (found.etag !== etag) return;
  const isSame = found.bytes !== undefined && Buffer.compare(found.bytes, bytes) === 0;
  if (!isSame) throw mismatch(store, key, "other bytes", "the bytes written");
}

function compareSize(store: ObjectStore, info: ObjectInfo, bytes: number): void {
  if (info.bytes !== bytes) throw mismatch(store, info.key, `${info.bytes} bytes`, `${bytes} bytes`);
}

function mismatch(store: ObjectStore, key: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("StoreContentMismatch", { where: { store: store.uri, file: key }, found, expected });
}
