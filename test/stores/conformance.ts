// What every object store must do: one suite, run by a short file for each store and again through wrappers. A store
// that passes may be put under any step. Each test opens a store of its own, empty.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { type ErrorCode, MergeyardError } from "../../core/error.ts";
import { writeBytes, writeObject } from "../../stores/objects.ts";
import type { ObjectInfo, ObjectStore, Region } from "../../stores/store.ts";
import { checkAgainstModel } from "./model.ts";
import { patterned } from "./patterned.ts";
import { type Check, checkRecovery } from "./recovery-checks.ts";

export type OpenedStore = { readonly store: ObjectStore; readonly remove: () => Promise<void> };

export type Subject = {
  readonly name: string;
  /** Opens an empty store. */
  readonly open: () => Promise<OpenedStore>;
  /** True when `openStore(store.uri)` in a worker thread opens the same store. */
  readonly hasThreads: boolean;
  /** Why the suite cannot run here, and what to do about it. */
  readonly skip?: string | undefined;
  /** True when answers get lost, so that a swap that took effect and was overwritten at once is done again. */
  readonly losesAnswers?: boolean;
  /** Objects of the test of long listings; more than 1000 exceeds a page of S3's. */
  readonly listed?: number;
  /** Tests that run at once, for stores that mostly wait. */
  readonly concurrency?: number;
  /** Runs of the model test; fewer for slow stores. */
  readonly modelRuns: number;
};

const MIB = 1024 * 1024;

/** Declares the suite for one store. */
export function conformance(subject: Subject): void {
  const options = { concurrency: subject.concurrency ?? 1, skip: subject.skip ?? false };
  describe(subject.name, options, () => declareChecks(subject));
}

function declareChecks(subject: Subject): void {
  const check: Check = (sentence, body) => {
    test(`${subject.name} ${sentence}`, async () => {
      const opened = await subject.open();
      try {
        await body(opened.store);
      } finally {
        await opened.remove();
      }
    });
  };
  checkReads(check);
  checkWholeReads(check);
  checkCreate(check);
  checkReplace(check, subject.losesAnswers ?? false);
  checkRegions(check, subject.hasThreads);
  checkRegionFailures(check);
  checkRecovery(check);
  checkCopyAndDelete(check);
  checkListing(check, subject.listed ?? 1105);
  checkKeys(check);
  check("behaves like a map under any sequence of operations", (store) => checkAgainstModel(store, subject.modelRuns));
}

/** Asserts the code of a rejection. */
export async function rejectsWith(promise: Promise<unknown>, code: ErrorCode): Promise<MergeyardError> {
  const error = await promise.then(
    () => assert.fail(`expected ${code}`),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof MergeyardError, `expected ${code}, got ${error}`);
  assert.equal(error.code, code, error.message);
  return error;
}

/** Everything a listing gives. */
export async function listAll(store: ObjectStore, prefix = ""): Promise<ObjectInfo[]> {
  return await Array.fromAsync(store.list(prefix));
}

function checkReads(check: Check): void {
  check("fills views at any offset from any offset", async (store) => {
    const content = patterned(70_001);
    await store.create("reads/object", content);
    const memory = new Uint8Array(100_000).fill(0xee);
    for (const [offset, start, bytes] of [
      [0, 0, 70_001],
      [1, 3, 69_999],
      [12_345, 777, 4096],
      [65_535, 1, 2],
      [70_000, 99_999, 1],
    ] as const) {
      for (const mayBlock of [false, true]) {
        memory.fill(0xee);
        await store.readInto("reads/object", offset, memory.subarray(start, start + bytes), { mayBlock });
        assert.deepEqual(memory.subarray(start, start + bytes), content.subarray(offset, offset + bytes));
        assert.ok(memory.subarray(0, start).every((byte) => byte === 0xee));
        assert.ok(memory.subarray(start + bytes).every((byte) => byte === 0xee));
      }
    }
  });

  check("reads into the memory of WebAssembly and into shared memory", async (store) => {
    const content = patterned(5000);
    await store.create("object", content);
    const memory = new WebAssembly.Memory({ initial: 1 });
    await store.readInto("object", 10, new Uint8Array(memory.buffer, 333, 4000));
    assert.deepEqual(new Uint8Array(memory.buffer, 333, 4000), content.slice(10, 4010));
    const shared = new Uint8Array(new SharedArrayBuffer(4096), 5, 4000);
    await store.readInto("object", 10, shared);
    assert.deepEqual(Uint8Array.from(shared), content.slice(10, 4010));
  });

  check("refuses to fill a view beyond the end of the object", async (store) => {
    await store.create("object", patterned(100));
    const error = await rejectsWith(store.readInto("object", 90, new Uint8Array(11)), "StoreShortRead");
    assert.equal(error.where.file, "object");
    assert.equal(error.where.offset, 90);
    await rejectsWith(store.readInto("object", 100, new Uint8Array(1)), "StoreShortRead");
    await rejectsWith(store.readInto("object", 5000, new Uint8Array(1), { mayBlock: true }), "StoreShortRead");
    await store.readInto("object", 90, new Uint8Array(10));
    await store.readInto("object", 100, new Uint8Array(0));
  });
}

function checkWholeReads(check: Check): void {
  check("says that an object is missing", async (store) => {
    assert.equal(await store.head("none"), undefined);
    assert.equal(await store.get("none/at/all", 10), undefined);
    await rejectsWith(store.readInto("none", 0, new Uint8Array(1)), "StoreObjectMissing");
    await rejectsWith(store.readInto("none", 0, new Uint8Array(0)), "StoreObjectMissing");
  });

  check("gets a whole object up to the limit and refuses it above", async (store) => {
    const content = patterned(1000);
    const { etag } = await store.create("object", content);
    const found = await store.get("object", 1000);
    assert.deepEqual(found && Uint8Array.from(found.bytes), content);
    assert.equal(found?.etag, etag);
    const error = await rejectsWith(store.get("object", 999), "StoreObjectTooLarge");
    assert.equal(error.where.file, "object");
  });

  check("sees the new content after a replacement, also where it read before", async (store) => {
    const { etag } = await store.create("object", patterned(80_000, 1));
    const into = new Uint8Array(80_000);
    await store.readInto("object", 0, into);
    await store.replace("object", patterned(80_000, 2), etag);
    await store.readInto("object", 0, into);
    assert.deepEqual(into, patterned(80_000, 2));
    await store.delete("object");
    await rejectsWith(store.readInto("object", 0, into), "StoreObjectMissing");
  });

  check("stops when the signal says so", async (store) => {
    await store.create("object", patterned(10));
    const signal = AbortSignal.abort(new Error("stop"));
    await assert.rejects(store.head("object", { signal }), /stop/);
    await assert.rejects(store.create("other", patterned(10), { signal }), /stop/);
    await assert.rejects(store.readInto("object", 0, new Uint8Array(1), { signal }), /stop/);
    assert.equal(await store.head("other"), undefined);
  });
}

function checkCreate(check: Check): void {
  check("creates an object once", async (store) => {
    const first = await store.create("a/b/c.json", patterned(10, 1));
    assert.equal(first.created, true);
    const second = await store.create("a/b/c.json", patterned(10, 2));
    assert.deepEqual(second, { created: false, etag: first.etag });
    assert.deepEqual(Uint8Array.from((await store.get("a/b/c.json", 10))?.bytes ?? []), patterned(10, 1));
  });

  check("gives one ETag from create, head, list and get, for small and large objects", async (store) => {
    for (const bytes of [0, 1, 65_536, 65_537, 300_000]) {
      const { etag } = await store.create(`object-${bytes}`, patterned(bytes));
      const [info] = await listAll(store, `object-${bytes}`);
      assert.equal(info?.etag, etag);
      assert.equal(info?.bytes, bytes);
      assert.deepEqual(await store.head(`object-${bytes}`), info);
      assert.equal((await store.get(`object-${bytes}`, bytes))?.etag, etag);
      await store.delete(`object-${bytes}`);
    }
  });

  check("lets exactly one of 32 racers create an object", async (store) => {
    const racers = Array.from({ length: 32 }, (_none, racer) => store.create("claim", patterned(100, racer)));
    const results = await Promise.all(racers);
    const winners = results.flatMap((result, racer) => (result.created ? [racer] : []));
    assert.equal(winners.length, 1);
    const found = await store.get("claim", 100);
    assert.deepEqual(found && Uint8Array.from(found.bytes), patterned(100, winners[0]));
    assert.ok(results.every((result) => result.etag === found?.etag));
  });

  check("keeps what it was given although the caller's memory changes", async (store) => {
    const bytes = patterned(50);
    await store.create("object", bytes);
    bytes.fill(0);
    assert.deepEqual(Uint8Array.from((await store.get("object", 50))?.bytes ?? []), patterned(50));
  });
}

function checkReplace(check: Check, losesAnswers: boolean): void {
  check("replaces an object only at the ETag that the caller saw", async (store) => {
    const first = await store.create("channel", patterned(10, 1));
    const second = await store.replace("channel", patterned(10, 2), first.etag);
    assert.equal(second.replaced, true);
    assert.notEqual(second.etag, first.etag);
    const third = await store.replace("channel", patterned(10, 3), first.etag);
    assert.deepEqual(third, { replaced: false, etag: second.etag });
    assert.equal((await store.head("channel"))?.etag, second.etag);
    assert.deepEqual(Uint8Array.from((await store.get("channel", 10))?.bytes ?? []), patterned(10, 2));
  });

  check("replaces nothing where there is nothing", async (store) => {
    assert.deepEqual(await store.replace("channel", patterned(10), "no-etag"), { replaced: false, etag: "" });
    assert.equal(await store.head("channel"), undefined);
  });

  check("loses no update when many swap at once", async (store) => {
    await store.create("counter", new TextEncoder().encode("0"));
    const increment = async () => {
      for (let attempt = 0; attempt < 500; attempt++) {
        const found = await store.get("counter", 100);
        assert.ok(found !== undefined);
        const next = new TextEncoder().encode(String(Number(new TextDecoder().decode(found.bytes)) + 1));
        if ((await store.replace("counter", next, found.etag)).replaced) return;
      }
      assert.fail("no swap in 500 attempts");
    };
    await Promise.all(Array.from({ length: 12 }, increment));
    const count = Number(new TextDecoder().decode((await store.get("counter", 100))?.bytes));
    assert.ok(losesAnswers ? count >= 12 : count === 12, `counted ${count}`);
  });

  check("gives large objects a new ETag at every quick replacement", async (store) => {
    let { etag } = await store.create("object", patterned(70_000, 0));
    const seen = new Set([etag]);
    for (let version = 1; version <= 12; version++) {
      const result = await store.replace("object", patterned(70_000, version), etag);
      assert.ok(result.replaced);
      etag = result.etag;
      seen.add(etag);
    }
    assert.equal(seen.size, 13);
    assert.equal((await store.head("object"))?.etag, etag);
  });
}

function checkRegions(check: Check, hasThreads: boolean): void {
  const regions: Region[] = [
    { offset: 0, bytes: 5 * MIB },
    { offset: 5 * MIB, bytes: 6 * MIB + 3 },
    { offset: 11 * MIB + 3, bytes: 1234 },
  ];
  const bytes = 11 * MIB + 3 + 1234;

  check("shows a large object only when it is whole, whatever the order of its regions", async (store) => {
    const content = patterned(bytes);
    const ticket = structuredClone(await store.beginWrite("large", bytes, regions));
    const receipts = [];
    for (const index of [2, 0, 1]) {
      const region = regions[index] ?? assert.fail();
      const writer = await store.openRegion(ticket, index, { mayBlock: index === 1 });
      for (let done = 0; done < region.bytes; done += 700_001) {
        const piece = content.slice(region.offset + done, region.offset + Math.min(region.bytes, done + 700_001));
        await writer.write(piece);
        piece.fill(0);
      }
      receipts.push(structuredClone(await writer.close()));
      assert.equal(await store.head("large"), undefined);
      assert.deepEqual(await listAll(store), []);
    }
    const info = await store.finishWrite(ticket, receipts);
    assert.equal(info.bytes, bytes);
    assert.deepEqual(await store.head("large"), info);
    const into = new Uint8Array(bytes);
    await store.readInto("large", 0, into);
    assert.equal(Buffer.compare(into, content), 0);
    assert.deepEqual(await store.finishWrite(ticket, receipts), info, "repeating a finish that succeeded is harmless");
  });

  check("takes a large object from several threads", async (store) => {
    if (!hasThreads) return;
    const ticket = await store.beginWrite("large", bytes, regions);
    const work = regions.map((_region, index) => runRegionWorker({ uri: store.uri, ticket, index }));
    const info = await store.finishWrite(ticket, await Promise.all(work));
    const into = new Uint8Array(bytes);
    await store.readInto("large", 0, into);
    assert.equal(Buffer.compare(into, patterned(bytes)), 0);
    assert.equal(info.bytes, bytes);
  });

  check("writes objects of one small region and of no bytes, over what was there", async (store) => {
    await writeBytes(store, "small", patterned(1000, 1));
    await writeBytes(store, "small", patterned(10, 2));
    assert.deepEqual(Uint8Array.from((await store.get("small", 100))?.bytes ?? []), patterned(10, 2));
    const info = await writeBytes(store, "empty", new Uint8Array(0));
    assert.equal(info.bytes, 0);
    assert.equal((await store.head("empty"))?.bytes, 0);
  });

  check("takes a small object from another thread", async (store) => {
    if (!hasThreads) return;
    const ticket = await store.beginWrite("small", 1000, [{ offset: 0, bytes: 1000 }]);
    const receipt = await runRegionWorker({ uri: store.uri, ticket, index: 0 });
    assert.equal(await store.head("small"), undefined);
    await store.finishWrite(ticket, [receipt]);
    assert.deepEqual(Uint8Array.from((await store.get("small", 1000))?.bytes ?? []), patterned(1000));
  });
}

function checkRegionFailures(check: Check): void {
  const one = [{ offset: 0, bytes: 100 }];

  check("refuses a region with too few or too many bytes", async (store) => {
    const ticket = await store.beginWrite("large", 100, one);
    const short = await store.openRegion(ticket, 0);
    await short.write(patterned(99));
    await rejectsWith(short.close(), "StoreRegionIncomplete");
    const long = await store.openRegion(ticket, 0, { mayBlock: true });
    await long.write(patterned(100));
    await rejectsWith(long.write(patterned(1)), "StoreRegionIncomplete");
    await rejectsWith(store.openRegion(ticket, 1), "StoreTicketInvalid");
    await store.abortWrite(ticket);
  });

  check("refuses to finish without a receipt for each region", async (store) => {
    const ticket = await store.beginWrite("large", 100, one);
    await rejectsWith(store.finishWrite(ticket, []), "StoreRegionIncomplete");
    assert.equal(await store.head("large"), undefined);
    await store.abortWrite(ticket);
  });

  check("leaves nothing of an aborted object, and aborts twice or unknown tickets in peace", async (store) => {
    const ticket = await store.beginWrite("large", 100, one);
    const writer = await store.openRegion(ticket, 0);
    await writer.write(patterned(100));
    const receipt = await writer.close();
    await store.abortWrite(ticket);
    await store.abortWrite(ticket);
    await store.abortWrite({ ...ticket, token: "unknown" });
    assert.deepEqual(await listAll(store), []);
    await rejectsWith(store.finishWrite(ticket, [receipt]), "StoreTicketInvalid");
    assert.equal(await store.head("large"), undefined);
  });

  check("keeps the old object when writing a new one over it is aborted", async (store) => {
    await writeBytes(store, "large", patterned(100, 1));
    const failing = async function* () {
      yield patterned(50, 2);
      throw new Error("the source broke");
    };
    await assert.rejects(writeObject(store, "large", failing(), 100), /the source broke/);
    assert.deepEqual(Uint8Array.from((await store.get("large", 100))?.bytes ?? []), patterned(100, 1));
    assert.equal((await listAll(store)).length, 1);
  });
}

function checkCopyAndDelete(check: Check): void {
  check("copies an object over another, or over itself", async (store) => {
    await writeBytes(store, "source", patterned(100_000, 1));
    await writeBytes(store, "deep/target", patterned(5, 2));
    for (let repeat = 0; repeat < 2; repeat++) {
      const info = await store.copy("source", "deep/target");
      assert.deepEqual(await store.head("deep/target"), info);
      assert.equal(info.bytes, 100_000);
    }
    assert.equal((await store.copy("source", "source")).bytes, 100_000);
    const into = new Uint8Array(100_000);
    await store.readInto("deep/target", 0, into);
    assert.deepEqual(into, patterned(100_000, 1));
    assert.deepEqual(
      (await listAll(store)).map((info) => info.key),
      ["deep/target", "source"],
    );
    await rejectsWith(store.copy("none", "deep/target"), "StoreObjectMissing");
  });

  check("keeps a copy when its source is overwritten or deleted", async (store) => {
    await writeBytes(store, "source", patterned(1000, 1));
    await store.copy("source", "target");
    await writeBytes(store, "source", patterned(1000, 2));
    assert.deepEqual(Uint8Array.from((await store.get("target", 1000))?.bytes ?? []), patterned(1000, 1));
    await store.delete("source");
    assert.deepEqual(Uint8Array.from((await store.get("target", 1000))?.bytes ?? []), patterned(1000, 1));
  });

  check("deletes an object, and again, and can create it anew", async (store) => {
    await store.create("a/b", patterned(10, 1));
    await store.delete("a/b");
    await store.delete("a/b");
    await store.delete("never/was");
    assert.equal(await store.head("a/b"), undefined);
    assert.equal((await store.create("a/b", patterned(10, 2))).created, true);
  });
}

function checkListing(check: Check, listed: number): void {
  check("lists by the bytes of keys, as S3 does", async (store) => {
    const keys = ["a", "a-b", "a.b/c", "a/b", "a/b/c-1", "a/b0", "a0", "z", "é", "\uff5e", "\u{1f600}"];
    const legal = keys.filter((key) => key !== "a" && key !== "a/b");
    for (const key of legal.toReversed()) await store.create(key, patterned(3));
    const sorted = legal.toSorted((x, y) => Buffer.compare(Buffer.from(x), Buffer.from(y)));
    const found = await listAll(store);
    assert.deepEqual(
      found.map((info) => info.key),
      sorted,
    );
    assert.ok(found.every((info) => info.bytes === 3 && info.etag !== "" && info.modifiedMs > 1.6e12));
  });

  check("lists by prefix, which may end within a name", async (store) => {
    for (const key of ["runs/1/a", "runs/1/b", "runs/10/a", "runs/2", "run"]) await store.create(key, patterned(1));
    const keysOf = async (prefix: string) => (await listAll(store, prefix)).map((info) => info.key);
    assert.deepEqual(await keysOf("runs/1"), ["runs/1/a", "runs/1/b", "runs/10/a"]);
    assert.deepEqual(await keysOf("runs/1/"), ["runs/1/a", "runs/1/b"]);
    assert.deepEqual(await keysOf("runs/2"), ["runs/2"]);
    assert.deepEqual(await keysOf("runs/2/"), []);
    assert.deepEqual(await keysOf("none/"), []);
    assert.equal((await keysOf("run")).length, 5);
  });

  check(`lists ${listed} objects, each once`, async (store) => {
    const keys = Array.from({ length: listed }, (_none, index) => `many/${String(index).padStart(5, "0")}`);
    for (let start = 0; start < keys.length; start += 32) {
      await Promise.all(keys.slice(start, start + 32).map((key) => store.create(key, new Uint8Array(1))));
    }
    assert.deepEqual(
      (await listAll(store, "many/")).map((info) => info.key),
      keys,
    );
  });
}

function checkKeys(check: Check): void {
  check("takes keys with odd but legal characters", async (store) => {
    const keys = [
      " leading and trailing ",
      "a b+c%20d&e=f",
      "quote\"'`$*?[]{}|<>~",
      "%2e%2e/%2F",
      "...",
      "ümlaut-ß-日本語",
    ];
    keys.push(
      "#hash?query",
      "emoji-\u{1f980}",
      "C:drive",
      "-dash",
      "@at!(1);,",
      `${"x".repeat(255)}/${"y".repeat(200)}`,
    );
    for (const [index, key] of keys.entries()) {
      await store.create(key, patterned(20, index));
      await store.copy(key, `copy of ${index}/${key}`);
    }
    for (const [index, key] of keys.entries()) {
      for (const name of [key, `copy of ${index}/${key}`]) {
        assert.deepEqual(Uint8Array.from((await store.get(name, 20))?.bytes ?? []), patterned(20, index), name);
        assert.equal((await listAll(store, name))[0]?.key, name);
      }
    }
    assert.equal((await listAll(store)).length, 2 * keys.length);
  });

  check("refuses keys that are not relative paths, everywhere", async (store) => {
    await store.create("good", patterned(1));
    for (const key of ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a\\b", "a\0b", ".mergeyard/tmp/a"]) {
      await rejectsWith(store.head(key), "StoreKeyInvalid");
      await rejectsWith(store.get(key, 1), "StoreKeyInvalid");
      await rejectsWith(store.readInto(key, 0, new Uint8Array(1)), "StoreKeyInvalid");
      await rejectsWith(store.create(key, patterned(1)), "StoreKeyInvalid");
      await rejectsWith(store.replace(key, patterned(1), "x"), "StoreKeyInvalid");
      await rejectsWith(store.beginWrite(key, 1, [{ offset: 0, bytes: 1 }]), "StoreKeyInvalid");
      await rejectsWith(store.copy("good", key), "StoreKeyInvalid");
      await rejectsWith(store.copy(key, "good"), "StoreKeyInvalid");
      await rejectsWith(store.delete(key), "StoreKeyInvalid");
    }
    for (const prefix of ["/a", "a//b", "../", "a/../", "a\\", ".mergeyard/"]) {
      await rejectsWith(listAll(store, prefix), "StoreKeyInvalid");
    }
  });
}

type RegionWork = { uri: string; ticket: unknown; index: number };

async function runRegionWorker(
  work: RegionWork,
): Promise<{ index: number; parts: { number: number; etag: string }[] }> {
  const worker = new Worker(new URL("region-worker.ts", import.meta.url), { workerData: work });
  return await new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
}
