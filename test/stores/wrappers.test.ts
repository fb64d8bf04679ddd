// The wrappers themselves: what is tried again and how often, what verification notices, that faults repeat.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import { createFaultyStore, type Fault } from "../../stores/faulty.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { createRetryStore, withRetries } from "../../stores/retry.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createVerifyStore } from "../../stores/verify.ts";
import { rejectsWith } from "./conformance.ts";
import { patterned } from "./patterned.ts";

const policy = { attemptsMax: 4, delayMs: 1, delayMsMax: 2, random: () => 0.5 };
const newStore = () => createMemoryStore(randomUUID());
const unavailable = () => new MergeyardError("StoreUnavailable");

test("a retryable failure is tried as often as the policy says, another one never", async () => {
  for (const [error, attempts] of [
    [unavailable(), 4],
    [new MergeyardError("StoreConflict"), 4],
    [new MergeyardError("StoreAccessDenied"), 1],
    [new TypeError("a bug"), 1],
  ] as const) {
    let count = 0;
    const failing = async () => {
      count += 1;
      throw error;
    };
    await assert.rejects(withRetries(policy, undefined, failing), error);
    assert.equal(count, attempts);
  }
});

test("pauses grow to their bound and are spread by the given random numbers", async () => {
  const delays: number[] = [];
  const slow = { attemptsMax: 5, delayMs: 8, delayMsMax: 20, random: () => 0 };
  let last = performance.now();
  await withRetries(slow, undefined, async () => {
    delays.push(performance.now() - last);
    last = performance.now();
    throw unavailable();
  }).catch(() => undefined);
  // Half of 8, 16, 20, 20; timers may be a millisecond early and any time late.
  for (const [index, atLeast] of [0, 4, 8, 10, 10].entries()) assert.ok((delays[index] ?? 0) > atLeast - 1.5);
});

test("an abort ends the pause at once, with the caller's reason", async () => {
  const controller = new AbortController();
  const waiting = withRetries({ ...policy, delayMs: 60_000, delayMsMax: 60_000 }, controller.signal, async () => {
    setTimeout(() => controller.abort(new Error("enough")), 5);
    throw unavailable();
  });
  await assert.rejects(waiting, /enough/);
});

test("all attempts of one conditional write carry one id, and each write its own", async () => {
  const ids: string[] = [];
  const store = newStore();
  const losing: ObjectStore = {
    ...store,
    async create(key, bytes, options) {
      ids.push(options?.writeId ?? "");
      if (ids.length % 2 === 1) throw unavailable();
      return await store.create(key, bytes, options);
    },
    async replace(key, bytes, etag, options) {
      ids.push(options?.writeId ?? "");
      if (ids.length % 2 === 1) throw unavailable();
      return await store.replace(key, bytes, etag, options);
    },
  };
  const retrying = createRetryStore(losing, policy);
  const { etag } = await retrying.create("a", patterned(10, 1));
  await retrying.replace("a", patterned(10, 2), etag);
  await retrying.create("b", patterned(10, 1));
  assert.equal(ids.length, 6);
  assert.deepEqual([ids[0], ids[2], ids[4]], [ids[1], ids[3], ids[5]]);
  assert.equal(new Set(ids).size, 3);
});

test("a create whose answer was lost is known again, a foreign object of equal bytes is not", async () => {
  const [store, ids] = [newStore(), new Map<string, string>()];
  const losing: ObjectStore = {
    ...store,
    async create(key, bytes, options) {
      const known = ids.get(options?.writeId ?? "");
      if (known !== undefined) return { created: true, etag: known };
      const { etag } = await store.create(key, bytes, options);
      ids.set(options?.writeId ?? "", etag);
      throw unavailable();
    },
  };
  assert.equal((await createRetryStore(losing, policy).create("claim", patterned(10))).created, true);
  const inner = newStore();
  await inner.create("claim", patterned(10));
  let calls = 0;
  const unreached: ObjectStore = {
    ...inner,
    async create(key, bytes, options) {
      calls += 1;
      if (calls === 1) throw unavailable();
      return await inner.create(key, bytes, options);
    },
  };
  assert.equal((await createRetryStore(unreached, policy).create("claim", patterned(10))).created, false);
});

test("a listing that breaks off goes on after what it gave", async () => {
  const store = newStore();
  for (const key of ["a", "b", "c", "d"]) await store.create(key, patterned(1));
  let broken = 0;
  const breaking: ObjectStore = {
    ...store,
    async *list(prefix) {
      for await (const info of store.list(prefix)) {
        if (info.key === "c" && broken++ < 2) throw unavailable();
        yield info;
      }
    },
  };
  const keys = (await Array.fromAsync(createRetryStore(breaking, policy).list(""))).map((info) => info.key);
  assert.deepEqual(keys, ["a", "b", "c", "d"]);
  const dead: ObjectStore = {
    ...store,
    // biome-ignore lint/correctness/useYield: it fails before it gives anything
    async *list() {
      throw unavailable();
    },
  };
  await rejectsWith(Array.fromAsync(createRetryStore(dead, policy).list("")), "StoreUnavailable");
});

test("verification notices a server that changes bytes", async () => {
  const store = newStore();
  const corrupting: ObjectStore = {
    ...store,
    create: (key, bytes, options) => store.create(key, bytes.toReversed(), options),
    replace: (key, bytes, etag, options) => store.replace(key, bytes.subarray(1), etag, options),
  };
  const verified = createVerifyStore(corrupting);
  await rejectsWith(verified.create("a", patterned(10)), "StoreContentMismatch");
  const { etag } = await store.create("b", patterned(10));
  await rejectsWith(verified.replace("b", patterned(10), etag), "StoreContentMismatch");
});

test("verification notices a server that ignores conditions, at the first object created", async () => {
  const store = newStore();
  const ignoring: ObjectStore = {
    ...store,
    async create(key, bytes) {
      await store.delete(key);
      return await store.create(key, bytes);
    },
  };
  await rejectsWith(createVerifyStore(ignoring).create("claim", patterned(10)), "StoreConditionIgnored");
});

test("verification notices a large object or a copy of the wrong size", async () => {
  const store = newStore();
  const shrinking: ObjectStore = {
    ...store,
    finishWrite: async (ticket, receipts) => ({ ...(await store.finishWrite(ticket, receipts)), bytes: 9 }),
    copy: async (source, target) => ({ ...(await store.copy(source, target)), bytes: 9 }),
  };
  const verified = createVerifyStore(shrinking);
  const ticket = await verified.beginWrite("large", 10, [{ offset: 0, bytes: 10 }]);
  const writer = await verified.openRegion(ticket, 0);
  await writer.write(patterned(10));
  await rejectsWith(verified.finishWrite(ticket, [await writer.close()]), "StoreContentMismatch");
  await rejectsWith(verified.copy("large", "copy"), "StoreContentMismatch");
});

test("faults come at their rate, are the same for the same seed, and differ for another", async () => {
  const trace = async (seed: number) => {
    const { store, counts } = createFaultyStore(newStore(), { seed, rate: 0.3, faults: ["before", "after", "cut"] });
    const results: string[] = [];
    for (let index = 0; index < 300; index++) {
      await store.create(`object-${index}`, patterned(4)).then(
        () => results.push("ok"),
        (error: MergeyardError) => results.push(error.code),
      );
    }
    return { results: results.join(), faults: counts.faults };
  };
  const [first, again, other] = [await trace(1), await trace(1), await trace(2)];
  assert.deepEqual(first, again);
  assert.notEqual(first.results, other.results);
  assert.ok(first.faults > 60 && first.faults < 120, `${first.faults} faults`);
});

test("each fault has the effect that its name says", async () => {
  const met = async (fault: Fault) => {
    const inner = newStore();
    await inner.create("there", patterned(8));
    const { store } = createFaultyStore(inner, { seed: 1, rate: 1, faults: [fault] });
    const codeOf = (promise: Promise<unknown>) =>
      promise.then(
        () => "ok",
        (error: MergeyardError) => error.code,
      );
    const into = new Uint8Array(8);
    const outcome = [await codeOf(store.create("new", patterned(1))), await codeOf(store.readInto("there", 0, into))];
    return [...outcome, (await inner.head("new")) !== undefined, into.filter((byte) => byte !== 0).length > 0];
  };
  assert.deepEqual(await met("before"), ["StoreUnavailable", "StoreUnavailable", false, false]);
  assert.deepEqual(await met("after"), ["StoreUnavailable", "StoreUnavailable", true, true]);
  assert.deepEqual(await met("cut"), ["StoreUnavailable", "StoreUnavailable", false, true]);
  assert.deepEqual(await met("conflict"), ["StoreConflict", "StoreConflict", false, false]);
  assert.deepEqual(await met("delay"), ["ok", "ok", true, true]);
});

test("the crash comes at its operation, before or after the effect, and counts writes to regions", async () => {
  for (const [when, isThere] of [
    ["before", false],
    ["after", true],
  ] as const) {
    const inner = newStore();
    const act = (): never => {
      throw new Error("crashed");
    };
    const { store } = createFaultyStore(inner, { seed: 1, rate: 0, faults: [], crash: { at: 5, when, act } });
    const ticket = await store.beginWrite("large", 2, [{ offset: 0, bytes: 2 }]);
    const writer = await store.openRegion(ticket, 0);
    await writer.write(patterned(2));
    const receipts = [await writer.close()];
    await assert.rejects(store.finishWrite(ticket, receipts), /crashed/);
    assert.equal((await inner.head("large")) !== undefined, isThere);
  }
});
