// Retries: a bounded number of attempts with growing, jittered pauses, for errors that the table of codes calls
// retryable. The only retry layer there is: clients below make one attempt each, so that attempts do not multiply.
//
// A conditional write whose answer was lost may have taken effect, so that its repetition meets its own success. All
// its attempts therefore carry one write id, by which the store tells its own object from a foreign one. Comparing
// bodies is not enough: two writers of a counter write equal bytes, and both would believe that theirs counted.
// `finishWrite` may be repeated by the stores' own promise. Bytes appended to a region cannot be: a store repeats
// those below this layer, or not at all. A repeated `beginWrite` may leave an unused reservation, which every store
// removes after some days.
import { randomInt, randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { MergeyardError } from "../core/error.ts";
import type { ObjectInfo, ObjectStore, StoreOptions } from "./store.ts";

export type RetryPolicy = {
  /** Attempts in all, the first included. */
  readonly attemptsMax: number;
  /** The pause before the second attempt, doubled before each further one. */
  readonly delayMs: number;
  readonly delayMsMax: number;
  /** In [0, 1): spreads the pauses of many workers between half and the whole of their length. */
  readonly random: () => number;
};

/** 7 attempts over about 15 s: longer than S3 takes to split a busy prefix's traffic, shorter than a unit. */
export const DEFAULT_RETRY_POLICY: RetryPolicy = Object.freeze({
  attemptsMax: 7,
  delayMs: 200,
  delayMsMax: 10_000,
  random: () => randomInt(2 ** 32) / 2 ** 32,
});

/** Runs an operation until it succeeds, fails for good, or has been tried `attemptsMax` times. */
export async function withRetries<T>(
  policy: RetryPolicy,
  signal: AbortSignal | undefined,
  operation: () => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    signal?.throwIfAborted();
    try {
      return await operation();
    } catch (error) {
      if (!isRetryable(error) || attempt >= policy.attemptsMax) throw error;
    }
    await pauseFor(delayBefore(policy, attempt), signal);
  }
}

function delayBefore(policy: RetryPolicy, attempt: number): number {
  const whole = Math.min(policy.delayMsMax, policy.delayMs * 2 ** (attempt - 1));
  return whole * (0.5 + 0.5 * policy.random());
}

async function pauseFor(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  await pause(delayMs, undefined, { signal }).catch((error: unknown) => {
    signal?.throwIfAborted();
    throw error;
  });
}

function isRetryable(error: unknown): boolean {
  return error instanceof MergeyardError && error.retryable;
}

/** The same store, repeating what may be repeated. */
export function createRetryStore(store: ObjectStore, policy: RetryPolicy = DEFAULT_RETRY_POLICY): ObjectStore {
  const retry = <T>(options: StoreOptions | undefined, operation: () => Promise<T>) => {
    return withRetries(policy, options?.signal, operation);
  };
  return Object.freeze({
    uri: store.uri,
    isLocal: store.isLocal,
    head: (key, o) => retry(o, () => store.head(key, o)),
    readInto: (key, offset, into, o) => retry(o, () => store.readInto(key, offset, into, o)),
    get: (key, limitBytes, o) => retry(o, () => store.get(key, limitBytes, o)),
    list: (prefix, o) => listAgain(store, policy, prefix, o),
    create(key, bytes, o) {
      const options = { ...o, writeId: o?.writeId ?? randomUUID() };
      return retry(o, () => store.create(key, bytes, options));
    },
    replace(key, bytes, etag, o) {
      const options = { ...o, writeId: o?.writeId ?? randomUUID() };
      return retry(o, () => store.replace(key, bytes, etag, options));
    },
    beginWrite: (key, bytes, regions, o) => retry(o, () => store.beginWrite(key, bytes, regions, o)),
    openRegion: (ticket, index, o) => retry(o, () => store.openRegion(ticket, index, o)),
    finishWrite: (ticket, receipts, o) => retry(o, () => store.finishWrite(ticket, receipts, o)),
    recoverRegions: (ticket, o) => retry(o, () => store.recoverRegions(ticket, o)),
    abortWrite: (ticket, o) => retry(o, () => store.abortWrite(ticket, o)),
    copy: (source, target, o) => retry(o, () => store.copy(source, target, o)),
    delete: (key, o) => retry(o, () => store.delete(key, o)),
  } satisfies ObjectStore);
}

/** A listing that begins again after a failure and leaves out what it gave already. */
async function* listAgain(
  store: ObjectStore,
  policy: RetryPolicy,
  prefix: string,
  options: StoreOptions | undefined,
): AsyncGenerator<ObjectInfo> {
  let last: Buffer | undefined;
  for (let attempt = 1; ; attempt++) {
    try {
      for await (const info of store.list(prefix, options)) {
        const order = Buffer.from(info.key);
        if (last !== undefined && Buffer.compare(order, last) <= 0) continue;
        last = order;
        attempt = 1;
        yield info;
      }
      return;
    } catch (error) {
      if (!isRetryable(error) || attempt >= policy.attemptsMax) throw error;
    }
    await pauseFor(delayBefore(policy, attempt), options?.signal);
  }
}
