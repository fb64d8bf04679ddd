// Runs on AWS from the command line: started, followed, left and found again, failed, cancelled; against a yard in
// memory, and on a real S3 server where there is one.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { main } from "../../cli/main.ts";
import { readAll } from "../../stores/objects.ts";
import { createStoreOpener } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createRecorder } from "../cli/recorder.ts";
import { putText } from "../steps/deps.ts";
import { makeYard, recipe } from "../steps/pipeline.ts";
import { putModel } from "../steps/small-model.ts";
import { playAws } from "./fake-aws.ts";

const folder = await mkdtemp(path.join(tmpdir(), "remote-"));
after(() => rm(folder, { recursive: true }));
await writeFile(path.join(folder, "p.yaml"), recipe(0.5));

const s3 = process.env.MERGEYARD_TEST_S3_ENDPOINT;
const bucket = process.env.MERGEYARD_TEST_S3_BUCKET ?? "tests";

type CallOptions = {
  readonly interruptAt?: RegExp;
  readonly onText?: (text: string) => void;
  readonly env?: object;
  /** As a person sees it, not as JSON. */
  readonly words?: boolean;
};

async function setUp(place = `memory://remote-${randomUUID()}`) {
  const storeEnv = { ...process.env, ...(s3 === undefined ? {} : { MERGEYARD_S3_ENDPOINT: s3 }) };
  const openStore = createStoreOpener(storeEnv);
  const yard = openStore(place);
  await makeYard(yard);
  const aws = await playAws(openStore);
  const call = async (args: readonly string[], options: CallOptions = {}) => {
    const terminal = createRecorder({ cwd: folder });
    const stderr = {
      write: (text: string) => {
        terminal.stderr.write(text);
        options.onText?.(text);
        if (options.interruptAt?.test(text)) terminal.interrupt();
      },
    };
    const env = { ...storeEnv, ...aws.env, ...options.env };
    const form = options.words === true ? [] : ["--json"];
    const status = await main([...args, ...form], { ...terminal, stderr, env, now: Date.now });
    if (options.words === true) return { status, out: terminal.out(), error: undefined, events: terminal.err() };
    const lines = terminal.err().trimEnd().split("\n");
    const error = status === 0 ? undefined : JSON.parse(lines.at(-1) ?? "").error;
    return { status, out: status === 0 ? JSON.parse(terminal.out()) : undefined, error, events: terminal.err() };
  };
  const run = (options: CallOptions = {}, pipeline = "p.yaml") =>
    call(["run", pipeline, "--yard", place, "--remote", "--poll", "0.01"], options);
  return { yard, aws, call, run };
}

async function removeAll(yard: ObjectStore): Promise<void> {
  for await (const { key } of yard.list("")) await yard.delete(key);
}

async function followToTheEnd(place?: string): Promise<void> {
  const { yard, aws, run, call } = await setUp(place);
  after(() => removeAll(yard));
  const { promise: held, resolve: release } = Promise.withResolvers<void>();
  aws.script.beforeStage = (stage) => (stage === 2 ? held : Promise.resolve());

  const left = await run({ interruptAt: /"unitsDone":[1-9]/ });
  assert.deepEqual([left.status, left.error?.code], [130, "CliInterrupted"], left.events);
  const [name = ""] = aws.executions.keys();
  assert.match(left.error?.hint, new RegExp(`mergeyard cancel ${name}`));
  assert.equal(aws.executions.get(name)?.status, "RUNNING", "the execution goes on");

  const done = await run({ onText: (text) => text.includes("run-progress") && release() });
  assert.equal(done.status, 0, done.events);
  assert.deepEqual([done.out.execution, done.out.result.outcome], [name, "published"]);
  assert.equal(aws.executions.size, 1, "the same command followed the same execution");
  const looks = done.events
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const last = looks.filter(({ event }) => event === "run-progress").at(-1);
  assert.ok(last.stages.every((stage: { units: number; unitsDone: number }) => stage.units === stage.unitsDone));
  assert.ok(last.workerMs > 0 && last.costUsd > 0);

  const again = await run();
  assert.deepEqual([again.out.result.outcome, aws.executions.size], ["unchanged", 2], again.events);
  const run1 = done.out.summary.run;
  const logs = await call(["logs", run1, "--yard", yard.uri]);
  const events = logs.out.events.map(({ event }: { event: string }) => event);
  assert.equal(events.filter((event: string) => event === "unit-finished").length, done.out.summary.units);
  // The clock of a store in memory is its own.
  if (place !== undefined) assert.deepEqual([events[0], events.at(-1)], ["run-planned", "run-published"]);
  assert.ok(events.includes("run-published"));
  const drawn = await call(["report", run1, "--yard", yard.uri, "--out", "run.html"]);
  assert.equal(drawn.status, 0, drawn.events);
  const kept = Buffer.from(await readAll(yard, `runs/${run1}/report.html`, 1e6)).toString();
  assert.equal(await readFile(path.join(folder, "run.html"), "utf8"), kept);
  assert.match(kept, new RegExp(`published ab@${done.out.result.version}`));
  const runs = await call(["logs", "--yard", yard.uri]);
  assert.deepEqual(
    runs.out.runs.map(({ run, state, end }: { run: string; state: string; end: string }) => [run, state, end]),
    [[run1, "published", `ab@${done.out.result.version}`]],
  );
}

test("a remote run is left, followed again to its end, and told like a local one", () => followToTheEnd());

test(
  "the same on a real S3 server",
  { skip: s3 === undefined ? "no S3 server: see test/stores/s3.test.ts" : undefined },
  () => followToTheEnd(`s3://${bucket}/${randomUUID()}`),
);

test("who follows a run sees its stages with units, and what it has cost so far", async () => {
  const { run } = await setUp();
  const { status, events } = await run({ words: true });
  assert.equal(status, 0, events);
  for (const stage of ["adopt", "describe", "merge"]) {
    assert.match(events, new RegExp(`^${stage} +\\d+ units? done, \\$\\d\\S* so far`, "m"));
  }
});

test("a run that fails on AWS ends with the error of its unit", async () => {
  const { yard, run, call } = await setUp();
  await putModel(yard, "incoming/a/2/", { seed: 1, nanAt: 3 });
  const failed = await run();
  assert.deepEqual([failed.status, failed.error?.code], [1, "EngineNonFinite"], failed.events);
  const [{ run: id, end }] = (await call(["logs", "--yard", yard.uri])).out.runs;
  assert.equal(end, "EngineNonFinite");
  const { events } = (await call(["logs", id, "--yard", yard.uri])).out;
  const told = new Map(events.map((entry: { event: string }) => [entry.event, entry]));
  assert.equal(Object(told.get("run-failed")).error.code, "EngineNonFinite");
  assert.equal(Object(told.get("unit-failed")).code, "EngineNonFinite");
});

test("a deployment of another version is followed, and what it tells in another form is named", async () => {
  const { aws, run } = await setUp();
  aws.script.answer = (value) => ({ ...value, addedLater: 1 });
  const done = await run();
  assert.match(done.events, /"event":"run-planned"/);
  assert.deepEqual([done.status, done.error?.code], [1, "RemoteVersionDiffers"], done.events);
  assert.equal(done.error?.where.field, "result");
});

test("cancel stops the execution and ends the jobs that go on, by name, run or beginning", async () => {
  for (const by of ["name", "run", "beginning"]) {
    const { aws, run, call } = await setUp();
    aws.script.beforeStage = (stage) => (stage === 1 ? new Promise(() => undefined) : Promise.resolve());
    await run({ interruptAt: /"unitsDone":[1-9]/ });
    const [execution] = aws.executions.values();
    assert.ok(execution !== undefined);
    const planned = JSON.parse(JSON.stringify(execution.events[0])).taskSucceededEventDetails.output;
    const { run: planRun } = JSON.parse(planned).Payload;
    const wanted =
      new Map([
        ["name", execution.name],
        ["run", planRun],
      ]).get(by) ?? planRun.slice(0, 6);
    const cancelled = await call(["cancel", wanted]);
    const open = execution.jobs.filter((job) => aws.jobs.get(job) === undefined);
    assert.deepEqual(cancelled.out, { execution: execution.name, jobs: open });
    assert.equal(open.length, 1);
    assert.deepEqual([execution.status, aws.terminated], ["ABORTED", open]);
    assert.equal((await call(["cancel", wanted])).error?.code, "RemoteExecutionMissing");
  }
});

test("somebody else's cancel is told to who follows, and the next command starts anew", async () => {
  const { aws, run } = await setUp();
  aws.script.beforeStage = async () => {
    for (const execution of aws.executions.values()) execution.status = "ABORTED";
  };
  assert.equal((await run()).error?.code, "RemoteStopped");
  aws.script.beforeStage = async () => undefined;
  assert.equal((await run()).out.result.outcome, "published");
});

test("a look that fails is followed by another; one that is refused ends the following", async () => {
  const { aws, run } = await setUp();
  let stages = 0;
  aws.script.beforeStage = async () => {
    if (stages === 0) aws.refuse("ServiceUnavailable", 503, 4);
    stages += 1;
    await new Promise((resolve) => setTimeout(resolve, 1500));
  };
  const done = await run();
  assert.equal(done.out?.result.outcome, "published", done.events);
  const looks = done.events
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.equal(looks.find(({ event }) => event === "look-failed")?.code, "RemoteUnavailable");
  aws.refuse("ExpiredTokenException");
  const refused = await run();
  assert.deepEqual([refused.status, refused.error?.code], [1, "RemoteRefused"]);
});

test("what cannot be started is refused before AWS is asked", async () => {
  const { aws, call, yard } = await setUp();
  const base = ["run", "p.yaml", "--remote", "--yard"];
  const cases: readonly [string, readonly string[], object][] = [
    ["RemoteMachineMissing", [...base, yard.uri], { MERGEYARD_STATE_MACHINE: "" }],
    ["RemoteMachineMissing", [...base, yard.uri, "--state-machine", "mergeyard"], {}],
    ["YardMissing", [...base, "memory://nowhere"], {}],
    ["YardRunMissing", ["logs", "0123456789abcdef", "--yard", yard.uri], {}],
    ["CliUsage", [...base, yard.uri, "--poll", "0"], {}],
  ];
  for (const [code, args, env] of cases) assert.equal((await call(args, { env })).error?.code, code, args.join(" "));
  assert.deepEqual(aws.asked, []);
  assert.equal((await call(["run", "absent.yaml", "--remote", "--yard", yard.uri])).error?.code, "YardPipelineMissing");
  const local = path.join(folder, "yard");
  await call(["init", local]);
  assert.equal((await call([...base, local])).error?.code, "RemoteYardLocal");
});

test("a pipeline that lies in the yard is run from there, another is sent under its digest", async () => {
  const { yard, aws, run } = await setUp();
  await putText(yard, "pipelines/q.yaml", recipe(0.25));
  await run();
  await run({}, `${yard.uri}/pipelines/q.yaml`);
  const keys = [...aws.executions.values()].map(({ input }) => JSON.parse(input).pipeline.key);
  assert.match(keys[0], /^submitted\/[0-9a-f]{16}\.yaml$/);
  assert.equal(keys[1], "pipelines/q.yaml");
});
