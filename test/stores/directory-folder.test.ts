// The folder store and what else may be in a folder: links, pipes, leftovers, foreign and read-only places, full disks.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, realpath, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { toFileError } from "../../stores/directory-paths.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { listAll, rejectsWith } from "./conformance.ts";
import { patterned } from "./patterned.ts";

async function inFolder(body: (folder: string, store: ObjectStore) => Promise<void>, durable = true): Promise<void> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), "mergeyard-folder-")));
  try {
    await body(folder, createDirectoryStore(join(folder, "yard"), { durable }));
  } finally {
    await rm(folder, { recursive: true });
  }
}

const keysOf = async (store: ObjectStore, prefix = "") => (await listAll(store, prefix)).map((info) => info.key);

test("reading a folder makes nothing in it, and a missing folder is empty", () =>
  inFolder(async (folder, store) => {
    assert.deepEqual(await keysOf(store), []);
    assert.equal(await store.head("config.json"), undefined);
    assert.equal(existsSync(join(folder, "yard")), false);
    mkdirSync(join(folder, "yard/sub"), { recursive: true });
    writeFileSync(join(folder, "yard/sub/config.json"), "{}");
    const before = statSync(join(folder, "yard")).mtimeMs;
    assert.deepEqual(await keysOf(store), ["sub/config.json"]);
    await store.readInto("sub/config.json", 0, new Uint8Array(2));
    await store.get("sub/config.json", 10);
    await store.delete("not/there");
    assert.deepEqual(readdirSync(join(folder, "yard")), ["sub"]);
    assert.equal(statSync(join(folder, "yard")).mtimeMs, before);
  }));

test("a plain output folder ends with the output alone", () =>
  inFolder(async (folder, store) => {
    await store.create("config.json", patterned(10));
    await writeBytes(store, "model.safetensors", patterned(100_000));
    const { etag } = await store.create("channel", patterned(5));
    await store.replace("channel", patterned(6), etag);
    await store.copy("channel", "sub/copy");
    await store.delete("sub/copy");
    const ticket = await store.beginWrite("other", 10, [{ offset: 0, bytes: 10 }]);
    assert.deepEqual(readdirSync(join(folder, "yard")), [".mergeyard", "channel", "config.json", "model.safetensors"]);
    await store.abortWrite(ticket);
    assert.deepEqual(readdirSync(join(folder, "yard")), ["channel", "config.json", "model.safetensors"]);
  }, false));

test("links inside the folder are followed, links out of it are refused", () =>
  inFolder(async (folder, store) => {
    await store.create("real/file", patterned(10));
    mkdirSync(join(folder, "outside"));
    writeFileSync(join(folder, "outside/secret"), "secret");
    symlinkSync("real/file", join(folder, "yard/inner"));
    assert.deepEqual(await keysOf(store), ["inner", "real/file"]);
    await store.readInto("inner", 0, new Uint8Array(10));
    symlinkSync("../outside/secret", join(folder, "yard/leak"));
    symlinkSync("../outside", join(folder, "yard/way"));
    const error = await rejectsWith(store.get("leak", 100), "StoreLinkRefused");
    assert.equal(error.where.file, "leak");
    await rejectsWith(store.head("way/secret"), "StoreLinkRefused");
    await rejectsWith(store.readInto("way/secret", 0, new Uint8Array(1)), "StoreLinkRefused");
    await rejectsWith(store.create("way/new", patterned(1)), "StoreLinkRefused");
    await rejectsWith(store.create("way/deep/new", patterned(1)), "StoreLinkRefused");
    await rejectsWith(writeBytes(store, "way/new", patterned(1)), "StoreLinkRefused");
    await rejectsWith(store.copy("real/file", "way/new"), "StoreLinkRefused");
    await rejectsWith(store.copy("leak", "new"), "StoreLinkRefused");
    await rejectsWith(store.delete("way/secret"), "StoreLinkRefused");
    await rejectsWith(keysOf(store), "StoreLinkRefused");
    assert.deepEqual(readdirSync(join(folder, "outside")), ["secret"]);
  }));

test("writing to a key that is a link replaces the link, not its target", () =>
  inFolder(async (folder, store) => {
    await store.create("real", patterned(10, 1));
    symlinkSync("real", join(folder, "yard/link"));
    await writeBytes(store, "link", patterned(20, 2));
    assert.equal((await store.head("real"))?.bytes, 10);
    assert.equal(lstatSync(join(folder, "yard/link")).isSymbolicLink(), false);
  }));

test("a circle of links and a dangling link are no way to hang or to write", () =>
  inFolder(async (folder, store) => {
    await store.create("a/b", patterned(1));
    symlinkSync("nowhere", join(folder, "yard/dangling"));
    assert.equal(await store.head("dangling"), undefined);
    assert.deepEqual(await keysOf(store), ["a/b"]);
    await rejectsWith(store.create("dangling", patterned(1)), "StorePathOccupied");
    symlinkSync("..", join(folder, "yard/a/up"));
    await rejectsWith(keysOf(store), "StoreLinkRefused");
    symlinkSync("self", join(folder, "yard/self"));
    await rejectsWith(store.head("self"), "StoreLinkRefused");
  }));

test("a snapshot in a Hugging Face cache may link into its blobs, and nowhere else", () =>
  inFolder(async (folder) => {
    const snapshot = join(folder, "models--x/snapshots/abc");
    mkdirSync(snapshot, { recursive: true });
    mkdirSync(join(folder, "models--x/blobs"));
    writeFileSync(join(folder, "models--x/blobs/hash"), "weights");
    writeFileSync(join(folder, "models--x/other"), "other");
    symlinkSync("../../blobs/hash", join(snapshot, "model.safetensors"));
    const store = createDirectoryStore(snapshot, { durable: true });
    assert.deepEqual(await keysOf(store), ["model.safetensors"]);
    await store.readInto("model.safetensors", 0, new Uint8Array(7));
    symlinkSync("../../other", join(snapshot, "bad"));
    await rejectsWith(store.head("bad"), "StoreLinkRefused");
  }));

test("pipes and folders are not objects", () =>
  inFolder(async (folder, store) => {
    await store.create("folder/file", patterned(1));
    execFileSync("mkfifo", [join(folder, "yard/pipe")]);
    assert.equal(await store.head("pipe"), undefined);
    assert.equal(await store.get("pipe", 10), undefined);
    await rejectsWith(store.readInto("pipe", 0, new Uint8Array(1)), "StoreObjectMissing");
    assert.equal(await store.head("folder"), undefined);
    assert.equal(await store.get("folder", 10), undefined);
    await rejectsWith(store.readInto("folder", 0, new Uint8Array(1)), "StoreObjectMissing");
    await rejectsWith(store.copy("folder", "x"), "StoreObjectMissing");
    await store.delete("folder");
    assert.deepEqual(await keysOf(store), ["folder/file"]);
    await rejectsWith(store.create("folder", patterned(1)), "StorePathOccupied");
    await rejectsWith(writeBytes(store, "folder", patterned(1)), "StorePathOccupied");
    await rejectsWith(store.create("folder/file/below", patterned(1)), "StorePathOccupied");
    assert.deepEqual(readdirSync(join(folder, "yard/.mergeyard/tmp")), []);
  }));

test("a file whose name is no legal key is named, not skipped", () =>
  inFolder(async (folder, store) => {
    mkdirSync(join(folder, "yard"));
    writeFileSync(join(folder, "yard/a\\b"), "");
    await rejectsWith(keysOf(store), "StoreKeyInvalid");
  }));

test("leftovers of killed writers go when they are a day old, younger ones stay", () =>
  inFolder(async (folder, store) => {
    const area = join(folder, "yard/.mergeyard/tmp");
    mkdirSync(area, { recursive: true });
    writeFileSync(join(area, "old"), "x");
    writeFileSync(join(area, "young"), "x");
    const yesterday = Date.now() / 1000 - 25 * 3600;
    utimesSync(join(area, "old"), yesterday, yesterday);
    assert.deepEqual(await keysOf(store), []);
    assert.equal(readdirSync(area).length, 2, "reading removes nothing");
    await store.create("a", patterned(1));
    assert.deepEqual(readdirSync(area), ["young"]);
  }));

test("deleting removes folders that became empty, but not the root", () =>
  inFolder(async (folder, store) => {
    await store.create("a/b/c", patterned(1));
    await store.create("a/d", patterned(1));
    await store.delete("a/b/c");
    assert.deepEqual(readdirSync(join(folder, "yard/a")), ["d"]);
    await store.delete("a/d");
    assert.deepEqual(readdirSync(join(folder, "yard")), [".mergeyard"]);
  }));

test("a forged ticket cannot name a file outside the temporary folder", () =>
  inFolder(async (folder, store) => {
    await store.create("victim", patterned(10));
    const ticket = await store.beginWrite("large", 10, [{ offset: 0, bytes: 10 }]);
    for (const token of [
      "victim#1",
      "../../etc/passwd#1",
      ".mergeyard/tmp/../../victim#1",
      ".mergeyard/locks/x#1",
      "",
    ]) {
      await rejectsWith(store.openRegion({ ...ticket, token }, 0), "StoreTicketInvalid");
      await rejectsWith(store.finishWrite({ ...ticket, token }, [{ index: 0, parts: [] }]), "StoreTicketInvalid");
      await store.abortWrite({ ...ticket, token });
    }
    await rejectsWith(store.finishWrite({ ...ticket, key: "../x" }, [{ index: 0, parts: [] }]), "StoreKeyInvalid");
    assert.ok(existsSync(join(folder, "yard/victim")));
  }));

test("a temporary file cut short by someone else is not published", () =>
  inFolder(async (folder, store) => {
    const ticket = await store.beginWrite("large", 10, [{ offset: 0, bytes: 10 }]);
    const writer = await store.openRegion(ticket, 0);
    await writer.write(patterned(10));
    const receipt = await writer.close();
    const [name] = readdirSync(join(folder, "yard/.mergeyard/tmp"));
    writeFileSync(join(folder, "yard/.mergeyard/tmp", name ?? ""), "cut");
    await rejectsWith(store.finishWrite(ticket, [receipt]), "StoreContentMismatch");
    assert.equal(await store.head("large"), undefined);
  }));

test("a read after a file was replaced, cut or moved by another tool sees the file of now", () =>
  inFolder(async (folder, store) => {
    const path = join(folder, "yard/model");
    const into = new Uint8Array(4);
    await store.create("model", new TextEncoder().encode("aaaa"));
    await store.readInto("model", 0, into);
    writeFileSync(join(folder, "next"), "bbbb");
    await rename(join(folder, "next"), path);
    await store.readInto("model", 0, into);
    assert.equal(new TextDecoder().decode(into), "bbbb");
    writeFileSync(path, "cc");
    await rejectsWith(store.readInto("model", 0, into), "StoreShortRead");
    await rm(path);
    await rejectsWith(store.readInto("model", 0, into), "StoreObjectMissing");
  }));

test("a small file's ETag follows its content even when size, time and inode number stay the same", () =>
  inFolder(async (folder, store) => {
    const path = join(folder, "yard/channel");
    const { etag } = await store.create("channel", new TextEncoder().encode("one"));
    utimesSync(path, 1_700_000_000, 1_700_000_000);
    assert.equal((await store.head("channel"))?.etag, etag, "the time alone says nothing");
    const { ino } = statSync(path);
    writeFileSync(path, "two");
    utimesSync(path, 1_700_000_000, 1_700_000_000);
    assert.equal(statSync(path).ino, ino);
    assert.notEqual((await store.head("channel"))?.etag, etag);
    assert.equal((await store.replace("channel", patterned(3), etag)).replaced, false);
  }));

test("a large file that replaces one from the future is younger still", () =>
  inFolder(async (folder, store) => {
    const path = join(folder, "yard/large");
    await store.create("large", patterned(70_000, 1));
    const future = Date.now() / 1000 + 3600;
    utimesSync(path, future, future);
    const before = await store.head("large");
    const { replaced, etag } = await store.replace("large", patterned(70_000, 2), before?.etag ?? "");
    assert.ok(replaced);
    const after = await store.head("large");
    assert.equal(after?.etag, etag);
    assert.ok(statSync(path).mtimeMs / 1000 > future);
  }));

test("many files read in turn keep few descriptors open", () =>
  inFolder(async (_folder, store) => {
    const keys = Array.from({ length: 150 }, (_none, index) => `file-${index}`);
    for (const key of keys) await store.create(key, patterned(8));
    const countOpen = () => readdirSync("/proc/self/fd").length;
    const before = countOpen();
    for (const key of keys) await store.readInto(key, 0, new Uint8Array(8));
    assert.ok(countOpen() - before <= 70, `${countOpen() - before} more descriptors`);
  }, false));

test("an object that no disk can hold is refused before a byte is written", () =>
  inFolder(async (folder, store) => {
    const bytes = 2 ** 50;
    const error = await rejectsWith(store.beginWrite("large", bytes, [{ offset: 0, bytes }]), "StoreFull");
    assert.equal(error.where.file, "large");
    assert.deepEqual(readdirSync(join(folder, "yard/.mergeyard/tmp")), []);
  }));

test("a body too large for one conditional write is refused", () =>
  inFolder(async (_folder, store) => {
    const large = new Uint8Array(128 * 1024 * 1024 + 1);
    await rejectsWith(store.create("a", large), "StoreObjectTooLarge");
    await rejectsWith(store.replace("a", large, "x"), "StoreObjectTooLarge");
  }));

const canMount = process.platform === "linux" && process.getuid?.() === 0;
test(
  "a disk that fills up while writing leaves nothing behind",
  { skip: canMount ? false : "needs root to mount" },
  (t) =>
    inFolder(async (folder) => {
      const disk = join(folder, "disk");
      mkdirSync(disk);
      try {
        execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], { stdio: "ignore" });
      } catch {
        t.skip("mounting is not allowed here");
        return;
      }
      try {
        const store = createDirectoryStore(disk, { durable: false });
        const ticket = await store.beginWrite("large", 1_900_000, [{ offset: 0, bytes: 1_900_000 }]);
        writeFileSync(join(disk, "other"), new Uint8Array(1_000_000));
        const writer = await store.openRegion(ticket, 0);
        await rejectsWith(writer.write(patterned(1_900_000)), "StoreFull");
        await store.abortWrite(ticket);
        const error = await rejectsWith(store.create("small", patterned(1_900_000)), "StoreFull");
        assert.equal(error.where.file, "small");
        assert.equal(error.retryable, false);
        assert.deepEqual(readdirSync(disk), ["other"]);
      } finally {
        execFileSync("umount", [disk]);
      }
    }),
);

test("each system error becomes the code that says what to do", () => {
  const codeOf = (errno: string) => {
    const error = toFileError(Object.assign(new Error(errno), { code: errno, syscall: "write" }), "/yard", "key");
    assert.ok(error instanceof MergeyardError);
    assert.deepEqual([error.where, error.found], [{ store: "/yard", file: "key" }, errno]);
    return error.code;
  };
  assert.equal(codeOf("EDQUOT"), "StoreFull");
  assert.equal(codeOf("EROFS"), "StoreAccessDenied");
  assert.equal(codeOf("EMFILE"), "StoreUnavailable");
  assert.equal(codeOf("ENAMETOOLONG"), "StoreKeyInvalid");
  assert.equal(codeOf("EIO"), "StoreFailed");
  const other = new TypeError("a bug");
  assert.equal(toFileError(other, "/yard", "key"), other);
});
