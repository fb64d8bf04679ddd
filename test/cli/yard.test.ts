// The yard's commands through the command line: init, plan, run, ls, show, pull, verify, with real workers as children.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test, { after } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const EXAMPLES = path.resolve(import.meta.dirname, "../../examples");
const PIPELINE = path.join(EXAMPLES, "pipeline.yaml");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-yard-"));
/** The yard of the test that runs a pipeline from end to end; later tests look at what it left. */
const WHOLE = path.join(scratch, "whole");
after(() => rmSync(scratch, { recursive: true, force: true }));

type Answer = {
  status: number;
  out: Record<string, unknown>;
  error: Record<string, unknown> | undefined;
  events: string;
};

function call(...args: readonly string[]): Promise<Answer> {
  return callWith({}, ...args);
}

async function callWith(env: Readonly<Record<string, string>>, ...args: readonly string[]): Promise<Answer> {
  const terminal = createRecorder({ cwd: scratch });
  const status = await main([...args, "--json"], { ...terminal, env: { ...process.env, ...env } });
  const lines = terminal.err().trimEnd().split("\n");
  const out = status === 0 ? JSON.parse(terminal.out()) : {};
  const error = status === 0 ? undefined : JSON.parse(lines.at(-1) ?? "").error;
  return { status, out, error, events: terminal.err() };
}

/** A yard with the example models as uploads. */
async function makeYard(name: string): Promise<string> {
  const yard = path.join(scratch, name);
  assert.deepEqual((await call("init", yard)).out, { yard: `file://${yard}`, created: true });
  for (const model of ["base", "shakespeare", "python"]) {
    cpSync(path.join(EXAMPLES, "models", model), path.join(yard, "incoming", model, "1"), { recursive: true });
  }
  return yard;
}

/** Every file of a yard, without the store's own bookkeeping. */
function listFiles(yard: string): string[] {
  return readdirSync(yard, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.parentPath.includes(".mergeyard"))
    .map((entry) => path.relative(yard, path.join(entry.parentPath, entry.name)))
    .sort();
}

test("init makes a place a yard once, and refuses a place that holds other things", async () => {
  const yard = await makeYard("once");
  assert.equal((await call("init", yard)).out.created, false);
  const full = path.join(scratch, "full");
  cpSync(path.join(EXAMPLES, "models/base"), full, { recursive: true });
  const refused = await call("init", full);
  assert.deepEqual([refused.status, refused.error?.code], [1, "YardPlaceNotEmpty"]);
});

test("a command on a place that is no yard says so", async () => {
  for (const args of [["ls"], ["show", "m"], ["pull", "m", "d"], ["plan", PIPELINE], ["run", PIPELINE], ["verify"]]) {
    const { status, error } = await call(...args, "--yard", path.join(scratch, "no-yard"));
    assert.deepEqual([status, error?.code], [1, "YardMissing"], args.join(" "));
  }
});

test("a pipeline is planned, run, shown, pulled and verified; run again it computes nothing", async () => {
  const yard = await makeYard(path.basename(WHOLE));
  const before = listFiles(yard);
  const plan = await call("plan", PIPELINE, "--yard", yard);
  assert.deepEqual(listFiles(yard), before, "planning writes nothing");
  assert.equal(plan.out.units, 8);
  const { region, pricesAsOf, awsUsd } = Object(plan.out.estimate);
  assert.deepEqual([region, pricesAsOf], ["us-east-1", "2026-06"]);
  assert.ok(awsUsd > 0);

  const first = await call("run", PIPELINE, "--yard", yard);
  assert.equal(first.status, 0, first.events);
  const { version, outcome } = Object(first.out.result);
  assert.deepEqual([outcome, Object(first.out.summary).units, Object(first.out.summary).cached], ["published", 8, 0]);

  const again = await call("run", PIPELINE, "--yard", yard);
  assert.deepEqual([Object(again.out.result).outcome, Object(again.out.result).version], ["unchanged", version]);
  assert.doesNotMatch(again.events, /unit-started|"cached":false/, "nothing is computed again");

  const models = Object((await call("ls", "--yard", yard)).out).models;
  const listed = models.find((entry: { model: string }) => entry.model === "bard-and-snake");
  assert.deepEqual(listed.channels, { nightly: version });
  const stored = path.join(yard, "artifacts/bard-and-snake", version);
  const sizes = listFiles(stored).map((name) => statSync(path.join(stored, name)).size);
  assert.equal(
    listed.versions[0].bytes,
    sizes.reduce((sum, bytes) => sum + bytes, 0),
  );
  assert.equal(models.find((entry: { model: string }) => entry.model === "base").uploads.length, 1);

  const shown = await call("show", "bard-and-snake:nightly", "--yard", yard);
  assert.deepEqual([shown.out.version, shown.out.channels], [version, ["nightly"]]);
  assert.equal(Object(shown.out.manifest).inputs.length, 3);

  const folder = path.join(scratch, "pulled");
  const pulled = await call("pull", "bard-and-snake:nightly", folder, "--yard", yard);
  assert.deepEqual([pulled.out.version, pulled.out.files, pulled.out.present], [version, 4, 0]);
  assert.deepEqual(readdirSync(folder).sort(), [
    "README.md",
    "config.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
  ]);
  assert.equal((await call("pull", `bard-and-snake@${version}`, folder, "--yard", yard)).out.present, 4);

  assert.equal(Object((await call("verify", folder)).out).verified[0].version, version);
  assert.equal(Object((await call("verify", "--yard", yard)).out).verified.length, 1);
  const weights = path.join(folder, "model.safetensors");
  const bytes = readFileSync(weights);
  bytes.writeUInt8((bytes.at(-1) ?? 0) ^ 1, bytes.length - 1);
  writeFileSync(weights, bytes);
  const spoilt = await call("verify", folder);
  assert.deepEqual([spoilt.status, spoilt.error?.code], [1, "YardFileCorrupt"]);
  assert.equal(Object(spoilt.error?.where).tensor, "model.norm.weight");
});

test("a run with a signing key publishes what --key accepts, and other keys refuse", async () => {
  const yard = await makeYard("signed");
  const made = await call("keygen", "publisher.pem");
  const { keyId } = made.out;
  assert.equal((await call("keygen", "publisher.pem")).error?.code, "SigningKeyPlace");
  await call("keygen", "stranger.pem");
  const run = await callWith(
    { MERGEYARD_SIGNING_KEY: path.join(scratch, "publisher.pem") },
    "run",
    PIPELINE,
    "--yard",
    yard,
  );
  assert.equal(Object(run.out.result).outcome, "published", run.events);
  assert.equal((await call("public-key", "publisher.pem")).out.keyId, keyId);
  const pull = ["pull", "bard-and-snake:nightly", "signed-pull", "--yard", yard];
  const stranger = (await call(...pull, "--key", "stranger.pem.pub")).error;
  assert.deepEqual([stranger?.code, Object(stranger?.where).store], ["SignatureUntrusted", `file://${yard}`]);
  const secret = (await call(...pull, "--key", "publisher.pem")).error;
  assert.deepEqual([secret?.code, secret?.where], ["SigningKeyInvalid", { file: "publisher.pem" }]);
  const pulled = await call(...pull, "--key", "publisher.pem.pub");
  assert.deepEqual(pulled.out.signature, { status: "valid", keyIds: [keyId] });
  const trusting = { MERGEYARD_PUBLIC_KEY: "publisher.pem.pub" };
  const whole = await callWith(trusting, "verify", "--yard", yard);
  const [verified] = Object(whole.out).verified;
  assert.deepEqual([verified.signature.status, verified.lineage.length], ["valid", 3]);
  assert.ok(verified.lineage.every(({ place }: { place: string }) => place.startsWith("checkpoints/")));
  assert.equal((await callWith(trusting, "verify", "signed-pull")).status, 0);
  assert.equal(
    (await callWith({ MERGEYARD_SIGNING_KEY: "absent" }, "run", PIPELINE, "--yard", yard)).error?.code,
    "SigningKeyInvalid",
  );
});

test("what is asked for and is not there is named, with what there is", async () => {
  const yard = WHOLE;
  const cases: [string[], string][] = [
    [["show", "nobody"], "YardModelMissing"],
    [["show", "bard-and-snake"], "YardChannelMissing"],
    [["pull", "bard-and-snake@0000000000000000", "x"], "YardVersionMissing"],
    [["pull", "a@b@c", "x"], "YardReferenceInvalid"],
  ];
  for (const [args, code] of cases) {
    const { status, error } = await call(...args, "--yard", yard);
    assert.deepEqual([status, error?.code], [1, code], args.join(" "));
  }
});

test("a version whose manifest was changed is not shown as what its name says", async () => {
  const yard = path.join(scratch, "changed");
  cpSync(WHOLE, yard, { recursive: true });
  const { version, prefix } = (await call("show", "bard-and-snake:nightly", "--yard", yard)).out;
  const file = path.join(yard, String(prefix), "manifest.json");
  const text = readFileSync(file, "utf8");
  rmSync(file);
  writeFileSync(file, text.replace("task_arithmetic", "task_aritmetic"));
  const { error } = await call("show", "bard-and-snake:nightly", "--yard", yard);
  assert.deepEqual([error?.code, error?.expected], ["YardFileCorrupt", version]);
});

test("a truncated shard fails the plan before anything is written, with the file and what to do", async () => {
  const yard = await makeYard("truncated");
  truncateSync(path.join(yard, "incoming/python/1/model.safetensors"), 1_000_000);
  const before = listFiles(yard);
  const { status, error } = await call("run", PIPELINE, "--yard", yard);
  assert.deepEqual([status, error?.code], [1, "YardUploadIncomplete"], JSON.stringify(error));
  assert.match(String(Object(error?.where).file), /model\.safetensors/);
  assert.deepEqual(listFiles(yard), before);
});

test("a pipeline of several documents makes in a yard what it makes without one", async () => {
  const yard = await makeYard("documents");
  const file = path.join(scratch, "documents.yaml");
  const average = "merge_method: linear\nparameters: {weight: 0.5}\n";
  const output = `${average}models: [{model: half}, {model: base}]\n`.replaceAll(/^(?=.)/gm, "  ");
  const first = `name: half\n${average}models: [{model: shakespeare}, {model: python}]\n`;
  writeFileSync(file, `${first}---\nname: both\nmerge:\n${output}publish: {model: both, channel: latest}\n`);
  const { error, out } = await call("run", file, "--yard", yard);
  assert.equal(error, undefined, JSON.stringify(error));
  const folder = path.join(scratch, "documents-merged");
  const named = ["base", "shakespeare", "python"].flatMap((model) => [
    "--model",
    `${model}=${EXAMPLES}/models/${model}`,
  ]);
  assert.equal((await call("merge", file, "--out", folder, ...named)).status, 0);
  const weights = (place: string) => readFileSync(path.join(place, "model.safetensors"));
  const { version } = Object(out.result);
  assert.ok(weights(path.join(yard, "artifacts/both", version)).equals(weights(folder)));
});

test("an interrupted run exits with 130, and the same command goes on to the same version", async () => {
  const yard = await makeYard("interrupted");
  const terminal = createRecorder({ cwd: scratch });
  const running = main(["run", PIPELINE, "--yard", yard, "--json"], {
    ...terminal,
    env: process.env,
    stderr: {
      write(text) {
        terminal.stderr.write(text);
        // Between the stages: the adopted files have their receipts, the rest is to come.
        if (/"jobs-ended"/.test(text)) terminal.interrupt();
      },
    },
  });
  assert.equal(await running, 130);
  const receipts = () =>
    listFiles(yard)
      .filter((name) => /receipts\/000000-/.test(name))
      .map((name) => [name, statSync(path.join(yard, name)).mtimeMs]);
  const [adopted, whole] = [receipts(), Object((await call("show", "bard-and-snake:nightly", "--yard", WHOLE)).out)];
  assert.equal(adopted.length, 4);
  const next = await call("run", PIPELINE, "--yard", yard);
  assert.equal(next.status, 0, next.events);
  assert.match(next.events, /"resumed":true/);
  assert.deepEqual(receipts(), adopted, "finished units are not run again");
  const { outcome, version } = Object(next.out.result);
  assert.deepEqual([outcome, version], ["published", whole.version]);
});

test("^C reaches the program: it stops its workers, cleans up and exits with 130", async () => {
  const yard = await makeYard("stopped");
  const bin = path.resolve(EXAMPLES, "../cli/mergeyard.mjs");
  const child = spawn(process.execPath, [bin, "run", PIPELINE, "--yard", yard, "--json"], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let text = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    // Once: the second time means at once, without cleaning up.
    if (!/"worker-started"/.test(text) && /"worker-started"/.test(text + piece)) child.kill("SIGINT");
    text += piece;
  });
  const [status] = await once(child, "close");
  assert.equal(status, 130, text);
  assert.equal(JSON.parse(text.trimEnd().split("\n").at(-1) ?? "").error.code, "CliInterrupted");
  assert.equal((await call("run", PIPELINE, "--yard", yard)).status, 0);
});

test("a failure without a code of its own is still one error, and the channel stays where it is", async () => {
  const terminal = createRecorder({ cwd: scratch });
  const text = readFileSync(PIPELINE, "utf8").replace("weight: 0.3", "weight: 0.5");
  const pipeline = path.join(scratch, "other.yaml");
  writeFileSync(pipeline, text);
  // The workers cannot even start: Node refuses the option.
  const env = { ...process.env, NODE_OPTIONS: "--no-such-option" };
  assert.equal(await main(["run", pipeline, "--yard", WHOLE, "--json"], { ...terminal, env }), 1);
  const { code, found } = JSON.parse(terminal.err().trimEnd().split("\n").at(-1) ?? "").error;
  assert.equal(code, "CliRunFailed");
  assert.match(found, /exit|status|9/);
  const { version } = (await call("show", "bard-and-snake:nightly", "--yard", WHOLE)).out;
  assert.equal(Object((await call("verify", "--yard", WHOLE)).out).verified[0].version, version);
});

test("another table of prices replaces ours, and a broken one is refused", async () => {
  const yard = WHOLE;
  const table = JSON.parse(readFileSync(path.resolve(EXAMPLES, "../core/cost/prices.json"), "utf8"));
  const file = path.join(scratch, "prices.json");
  writeFileSync(file, JSON.stringify({ ...table, region: "eu-central-1", asOf: "2026-11-01" }));
  const estimate = Object((await call("plan", PIPELINE, "--yard", yard, "--prices", file)).out.estimate);
  assert.deepEqual([estimate.region, estimate.pricesAsOf], ["eu-central-1", "2026-11-01"]);
  writeFileSync(file, JSON.stringify({ ...table, workerVcpuHourUsd: -1 }));
  const refused = await call("plan", PIPELINE, "--yard", yard, "--prices", file);
  assert.deepEqual([refused.status, refused.error?.code], [1, "CliPricesInvalid"]);
});

test("a checkpoint goes to the universal format and back without a changed byte", async () => {
  const [universal, back] = [path.join(scratch, "universal"), path.join(scratch, "back")];
  const original = path.join(EXAMPLES, "models/base");
  assert.equal((await call("convert", original, "--to", "universal", "--out", universal)).status, 0);
  assert.equal((await call("inspect", universal)).out.format, "universal");
  assert.equal((await call("verify", universal)).status, 0);
  assert.equal((await call("convert", universal, "--to", "safetensors", "--out", back)).status, 0);
  assert.deepEqual(readdirSync(back), readdirSync(original));
  for (const name of readdirSync(original)) {
    assert.deepEqual(readFileSync(path.join(back, name)), readFileSync(path.join(original, name)), name);
  }
  const occupied = await call("convert", original, "--to", "universal", "--out", back);
  assert.deepEqual([occupied.status, occupied.error?.code], [1, "CliOutputOccupied"]);
  assert.equal((await call("convert", original, "--to", "onnx", "--out", "x")).status, 2);
});
