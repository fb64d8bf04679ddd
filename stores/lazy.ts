// A store that is made at its first use. The S3 client takes a tenth of a second and 40 MB to load, in every thread;
// who works on folders alone shall not pay for it.
import type { ObjectStore } from "./store.ts";

/** The store that has those properties, made once, when something is asked of it. */
export function createLazyStore(
  { uri, isLocal }: Pick<ObjectStore, "uri" | "isLocal">,
  make: () => Promise<ObjectStore>,
): ObjectStore {
  let made: Promise<ObjectStore> | undefined;
  const get = () => {
    made ??= make();
    return made;
  };
  return Object.freeze({
    uri,
    isLocal,
    head: async (key, o) => (await get()).head(key, o),
    readInto: async (key, offset, into, o) => (await get()).readInto(key, offset, into, o),
    get: async (key, limitBytes, o) => (await get()).get(key, limitBytes, o),
    async *list(prefix, o) {
      yield* (await get()).list(prefix, o);
    },
    create: async (key, bytes, o) => (await get()).create(key, bytes, o),
    replace: async (key, bytes, etag, o) => (await get()).replace(key, bytes, etag, o),
    beginWrite: async (key, bytes, regions, o) => (await get()).beginWrite(key, bytes, regions, o),
    openRegion: async (ticket, index, o) => (await get()).openRegion(ticket, index, o),
    finishWrite: async (ticket, receipts, o) => (await get()).finishWrite(ticket, receipts, o),
    recoverRegions: async (ticket, o) => (await get()).recoverRegions(ticket, o),
    abortWrite: async (ticket, o) => (await get()).abortWrite(ticket, o),
    copy: async (source, target, o) => (await get()).copy(source, target, o),
    delete: async (key, o) => (await get()).delete(key, o),
  } satisfies ObjectStore);
}
