// Recipes that name models of the Hugging Face hub: found where its tools have downloaded them, never downloaded.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const EXAMPLES = path.join(import.meta.dirname, "../../examples");

test("a name of the hub is found in the cache of Hugging Face's tools, by branch and by commit", async (context) => {
  const cwd = mkdtempSync(path.join(os.tmpdir(), "mergeyard-hub-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  const repository = path.join(cwd, "cache/models--org--tiny");
  const commit = "0123abcd".repeat(5);
  const snapshot = path.join(repository, "snapshots", commit);
  for (const folder of [snapshot, path.join(repository, "blobs"), path.join(repository, "refs")]) {
    mkdirSync(folder, { recursive: true });
  }
  writeFileSync(path.join(repository, "refs/main"), commit);
  for (const name of ["config.json", "model.safetensors"]) {
    cpSync(path.join(EXAMPLES, "models/python", name), path.join(repository, "blobs", `of-${name}`));
    symlinkSync(path.join("../../blobs", `of-${name}`), path.join(snapshot, name));
  }
  const run = async (model: string) => {
    writeFileSync(
      path.join(cwd, "recipe.json"),
      JSON.stringify({ merge_method: "linear", models: [{ model }], parameters: { weight: 1 } }),
    );
    const terminal = { ...createRecorder({ cwd }), env: { HF_HUB_CACHE: path.join(cwd, "cache") } };
    const status = await main(["merge", "recipe.json", "--out", "out", "--force", "--json"], terminal);
    return status === 0 ? "merged" : JSON.parse(terminal.err()).error.code;
  };
  assert.equal(await run("org/tiny"), "merged");
  assert.equal(await run(`org/tiny@${commit}`), "merged");
  for (const missing of ["org/tiny@other", "org/none", "org/tiny@../main"]) {
    assert.equal(await run(missing), "YardModelMissing", missing);
  }
});
