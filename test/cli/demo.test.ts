import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test from "node:test";

const ROOT = path.resolve(import.meta.dirname, "../..");

test("the demo shows the whole product in less than a minute and leaves a verified model", (t) => {
  const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-demo-"));
  t.after(() => rmSync(scratch, { recursive: true, force: true }));
  const folder = path.join(scratch, "demo");
  const run = spawnSync(process.execPath, ["tools/demo.ts", folder], { cwd: ROOT, encoding: "utf8", timeout: 60_000 });
  assert.equal(run.status, 0, run.stderr);
  const commands = [...run.stdout.matchAll(/^\$ npx mergeyard (\w+)/gm)].map((match) => match[1]);
  assert.deepEqual(commands, ["init", "inspect", "plan", "run", "pull", "verify", "run"]);
  assert.match(run.stdout, /nothing changed: .*; nothing was computed/);
  assert.match(run.stdout, /What to try next:/);
  assert.ok(readdirSync(path.join(folder, "bard-and-snake")).includes("model.safetensors"));
});

test("the demo never empties a folder that was named", (t) => {
  const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-demo-"));
  t.after(() => rmSync(scratch, { recursive: true, force: true }));
  const run = spawnSync(process.execPath, ["tools/demo.ts", scratch], { cwd: ROOT, encoding: "utf8" });
  assert.equal(run.status, 2);
  assert.deepEqual(readdirSync(scratch), []);
});
