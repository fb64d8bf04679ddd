// The folder store among processes: races, kills at any moment, locks of the dead, foreign permissions.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readdir, readlink, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createDirectoryStore } from "../../stores/directory.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { listAll } from "./conformance.ts";
import { patterned } from "./patterned.ts";

const MIB = 1024 * 1024;

type Ended = { readonly output: string; readonly status: number | null; readonly signal: string | null };

async function inFolder(body: (store: ObjectStore, folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "mergeyard-processes-"));
  try {
    await body(createDirectoryStore(folder, { durable: false }), folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

function run(task: string, store: ObjectStore, argument: number): Promise<Ended> {
  const program = new URL("directory-child.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, [program, task, store.uri, String(argument)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (data: Buffer) => {
    output += data.toString();
  });
  return new Promise((resolve) => child.once("close", (status, signal) => resolve({ output, status, signal })));
}

async function setCounter(store: ObjectStore): Promise<void> {
  await store.create("counter", new TextEncoder().encode("0"));
}

async function readCounter(store: ObjectStore): Promise<number> {
  return Number(new TextDecoder().decode((await store.get("counter", 100))?.bytes));
}

test("exactly one of several processes creates each object", () =>
  inFolder(async (store) => {
    const ended = await Promise.all([0, 1, 2, 3].map((racer) => run("claim", store, racer)));
    const won = ended.map((child) => JSON.parse(child.output) as number[]);
    const all = won.flat().sort((a, b) => a - b);
    assert.deepEqual(
      all,
      Array.from({ length: 40 }, (_none, index) => index),
    );
    for (const [racer, keys] of won.entries()) {
      for (const key of keys) {
        const found = await store.get(`claims/${key}`, 100);
        assert.equal(new TextDecoder().decode(found?.bytes), `process ${racer}`);
      }
    }
  }));

test("several processes that swap one object lose no update", () =>
  inFolder(async (store) => {
    await setCounter(store);
    const ended = await Promise.all([0, 1, 2, 3].map(() => run("count", store, 50)));
    assert.ok(ended.every((child) => child.status === 0));
    assert.equal(await readCounter(store), 200);
  }));

test("processes that fill and empty the same folders never lose a file nor meet an error", () =>
  inFolder(async (plain, folder) => {
    const durable = createDirectoryStore(join(folder, "durable"), { durable: true });
    for (const store of [plain, durable]) {
      const ended = await Promise.all([0, 1, 2].map((racer) => run("churn", store, racer)));
      assert.deepEqual(
        ended.map((child) => child.status),
        [0, 0, 0],
      );
      assert.deepEqual(await listAll(store), []);
    }
    assert.deepEqual(await readdir(folder), ["durable"]);
  }));

test("the lock of a killed process is taken over by exactly one of those who wait", () =>
  inFolder(async (store, folder) => {
    await setCounter(store);
    const dead = await run("dieLocked", store, 0);
    assert.equal(dead.signal, "SIGKILL");
    assert.equal((await readdir(join(folder, ".mergeyard/locks"))).length, 1, "the lock outlived its holder");
    const begun = performance.now();
    await Promise.all([0, 1, 2].map(() => run("count", store, 20)));
    assert.equal(await readCounter(store), 60);
    assert.ok(performance.now() - begun < 20_000, "nobody waited for a lease to end");
  }));

test("a process killed while it breaks a dead lock blocks nobody either", () =>
  inFolder(async (store, folder) => {
    await setCounter(store);
    await run("dieLocked", store, 0);
    assert.equal((await run("dieBreaking", store, 0)).signal, "SIGKILL");
    assert.equal((await run("dieBreaking", store, 0)).signal, "SIGKILL");
    const locks = await readdir(join(folder, ".mergeyard/locks"));
    assert.equal(locks.length, 3, "a lock, its break lock, and the break lock of that");
    for (const lock of locks) assert.match(await readlink(join(folder, ".mergeyard/locks", lock)), /"pid"/);
    await Promise.all([run("count", store, 20), run("count", store, 20)]);
    assert.equal(await readCounter(store), 40);
  }));

test("a process killed at any operation leaves whole objects or none", () =>
  inFolder(async (store) => {
    const whole = new Map([
      ["small", patterned(1000)],
      ["large", patterned(6 * MIB)],
      ["copy", patterned(6 * MIB)],
    ]);
    // create, beginWrite, openRegion, write, write, close, finishWrite, copy, delete
    const visibleAfter = [["small"], ["small"], ["small"], ["small"], ["small"], ["small"]];
    visibleAfter.push(["large", "small"], ["copy", "large", "small"], ["copy", "large"]);
    for (const [index, expected] of visibleAfter.entries()) {
      assert.equal((await run("crash", store, index + 1)).signal, "SIGKILL");
      const infos = await listAll(store);
      assert.deepEqual(
        infos.map((info) => info.key),
        expected,
        `killed after operation ${index + 1}`,
      );
      for (const info of infos) {
        const found = await store.get(info.key, 6 * MIB);
        assert.equal(Buffer.compare(found?.bytes ?? Buffer.of(), whole.get(info.key) ?? Buffer.of()), 0);
        await store.delete(info.key);
      }
    }
  }));

test("processes killed at random moments of a swap leave a usable, whole object", () =>
  inFolder(async (store) => {
    await setCounter(store);
    const program = new URL("directory-child.ts", import.meta.url).pathname;
    for (const delayMs of [80, 95, 110, 125, 140, 155]) {
      const child = spawn(process.execPath, [program, "count", store.uri, "100000"], { stdio: "ignore" });
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      child.kill("SIGKILL");
      await new Promise((resolve) => child.once("close", resolve));
    }
    const before = await readCounter(store);
    assert.ok(Number.isSafeInteger(before));
    await run("count", store, 1);
    assert.equal(await readCounter(store), before + 1);
  }));

test(
  "missing permissions are named",
  { skip: process.getuid?.() === 0 ? false : "needs root to become another user" },
  () =>
    inFolder(async (store, folder) => {
      await writeFile(join(folder, "secret"), "secret", { mode: 0o600 });
      await writeFile(join(folder, "open"), "open", { mode: 0o644 });
      await chmod(folder, 0o755);
      const { output } = await run("denied", store, 0);
      assert.deepEqual(JSON.parse(output), [...new Array(5).fill("StoreAccessDenied"), "4"]);
      await mkdir(join(folder, "sub"));
    }),
);
