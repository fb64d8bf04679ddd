// A process of its own on a folder store, started by directory-processes.test.ts: one of many racers, or a victim.
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import { createDirectoryStore } from "../../stores/directory.ts";
import { underLock } from "../../stores/directory-lock.ts";
import { createFaultyStore } from "../../stores/faulty.ts";
import { writeBytes, writeObject } from "../../stores/objects.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { patterned } from "./patterned.ts";

const MIB = 1024 * 1024;
const [task, uri = "", argument = "0"] = process.argv.slice(2);
const store = openStore(uri, {});
const die = () => process.kill(process.pid, "SIGKILL");

/** Claims many keys; prints those that this process won. */
async function claim(): Promise<void> {
  const won: number[] = [];
  for (let index = 0; index < 40; index++) {
    const body = new TextEncoder().encode(`process ${argument}`);
    if ((await store.create(`claims/${index}`, body)).created) won.push(index);
  }
  console.log(JSON.stringify(won));
}

/** Adds one to a counter, many times. */
async function count(): Promise<void> {
  for (let done = 0; done < Number(argument); ) {
    const found = await store.get("counter", 100);
    const value = Number(new TextDecoder().decode(found?.bytes));
    const next = new TextEncoder().encode(String(value + 1));
    if ((await store.replace("counter", next, found?.etag ?? "")).replaced) done += 1;
  }
}

/** Fills and empties folders that other processes fill and empty. */
async function churn(): Promise<void> {
  for (let index = 0; index < 30; index++) {
    const key = `deep/${index % 3}/${argument}-${index}`;
    const target = `deep/${index % 2}/copies/${argument}-${index}`;
    await store.create(key, patterned(10));
    await store.copy(key, target);
    await writeBytes(store, key, patterned(20));
    if ((await store.head(key))?.bytes !== 20 || (await store.head(target))?.bytes !== 10) process.exitCode = 9;
    await store.delete(key);
    await store.delete(target);
  }
}

/** Writes and dies at the n-th operation. */
async function crashAt(at: number): Promise<void> {
  const crash = { at, when: "after", act: () => neverAfter(die) } as const;
  const { store: mortal } = createFaultyStore(store, { seed: 1, rate: 0, faults: [], crash });
  await mortal.create("small", patterned(1000));
  await writeObject(mortal, "large", twice(3 * MIB), 6 * MIB);
  await mortal.copy("large", "copy");
  await mortal.delete("small");
}

async function* twice(bytes: number): AsyncGenerator<Uint8Array> {
  const whole = patterned(2 * bytes);
  yield whole.subarray(0, bytes);
  yield whole.subarray(bytes);
}

function neverAfter(act: () => void): never {
  act();
  for (;;) fs.readSync(0, new Uint8Array(1));
}

/** Dies while holding the lock of the counter. */
async function dieLocked(): Promise<void> {
  await underLock(join(folderOf(store), ".mergeyard", "locks"), "counter", () => neverAfter(die));
}

/** Dies while breaking the lock of a dead process. */
async function dieBreaking(): Promise<void> {
  fs.unlinkSync = () => neverAfter(die);
  syncBuiltinESMExports();
  await underLock(join(folderOf(store), ".mergeyard", "locks"), "counter", () => undefined);
}

/** Tries a folder that this user may not write or read; prints the codes. */
async function denied(): Promise<void> {
  process.setuid?.(65_534);
  const folder = createDirectoryStore(folderOf(store), { durable: true });
  const codeOf = (promise: Promise<unknown>) => promise.then(String, (error: { code: string }) => error.code);
  const codes = [
    await codeOf(folder.create("new", patterned(1))),
    await codeOf(folder.get("secret", 100)),
    await codeOf(folder.readInto("secret", 0, new Uint8Array(1))),
    await codeOf(folder.beginWrite("new", 10, [{ offset: 0, bytes: 10 }])),
    await codeOf(folder.delete("secret")),
    await codeOf(folder.head("open").then((info) => info?.bytes)),
  ];
  console.log(JSON.stringify(codes));
}

function folderOf(of: ObjectStore): string {
  return new URL(of.uri).pathname;
}

const tasks: Record<string, () => Promise<void>> = {
  claim,
  count,
  churn,
  crash: () => crashAt(Number(argument)),
  dieLocked,
  dieBreaking,
  denied,
};
await tasks[task ?? ""]?.();
