// `mergeyard serve` with real workers: from an upload to a published version, stopped and killed on the way. What is
// due, and when, is in test/local/serve.test.ts.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test, { after } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
const MODELS = path.join(ROOT, "examples/models");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-serve-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const pipeline = (weight: number, on = 'upload: ["base", "python"]') => `name: mix
on: { ${on} }
merge:
  merge_method: linear
  models:
    - {model: base, parameters: {weight: ${weight}}}
    - {model: python, parameters: {weight: 0.5}}
publish: {model: mix, channel: nightly}
`;

async function call(...args: readonly string[]) {
  const terminal = { ...createRecorder({ cwd: scratch }), env: process.env };
  const status = await main(args, terminal);
  return { status, out: terminal.out(), err: terminal.err() };
}

async function makeYard(name: string, pipelines: Readonly<Record<string, string>>): Promise<string> {
  const yard = path.join(scratch, name);
  await call("init", yard);
  mkdirSync(path.join(yard, "pipelines"));
  for (const [file, text] of Object.entries(pipelines)) writeFileSync(path.join(yard, "pipelines", file), text);
  for (const model of ["base", "python"]) {
    cpSync(path.join(MODELS, model), path.join(yard, "incoming", model, "1"), { recursive: true });
  }
  return yard;
}

/** Serves as a process of its own until its stderr says `until`, and ends it then. */
async function serveUntil(yard: string, until: RegExp, signal: NodeJS.Signals) {
  const args = [path.join(ROOT, "cli/mergeyard.mjs"), "serve", "--yard", yard, "--every", "0.1", "--json"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let [out, err, ended] = ["", "", false];
  child.stdout.setEncoding("utf8").on("data", (piece: string) => {
    out += piece;
  });
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    err += piece;
    // Once: the second time means at once, without cleaning up.
    if (!ended && until.test(err)) ended = child.kill(signal);
  });
  const [status] = await once(child, "close");
  return { status, out, err };
}

test("uploads become a published version, once", async () => {
  const yard = await makeYard("once", { "mix.yaml": pipeline(0.5) });
  const first = await call("serve", "--yard", yard, "--once");
  assert.equal(first.status, 0, first.err);
  assert.match(first.out, /^published mix@[0-9a-f]{16} \(.*\); mix:nightly points to it\n/);
  assert.match(first.err, /^start {6}pipelines\/mix\.yaml: upload-mix-[0-9a-f]{16}, upload-mix-[0-9a-f]{16}\n/);
  assert.deepEqual(await call("serve", "--yard", yard, "--once"), { status: 0, out: "", err: "" });
  cpSync(path.join(MODELS, "shakespeare"), path.join(yard, "incoming/python/2"), { recursive: true });
  const second = await call("serve", "--yard", yard, "--once", "--json");
  const { pipeline: key, starts, status, result } = JSON.parse(second.out);
  assert.deepEqual([key, starts.length, status, result.outcome], ["pipelines/mix.yaml", 1, "done", "published"]);
});

test("killed in a run and interrupted in the next, it goes on with the same run", async () => {
  const yard = await makeYard("killed", { "mix.yaml": pipeline(0.25) });
  assert.equal((await serveUntil(yard, /"worker-started"/, "SIGKILL")).status, null);
  const stopped = await serveUntil(yard, /"worker-started"/, "SIGTERM");
  assert.deepEqual([stopped.status, stopped.out], [130, ""], stopped.err);
  const whole = await serveUntil(yard, /"event":"start-kept"/, "SIGINT");
  assert.equal(whole.status, 130, whole.err);
  const { result } = JSON.parse(whole.out);
  assert.equal(result.outcome, "published");
  assert.deepEqual(readdirSync(path.join(yard, "runs")), [result.run], "one run, however often it was begun");
});

test("one pipeline fails, one cannot be read, the third is published, and the status says so", async () => {
  const yard = await makeYard("failing", {
    "a.yaml": pipeline(0.5).replace("{model: base,", "{model: nowhere,"),
    "b.yaml": "name: [",
    "c.yaml": pipeline(0.5),
  });
  const { status, out, err } = await call("serve", "--yard", yard, "--once");
  assert.match(out, /^published mix@/);
  assert.match(err, /^error: RecipeSyntax\n.*\n.*pipelines\/b\.yaml.*line 1/);
  const codes = [...err.matchAll(/^error: (\w+)/gm)].map(([, code]) => code);
  assert.deepEqual(codes, ["RecipeSyntax", "YardModelMissing", "CliServeFailed"]);
  assert.deepEqual([status, /found {5}(.*)\n.*\n$/.exec(err)?.[1]], [1, "2 pipelines"]);
  const again = await call("serve", "--yard", yard, "--once");
  assert.deepEqual([again.status, again.out], [1, ""], "what cannot be read is told again");
  assert.doesNotMatch(again.err, /YardModelMissing/, "what failed is not begun again");
});

test("options that make no sense are a usage error, and a place that is no yard is said", async () => {
  assert.equal((await call("serve")).status, 2);
  assert.equal((await call("serve", "--yard", ".", "--once", "--every", "5")).status, 2);
  assert.equal((await call("serve", "--yard", ".", "--every", "0")).status, 2);
  const { status, err } = await call("serve", "--yard", scratch);
  assert.deepEqual([status, /^error: (\w+)/m.exec(err)?.[1]], [1, "YardMissing"]);
});
