// What happens when the machine's own Node is too old: the command moves to the Node that npm installed, and the
// scripts that run the tests refuse to start.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import test from "node:test";

const ROOT = path.resolve(import.meta.dirname, "../..");

function majorOf(node: string): number {
  return Number(/^v(\d+)/.exec(spawnSync(node, ["--version"], { encoding: "utf8" }).stdout ?? "")?.[1] ?? 0);
}

/** A Node older than 24 on this machine: named by the environment, or found in PATH. */
function findOldNode(): string | undefined {
  const named = process.env.MERGEYARD_TEST_OLD_NODE;
  const found = (process.env.PATH ?? "").split(path.delimiter).map((folder) => path.join(folder, "node"));
  return (named === undefined ? found : [named]).find((node) => existsSync(node) && majorOf(node) < 24);
}

const oldNode = findOldNode();
const options =
  oldNode === undefined
    ? { skip: "no Node older than 24 here; name one with MERGEYARD_TEST_OLD_NODE=/path/to/node" }
    : {};

test("under an old Node the command runs with the pinned one and keeps its exit status", options, () => {
  const bin = path.join(ROOT, "cli/mergeyard.mjs");
  const version = spawnSync(oldNode ?? "", [bin, "--version"], { encoding: "utf8" });
  assert.equal(version.status, 0, version.stderr);
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
  const refused = spawnSync(oldNode ?? "", [bin, "inspect", "/no/such/model", "--json"], { encoding: "utf8" });
  assert.equal(refused.status, 1);
  assert.equal(JSON.parse(refused.stderr).error.code, "CliSourceMissing");
});

test("under an old Node the test run fails instead of finding no tests", options, () => {
  const run = spawnSync(oldNode ?? "", ["--import", "./tools/require-node.mjs", "tools/run-tests.ts"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.equal(run.status, 1);
  assert.match(run.stderr, /needs Node 24/);
});

test("a test run that finds no test fails", () => {
  const run = spawnSync(process.execPath, ["tools/run-tests.ts", "docs"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  assert.equal(run.status, 1);
  assert.match(run.stdout, /no tests ran/);
});
