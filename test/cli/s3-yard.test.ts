// Every command that takes a yard, on `s3://bucket/prefix` and a real S3 server, one after the other as a team would
// use them. The commands are taken from the help text: one that is not used here fails the last test.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { main } from "../../cli/main.ts";
import { openStore } from "../../stores/open.ts";
import { plainNumbers } from "../random-numbers.ts";
import { writePlainModel } from "./model-files.ts";
import { createRecorder } from "./recorder.ts";

const endpoint = process.env.MERGEYARD_TEST_S3_ENDPOINT;
const bucket = process.env.MERGEYARD_TEST_S3_BUCKET ?? "tests";
const skip = endpoint === undefined ? "no S3 server: see test/functions/s3-pipeline.test.ts" : undefined;
if (endpoint !== undefined) process.env.MERGEYARD_S3_ENDPOINT = endpoint;

const MODELS = path.resolve(import.meta.dirname, "../../examples/models");
const YARD = `s3://${bucket}/${randomUUID()}`;
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-s3-yard-"));
after(async () => {
  rmSync(scratch, { recursive: true });
  if (endpoint === undefined) return;
  const yard = openStore(YARD, process.env);
  for await (const { key } of yard.list("")) await yard.delete(key);
});

const PIPELINE = (weight: number) => `name: on-s3
models: { base: incoming/base, python: incoming/python }
merge:
  merge_method: task_arithmetic
  base_model: base
  models: [{ model: python }]
  parameters: { weight: ${weight} }
publish: { model: on-s3, channel: nightly }
`;

const used = new Set<string>();

/** What a command prints as JSON. */
async function call(name: string, ...args: readonly string[]): Promise<Record<string, unknown>> {
  const terminal = { ...createRecorder({ cwd: scratch }), env: process.env, now: Date.now };
  const status = await main([name, ...args, ...(name === "init" ? [] : ["--yard", YARD]), "--json"], terminal);
  assert.equal(status, 0, `${name}: ${terminal.err()}`);
  used.add(name);
  return JSON.parse(terminal.out());
}

const published = (answer: Record<string, unknown>): string => String(Object(answer.result).version);

test("a yard on S3 is made, filled, planned, run, listed, shown, reported and checked", { skip }, async () => {
  assert.deepEqual(await call("init", YARD), { yard: YARD, created: true });
  for (const model of ["base", "python"]) await call("push", path.join(MODELS, model), model);
  writeFileSync(path.join(scratch, "p.yaml"), PIPELINE(0.5));
  assert.ok(Number((await call("plan", "p.yaml")).units) > 0);
  const run = await call("run", "p.yaml");
  assert.equal(Object(run.result).outcome, "published");
  const models: readonly { model: string }[] = Object(await call("ls")).models;
  assert.deepEqual(models.map(({ model }) => model).sort(), ["base", "on-s3", "python"]);
  assert.equal((await call("show", "on-s3:nightly")).version, published(run));
  const [{ run: id }] = Object((await call("logs")).runs);
  assert.equal((await call("logs", id)).run, id);
  await call("report", id, "--out", "run.html");
  assert.equal(Object((await call("verify")).verified).length, 1);
});

test("a version on S3 is pulled, derived from, promoted, rolled back and collected", { skip }, async () => {
  const pulled = await call("pull", "on-s3:nightly", "served");
  const first = String(pulled.version);
  writeFileSync(path.join(scratch, "p.yaml"), PIPELINE(0.25));
  const second = published(await call("run", "p.yaml"));
  assert.notEqual(second, first);
  assert.equal((await call("pull", "on-s3:nightly", "served")).version, second);
  await call("promote", `on-s3@${first}`, "stable");
  assert.equal((await call("show", "on-s3:stable")).version, first);
  await call("rollback", "on-s3:nightly");
  assert.equal((await call("show", "on-s3:nightly")).version, first);
  await call("gc", "--keep", "1", "--dry-run");
  await call("push", path.join(MODELS, "base"), "python", "--upload", "later");
  await call("run", "p.yaml");
  const inputs = ["--keep-uploads", "1", "--keep-checkpoints", "1", "--grace", "0m"];
  const would: unknown = (await call("gc", ...inputs, "--dry-run")).removed;
  const gone: readonly { kind: string; model: string }[] = Object(await call("gc", ...inputs)).removed;
  assert.deepEqual(
    gone.map(({ kind, model }) => [kind, model]),
    [["upload", "python"]],
  );
  assert.deepEqual(would, gone);
  assert.equal(Object(await call("verify")).verified.length, 3, "what versions name is there");
  const terminal = { ...createRecorder({ cwd: scratch }), env: process.env };
  const scheme = ["--scheme", "int8_channel", "--out", "int8"];
  assert.equal(await main(["quantize", path.join(MODELS, "base"), ...scheme], terminal), 0, terminal.err());
  await call("push", "int8", "small");
  await call("derive", "small", "--bits", "6", "--out", "int6");
});

test("a yard on S3 is served", { skip }, async () => {
  const store = openStore(YARD, process.env);
  const triggered = PIPELINE(0.125).replace("merge:", "on: { upload: [python] }\nmerge:");
  await store.create("pipelines/served.yaml", new TextEncoder().encode(triggered));
  const { pipeline, result } = await call("serve", "--once");
  assert.deepEqual([pipeline, Object(result).outcome], ["pipelines/served.yaml", "published"]);
});

test("models of a yard on S3 are aligned, given tokenizers, their experts merged, and published", {
  skip,
}, async () => {
  await call("align", path.join(MODELS, "python"), "--to", "on-s3:nightly", "--out", "aligned");
  const { version } = await call("publish", "aligned", "aligned");
  assert.equal((await call("show", "aligned")).version, version);
  const experts = [0, 1].flatMap((expert) => ["w1", "w2", "w3"].map((part) => `experts.${expert}.${part}`));
  const tensors = ["gate", ...experts].map((name, seed) => [
    `model.layers.0.block_sparse_moe.${name}.weight`,
    { shape: [2, 2], values: plainNumbers(4, seed) },
  ]);
  const config = { "config.json": { model_type: "mixtral" } };
  writePlainModel(path.join(scratch, "mixtral"), "model.safetensors", Object.fromEntries(tensors), config);
  await call("push", "mixtral", "mixtral");
  await call("merge-experts", "mixtral", "--groups", "1", "--data-free", "--out", "one-expert");
  await call("push", path.join(MODELS, "tokens-code"), "tokens-code");
  const english = path.join(MODELS, "tokens-english");
  await call("transplant", english, "--tokenizer", "tokens-code", "--k", "8", "--out", "english-in-code");
});

test("no command that takes a yard was left out", { skip }, async () => {
  const help = async (...args: readonly string[]) => {
    const terminal = createRecorder();
    assert.equal(await main([...args, "--help"], terminal), 0);
    return terminal.out();
  };
  const names = [...(await help()).matchAll(/^ {2}([a-z][a-z-]+)(?: |$)/gm)].map((match) => match[1] ?? "");
  assert.ok(names.length > 20, names.join(" "));
  const taking: string[] = [];
  for (const name of names) if (/--yard|<yard>/.test(await help(name))) taking.push(name);
  assert.deepEqual([...used].sort(), taking.sort());
});
