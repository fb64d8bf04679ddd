// The folder that a command makes: what the file system refuses is a typed error, and nothing is left.
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { MergeyardError } from "../../core/error.ts";
import { beginOutputFolder } from "../../local/output-folder.ts";

test("a place where no folder can be is refused by the code of what is wrong there", async () => {
  const root = mkdtempSync(join(tmpdir(), "mergeyard-output-"));
  try {
    writeFileSync(join(root, "file"), "x");
    const begin = (...names: string[]) => beginOutputFolder(join(root, ...names), { force: false });
    await assert.rejects(begin("file", "out"), { code: "CliOutputOccupied" });
    await assert.rejects(begin("n".repeat(300)), { code: "StoreKeyInvalid" });
    const output = await begin("gone", "out");
    rmSync(join(root, "gone"), { recursive: true });
    await assert.rejects(output.commit(), { code: "StoreObjectMissing" });
    assert.deepEqual(readdirSync(root), ["file"]);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});

const noProc = existsSync("/proc/self") ? false : "no /proc: Linux has it";

test("a file system that makes no folders refuses them, and nobody waits for ever", { skip: noProc }, async () => {
  const begun = beginOutputFolder("/proc/no/such/place", { force: false });
  await assert.rejects(begun, { code: "StoreObjectMissing" });
});

test("an error of the folder that was being filled speaks of the one that was asked for", async () => {
  const root = mkdtempSync(join(tmpdir(), "mergeyard-output-"));
  try {
    const [target, { href }] = [join(root, "out $& put"), pathToFileURL(join(root, "out $& put"))];
    const output = await beginOutputFolder(target, { force: false });
    for (const [store, told] of [
      [output.path, target],
      [`${pathToFileURL(output.path).href}?durable=false`, `${href}?durable=false`],
    ]) {
      const full = new MergeyardError("StoreFull", { where: { store, file: "model.safetensors" }, found: "ENOSPC" });
      const said = await output.discard(full);
      assert.ok(said instanceof MergeyardError);
      assert.deepEqual([said.code, said.where], ["StoreFull", { store: told, file: "model.safetensors" }]);
    }
    assert.deepEqual(readdirSync(root), []);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});

const skip = process.getuid?.() === 0 ? "root may write everywhere" : false;

test("a folder without permission is refused as a store would", { skip }, async () => {
  const root = mkdtempSync(join(tmpdir(), "mergeyard-output-"));
  try {
    mkdirSync(join(root, "closed"), { mode: 0o555 });
    const begun = beginOutputFolder(join(root, "closed", "out"), { force: false });
    await assert.rejects(begun, { code: "StoreAccessDenied" });
  } finally {
    chmodSync(join(root, "closed"), 0o755);
    rmSync(root, { recursive: true, force: true });
  }
});
