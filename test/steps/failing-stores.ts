// Stores that fail while they are written to: a machine that dies at the n-th write, and a disk that is full from the
// n-th write on. Reads go through; only what changes the store counts.
import { MergeyardError } from "../../core/error.ts";
import type { ObjectStore, RegionWriter } from "../../stores/store.ts";

/** Called with the number of the write, counted from 1, before and after it takes effect. */
type Watch = { readonly before: (write: number) => void; readonly after: (write: number) => void };

/** Wraps every operation that changes the store. */
function watchWrites(store: ObjectStore, watch: Watch): { readonly store: ObjectStore; readonly writes: () => number } {
  let writes = 0;
  const counted = async <T>(operation: () => Promise<T>): Promise<T> => {
    writes += 1;
    const write = writes;
    watch.before(write);
    const result = await operation();
    watch.after(write);
    return result;
  };
  const wrapRegion = (region: RegionWriter): RegionWriter => ({
    write: (bytes) => counted(() => region.write(bytes)),
    close: () => region.close(),
  });
  const wrapped: ObjectStore = {
    ...store,
    create: (key, bytes, options) => counted(() => store.create(key, bytes, options)),
    replace: (key, bytes, etag, options) => counted(() => store.replace(key, bytes, etag, options)),
    beginWrite: (key, bytes, regions, options) => counted(() => store.beginWrite(key, bytes, regions, options)),
    openRegion: async (ticket, index, options) => wrapRegion(await store.openRegion(ticket, index, options)),
    finishWrite: (ticket, receipts, options) => counted(() => store.finishWrite(ticket, receipts, options)),
    copy: (source, target, options) => counted(() => store.copy(source, target, options)),
    delete: (key, options) => counted(() => store.delete(key, options)),
  };
  return { store: wrapped, writes: () => writes };
}

/** The error of a machine that is gone. */
export class Crash extends Error {}

/** A store whose machine dies before or after its n-th write: nothing it is asked for afterwards happens. */
export function createDyingStore(store: ObjectStore, at: number, when: "before" | "after") {
  let isDead = false;
  const die = (): never => {
    isDead = true;
    throw new Crash(`${when} write ${at}`);
  };
  const watched = watchWrites(store, {
    before: (write) => {
      if (isDead || (write === at && when === "before")) die();
    },
    after: (write) => {
      if (write === at && when === "after") die();
    },
  });
  return { ...watched, isDead: () => isDead };
}

/** A store on a disk that is full from the n-th write on. */
export function createFullStore(store: ObjectStore, from: number) {
  let met = 0;
  const watched = watchWrites(store, {
    before: (write) => {
      if (write < from) return;
      met += 1;
      throw new MergeyardError("StoreFull", { where: { store: store.uri } });
    },
    after: () => undefined,
  });
  return { ...watched, met: () => met };
}
