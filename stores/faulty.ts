// A store that fails on purpose, for tests: seeded faults at a given rate, and a crash at the n-th operation. Faults
// are those of real stores (no answer, a lost answer, a cut connection, a conflict, slowness). Appending to a region
// is never at fault by rate, because nothing above a store may repeat it; it counts for the crash.
import { setTimeout as pause } from "node:timers/promises";
import { MergeyardError } from "../core/error.ts";
import type { ConditionalOptions, ObjectStore, RegionWriter } from "./store.ts";

/**
 * before: fails without effect; after: takes effect, then fails; cut: as before, but a read has filled half its bytes;
 * conflict: another writer is said to be at work; delay: answers a few milliseconds late.
 */
export type Fault = "before" | "after" | "cut" | "conflict" | "delay";

export type FaultPlan = {
  readonly seed: number;
  /** Share of the operations that meet a fault, from 0 to 1. */
  readonly rate: number;
  readonly faults: readonly Fault[];
  /** The operation, counted from 1, at which `crash` is called, before or after its effect; it must not return. */
  readonly crash?: { readonly at: number; readonly when: "before" | "after"; readonly act: () => never };
};

/** The store with faults, and counts of what happened. */
export type FaultyStore = { readonly store: ObjectStore; readonly counts: { operations: number; faults: number } };

/** Objects between two possible faults of a listing. */
const LIST_PAGE = 500;

/** Wraps a store. The same plan and the same sequence of calls meet the same faults. */
export function createFaultyStore(store: ObjectStore, plan: FaultPlan): FaultyStore {
  const counts = { operations: 0, faults: 0 };
  const random = createRandom(plan.seed);
  const draw = (): Fault | undefined => {
    if (random() >= plan.rate) return undefined;
    counts.faults += 1;
    return plan.faults[Math.floor(random() * plan.faults.length)];
  };
  const counted = async <T>(operation: () => Promise<T>): Promise<T> => {
    counts.operations += 1;
    const isCrash = plan.crash?.at === counts.operations;
    if (isCrash && plan.crash?.when === "before") plan.crash.act();
    const result = await operation();
    if (isCrash) plan.crash?.act();
    return result;
  };
  const run = async <T>(key: string, operation: () => Promise<T>, half?: () => Promise<void>): Promise<T> => {
    const fault = draw();
    if (fault === "delay") await pause(random() * 5);
    if (fault === "cut") await half?.();
    if (fault === "before" || fault === "cut") throw unavailable(store, key);
    if (fault === "conflict") throw new MergeyardError("StoreConflict", { where: { store: store.uri, file: key } });
    const result = await counted(operation);
    if (fault === "after") throw unavailable(store, key);
    return result;
  };
  return { store: wrapOperations(store, run, counted), counts };
}

type Run = <T>(key: string, operation: () => Promise<T>, half?: () => Promise<void>) => Promise<T>;
type Counted = <T>(operation: () => Promise<T>) => Promise<T>;

function wrapOperations(store: ObjectStore, run: Run, counted: Counted): ObjectStore {
  // A store that can fail after taking effect must know its writes again; here in memory, in S3 in the object itself.
  const written = new Map<string, string>();
  const note = (options: ConditionalOptions | undefined, etag: string) => {
    if (options?.writeId !== undefined) written.set(options.writeId, etag);
  };
  const recall = async (key: string, options: ConditionalOptions | undefined) => {
    const etag = written.get(options?.writeId ?? "");
    return etag !== undefined && (await store.head(key, options))?.etag === etag ? etag : undefined;
  };
  return Object.freeze({
    uri: store.uri,
    isLocal: store.isLocal,
    head: (key, o) => run(key, () => store.head(key, o)),
    readInto(key, offset, into, o) {
      const half = into.subarray(0, Math.floor(into.byteLength / 2));
      const read = (part: Uint8Array) => store.readInto(key, offset, part, o);
      return run(
        key,
        () => read(into),
        () => read(half),
      );
    },
    get: (key, limitBytes, o) => run(key, () => store.get(key, limitBytes, o)),
    async *list(prefix, o) {
      let count = 0;
      for await (const info of store.list(prefix, o)) {
        if (count % LIST_PAGE === 0) await run(prefix, async () => undefined);
        count += 1;
        yield info;
      }
    },
    create: (key, bytes, o) =>
      run(key, async () => {
        const known = await recall(key, o);
        if (known !== undefined) return { created: true, etag: known };
        const result = await store.create(key, bytes, o);
        if (result.created) note(o, result.etag);
        return result;
      }),
    replace: (key, bytes, etag, o) =>
      run(key, async () => {
        const known = await recall(key, o);
        if (known !== undefined) return { replaced: true, etag: known };
        const result = await store.replace(key, bytes, etag, o);
        if (result.replaced) note(o, result.etag);
        return result;
      }),
    beginWrite: (key, bytes, regions, o) => run(key, () => store.beginWrite(key, bytes, regions, o)),
    openRegion: (ticket, index, o) =>
      run(ticket.key, async () => wrapWriter(await store.openRegion(ticket, index, o), counted)),
    finishWrite: (ticket, receipts, o) => run(ticket.key, () => store.finishWrite(ticket, receipts, o)),
    recoverRegions: (ticket, o) => run(ticket.key, () => store.recoverRegions(ticket, o)),
    abortWrite: (ticket, o) => run(ticket.key, () => store.abortWrite(ticket, o)),
    copy: (source, target, o) => run(source, () => store.copy(source, target, o)),
    delete: (key, o) => run(key, () => store.delete(key, o)),
  } satisfies ObjectStore);
}

function wrapWriter(writer: RegionWriter, counted: Counted): RegionWriter {
  return { write: (bytes) => counted(() => writer.write(bytes)), close: () => counted(() => writer.close()) };
}

function unavailable(store: ObjectStore, key: string): MergeyardError {
  return new MergeyardError("StoreUnavailable", {
    where: { store: store.uri, file: key },
    found: "a fault of the test",
  });
}

/** Mulberry32: numbers in [0, 1), the same for the same seed. */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
