// The built command line: when the launcher takes it instead of the sources, and that it does what they do.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test, { after } from "node:test";
import { buildCommandLine } from "../../tools/build.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-built-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** A folder with the launcher alone. */
function makeRoot(name: string): string {
  const root = path.join(scratch, name);
  mkdirSync(path.join(root, "cli"), { recursive: true });
  copyFileSync(path.join(ROOT, "cli/mergeyard.mjs"), path.join(root, "cli/mergeyard.mjs"));
  return root;
}

function launch(root: string, args: readonly string[] = []): string {
  const ended = spawnSync(process.execPath, [path.join(root, "cli/mergeyard.mjs"), ...args], { encoding: "utf8" });
  assert.equal(ended.status, 0, ended.stderr);
  return ended.stdout;
}

test("the launcher says the version by itself", () => {
  const root = makeRoot("version");
  writeFileSync(path.join(root, "package.json"), JSON.stringify({ version: "1.2.3" }));
  assert.equal(launch(root, ["--version"]), "1.2.3\n");
});

test("the launcher takes what is built until a source is younger, or the building did not end", () => {
  const root = makeRoot("choice");
  writeFileSync(
    path.join(root, "cli/main.ts"),
    'export const runMain = async (): Promise<void> => console.log("source");',
  );
  assert.equal(launch(root), "source\n");
  mkdirSync(path.join(root, "dist"));
  writeFileSync(path.join(root, "dist/main.mjs"), 'export const runMain = async () => console.log("built");');
  assert.equal(launch(root), "source\n");
  writeFileSync(path.join(root, "dist/sources.json"), JSON.stringify(["cli/main.ts", "core/gone.ts"]));
  assert.equal(launch(root), "built\n");
  const later = Date.now() / 1000 + 10;
  utimesSync(path.join(root, "cli/main.ts"), later, later);
  assert.equal(launch(root), "source\n");
});

test("what is built needs nothing beside it, and works in threads and in jobs as the sources do", async () => {
  const root = makeRoot("whole");
  const { files } = await buildCommandLine(path.join(root, "dist"));
  assert.deepEqual(
    files.filter((file) => !file.endsWith(".mjs")),
    ["kernels.wasm", "package.json"],
  );
  for (const shared of files.filter((file) => file.startsWith("shared-"))) {
    assert.doesNotMatch(readFileSync(path.join(root, "dist", shared), "utf8"), /node_modules\/@(aws|smithy)/);
  }
  // `import { z }`, or a value of `z.core`, would load zod's messages in all languages at every start.
  const withLanguages = files.filter((file) =>
    readFileSync(path.join(root, "dist", file)).includes("zod/v4/locales/fr"),
  );
  assert.deepEqual(withLanguages, []);
  // Threads validate nothing, and only those that merge need what says so of methods.
  assert.doesNotMatch(readFileSync(path.join(root, "dist/thread.mjs"), "utf8"), /node_modules\/zod/);
  const digests = [root, ROOT].map((from, index) => {
    const out = path.join(scratch, `merged-${index}`);
    launch(from, ["merge", path.join(ROOT, "examples/ties.yaml"), "--threads", "2", "--out", out]);
    return JSON.parse(readFileSync(path.join(out, "manifest.json"), "utf8")).files;
  });
  assert.deepEqual(digests[0], digests[1]);

  const yard = path.join(scratch, "yard");
  const pipeline = path.join(ROOT, "examples/pipeline.yaml");
  launch(root, ["init", yard]);
  for (const model of ["base", "shakespeare", "python"]) {
    cpSync(path.join(ROOT, "examples/models", model), path.join(yard, "incoming", model, "1"), { recursive: true });
  }
  assert.match(launch(root, ["run", pipeline, "--yard", yard]), /published|succeeded/i);
});
