// An installation ends well with and without development packages; `npm ci` itself is what continuous integration runs.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";

const PREPARE = path.resolve(import.meta.dirname, "../../tools/prepare.mjs");

test("an installation without development packages is complete without a build", (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "mergeyard-prepare-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const alone = path.join(folder, "prepare.mjs");
  copyFileSync(PREPARE, alone);
  const { status, stdout, stderr } = spawnSync(process.execPath, [alone], { cwd: folder, encoding: "utf8" });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^dist\/ is not built, .*rolldown.*\n$/);
});
