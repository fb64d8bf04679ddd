// push, promote, rollback and gc through the command line, and ^C in the middle of --watch.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import test, { after } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const EXAMPLES = path.resolve(import.meta.dirname, "../../examples");
const PROGRAM = path.resolve(import.meta.dirname, "../../cli/mergeyard.mjs");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-push-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

async function call(...args: readonly string[]) {
  const terminal = { ...createRecorder({ cwd: scratch }), now: Date.now };
  const status = await main([...args, "--json"], { ...terminal, env: process.env });
  const out = status === 0 ? JSON.parse(terminal.out()) : {};
  const error = status === 0 ? undefined : JSON.parse(terminal.err().trimEnd().split("\n").at(-1) ?? "").error;
  return { status, out, error };
}

async function newYard(name: string): Promise<string> {
  const yard = path.join(scratch, name);
  await call("init", yard);
  return yard;
}

test("a folder is pushed, listed, and pushed again without sending a byte", async () => {
  const yard = await newYard("pushed");
  const source = path.join(EXAMPLES, "models/base");
  const first = await call("push", source, "base", "--yard", yard);
  assert.deepEqual([first.out.outcome, first.out.sentBytes], ["committed", first.out.bytes]);
  assert.deepEqual(readdirSync(path.join(yard, "incoming/base")), [first.out.upload]);
  const again = await call("push", source, "base", "--yard", yard);
  assert.deepEqual([again.out.outcome, again.out.sentBytes], ["present", 0]);
  const text = createRecorder({ cwd: scratch });
  assert.equal(await main(["push", source, "base", "--yard", yard, "--upload", "named"], { ...text, env: {} }), 0);
  assert.match(text.out(), /^pushed .* as incoming\/base\/named: \d+ files, /);
  const missing = await call("push", path.join(scratch, "nowhere"), "base", "--yard", yard);
  assert.deepEqual([missing.status, missing.error?.code], [1, "CheckpointEmpty"]);
  // A version is pulled whole, a rank's part by its number.
  const ranks = await call("pull", "base", "nowhere", "--yard", yard, "--tp", "2");
  assert.deepEqual([ranks.status, ranks.error?.code], [2, "CliUsage"]);
  const usage = await call("push", source, "base", "--yard", yard, "--rank", "2", "--ranks", "2");
  assert.deepEqual([usage.status, usage.error?.code], [2, "CliUsage"]);
});

test("files of other weights are pushed with a warning that names them, a trainer's without", async () => {
  const yard = await newYard("unread");
  const source = path.join(scratch, "both");
  cpSync(path.join(EXAMPLES, "models/base"), source, { recursive: true });
  for (const name of ["pytorch_model.bin", "optimizer.pt"]) writeFileSync(path.join(source, name), "x");
  const { err, ...text } = createRecorder({ cwd: scratch });
  assert.equal(await main(["push", source, "base", "--yard", yard], { ...text, env: {} }), 0);
  assert.deepEqual(err().match(/warning: .*/g), [
    "warning: pytorch_model.bin will be uploaded and never read: other weights of the folder are the model",
  ]);
});

test("a channel is promoted and rolled back, and gc removes what is not kept", async () => {
  const yard = await newYard("decided");
  for (const version of ["v1", "v2"]) {
    mkdirSync(path.join(yard, "artifacts/chat", version), { recursive: true });
    writeFileSync(path.join(yard, "artifacts/chat", version, "manifest.json"), "{}");
    const { out } = await call("promote", `chat@${version}`, "stable", "--yard", yard);
    assert.equal(out.version, version);
  }
  const { out } = await call("rollback", "chat:stable", "--yard", yard);
  assert.deepEqual([out.version, out.before], ["v1", "v2"]);
  const end = await call("rollback", "chat:stable", "--yard", yard);
  assert.deepEqual([end.status, end.error?.code], [1, "YardRollbackEnd"]);
  assert.equal((await call("rollback", "chat@v1", "--yard", yard)).status, 2);
  const kept = await call("gc", "--yard", yard, "--keep", "1", "--dry-run");
  assert.deepEqual(kept.out.removed, [], "all of it is younger than 7 days");
  assert.equal((await call("gc", "--yard", yard, "--grace", "soon")).status, 2);
});

test("gc removes old uploads, and the checkpoints that no version and no upload leads to any more", async () => {
  const yard = await newYard("inputs");
  await call("push", path.join(EXAMPLES, "models/base"), "base", "--yard", yard);
  writeFileSync(
    path.join(scratch, "p.yaml"),
    "name: p\nmodels: { base: incoming/base, tuned: incoming/tuned }\nmerge: { merge_method: linear, " +
      "models: [{ model: base }, { model: tuned }], parameters: { weight: 0.5 } }\n" +
      "publish: { model: p, channel: nightly }\n",
  );
  for (const tuned of ["python", "shakespeare"]) {
    await call("push", path.join(EXAMPLES, "models", tuned), "tuned", "--yard", yard, "--upload", tuned);
    assert.equal((await call("run", "p.yaml", "--yard", yard)).out.result.outcome, "published");
  }
  const options = ["gc", "--yard", yard, "--keep", "1", "--keep-uploads", "1", "--keep-checkpoints", "1"];
  assert.deepEqual((await call(...options)).out.removed, [], "all of it is younger than 7 days");
  const would = await call(...options, "--grace", "0m", "--dry-run");
  const gone = await call(...options, "--grace", "0m");
  assert.deepEqual(gone.out.removed, would.out.removed);
  const kinds = gone.out.removed.map(({ kind }: { kind: string }) => kind);
  assert.deepEqual(kinds, ["version", "upload", "checkpoint"]);
  const listed = await call("ls", "--yard", yard);
  const { uploads } = listed.out.models.find(({ model }: { model: string }) => model === "tuned");
  assert.deepEqual(
    uploads.map(({ upload }: { upload: string }) => upload),
    ["shakespeare"],
  );
  assert.equal((await call("verify", "--yard", yard)).out.verified.length, 1);
  const again = await call("push", path.join(EXAMPLES, "models/python"), "tuned", "--yard", yard, "--upload", "python");
  assert.deepEqual([again.status, again.error?.code], [1, "UploadRemoved"]);
  assert.equal((await call("gc", "--yard", yard, "--keep-uploads", "0")).status, 2);
});

test("--watch pushes what a job has finished, ends on ^C with 130, and goes on when started again", async () => {
  const yard = await newYard("watched");
  const job = path.join(scratch, "job");
  const addStep = (step: number) => {
    cpSync(path.join(EXAMPLES, "models/python"), path.join(job, `checkpoint-${step}`), { recursive: true });
    writeFileSync(path.join(job, `checkpoint-${step}`, "trainer_state.json"), "{}");
  };
  addStep(10);
  for (const expected of [["committed"], ["present", "committed"]]) {
    const args = [PROGRAM, "push", job, "python", "--yard", yard, "--watch", "--every", "0.1", "--json"];
    const { NODE_TEST_CONTEXT: _, ...env }: NodeJS.ProcessEnv = process.env;
    const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "ignore"] });
    const ended = once(child, "close");
    const outcomes: string[] = [];
    for await (const line of createInterface({ input: child.stdout })) {
      outcomes.push(JSON.parse(line).outcome);
      if (outcomes.length === expected.length) child.kill("SIGINT");
    }
    assert.deepEqual([outcomes, (await ended)[0]], [expected, 130]);
    addStep(20);
  }
  assert.equal(readdirSync(path.join(yard, "incoming/python")).length, 2);
});
