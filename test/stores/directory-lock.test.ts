// The lock of a folder store where timing decides, made certain by hooks into the file system calls.
import assert from "node:assert/strict";
import fs from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import timers from "node:timers/promises";
import { underLock } from "../../stores/directory-lock.ts";

async function inFolder(body: (locks: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "mergeyard-lock-"));
  try {
    await body(join(folder, "locks"));
  } finally {
    await rm(folder, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** Calls `before` ahead of each symlink call, given its path. */
async function hookingSymlinks(before: (path: string) => void, body: () => Promise<void>): Promise<void> {
  const real = fs.symlinkSync;
  fs.symlinkSync = (target, path) => {
    before(String(path));
    real(target, path);
  };
  syncBuiltinESMExports();
  try {
    await body();
  } finally {
    fs.symlinkSync = real;
    syncBuiltinESMExports();
  }
}

/** Lets pauses pass at once; `during` sees each one's length. */
async function skippingPauses(during: (delayMs: number) => void, body: () => Promise<void>): Promise<void> {
  const real = timers.setTimeout;
  const skip = async (delayMs?: number) => during(delayMs ?? 0);
  Object.assign(timers, { setTimeout: skip });
  syncBuiltinESMExports();
  try {
    await body();
  } finally {
    timers.setTimeout = real;
    syncBuiltinESMExports();
  }
}

/** The link of the lock as its holder made it, seen from within. */
async function readLock(locks: string): Promise<{ path: string; holder: string }> {
  return await underLock(locks, "key", () => {
    const path = join(locks, fs.readdirSync(locks)[0] ?? "");
    return { path, holder: fs.readlinkSync(path) };
  });
}

test("work runs alone, its result and its error come back, and the lock is gone after either", () =>
  inFolder(async (locks) => {
    assert.equal(await underLock(locks, "key", () => fs.readdirSync(locks).length), 1);
    const failing = underLock(locks, "key", () => assert.fail("inside"));
    await assert.rejects(failing, /inside/);
    assert.deepEqual(fs.readdirSync(locks), []);
  }));

test("a lock taken by a third while a dead one is being broken is left to the third", () =>
  inFolder(async (locks) => {
    const { path, holder } = await readLock(locks);
    const dead = holder.replace(/"pid":\d+/, '"pid":4194299');
    fs.symlinkSync(dead, path);
    const symlink = fs.symlinkSync;
    let hasStolen = false;
    const steal = (link: string) => {
      if (hasStolen || !link.includes("break-")) return;
      hasStolen = true;
      // Somebody else broke the dead lock and took it, between our look at it and our break lock.
      fs.unlinkSync(path);
      symlink(holder, path);
    };
    await hookingSymlinks(steal, async () => {
      let isDone = false;
      const waiting = underLock(locks, "key", () => {
        isDone = true;
      });
      await new Promise((resolve) => setTimeout(resolve, 60));
      assert.equal(hasStolen, true);
      assert.equal(isDone, false, "the third still holds the lock");
      assert.equal(fs.readlinkSync(path), holder);
      fs.unlinkSync(path);
      await waiting;
      assert.equal(isDone, true);
    });
  }));

test("a waiting contender stops at its signal", () =>
  inFolder(async (locks) => {
    const { path, holder } = await readLock(locks);
    fs.symlinkSync(holder, path);
    const signal = AbortSignal.timeout(30);
    await assert.rejects(
      underLock(locks, "key", () => undefined, signal),
      { name: "TimeoutError" },
    );
  }));

test("a number that another process has by now does not keep a lock", () =>
  inFolder(async (locks) => {
    const { path, holder } = await readLock(locks);
    fs.symlinkSync(holder.replace(/"began":"[^"]*"/, '"began":"1"'), path);
    assert.equal(await underLock(locks, "key", () => 1), 1);
  }));

test("a holder in another system is not taken for dead", () =>
  inFolder(async (locks) => {
    const { path, holder } = await readLock(locks);
    const foreign = holder.replace(/"pid":\d+/, '"pid":4194299').replace(/"system":"/, '"system":"other ');
    fs.symlinkSync(foreign, path);
    const signal = AbortSignal.timeout(50);
    await assert.rejects(
      underLock(locks, "key", () => undefined, signal),
      { name: "TimeoutError" },
    );
    assert.equal(fs.readlinkSync(path), foreign);
  }));

test("a holder that cannot be judged loses its lock when one contender has watched it for a minute", () =>
  inFolder(async (locks) => {
    const { path, holder } = await readLock(locks);
    fs.symlinkSync(holder.replace(/"system":"/, '"system":"other '), path);
    let pausedMs = 0;
    const count = (delayMs: number) => {
      pausedMs += delayMs;
    };
    await skippingPauses(count, async () => assert.equal(await underLock(locks, "key", () => 1), 1));
    assert.ok(pausedMs >= 60_000 && pausedMs < 61_000, `${pausedMs} ms`);
    assert.deepEqual(fs.readdirSync(locks), []);
  }));

test("holders that come and go are waited for, but not for ever", () =>
  inFolder(async (locks) => {
    const { path, holder } = await readLock(locks);
    fs.symlinkSync(holder, path);
    let pausedMs = 0;
    let changes = 0;
    const takeOver = (delayMs: number) => {
      pausedMs += delayMs;
      if (pausedMs < 20_000 * (changes + 1)) return;
      changes += 1;
      fs.unlinkSync(path);
      fs.symlinkSync(holder.replace(/"nonce":"/, `"nonce":"${changes}`), path);
    };
    await skippingPauses(takeOver, async () => {
      await assert.rejects(
        underLock(locks, "key", () => 1),
        { code: "StoreConflict" },
      );
    });
    assert.equal(changes, 4);
  }));
