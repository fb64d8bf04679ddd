// The Batch entry: its events and exit codes, with its job in this process; then as real processes that are stopped and
// killed.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { layout } from "../../core/artifact/layout.ts";
import { MergeyardError } from "../../core/error.ts";
import type { ExecuteMerge } from "../../engine/request.ts";
import { checkStep } from "../../steps/check.ts";
import { publishStep } from "../../steps/publish.ts";
import { beatMs, currentJobs, type KnownProgress, readJobProgress } from "../../steps/runs/job-progress.ts";
import type { PlanOutput } from "../../steps/schemas.ts";
import { runStep, type StepEvent } from "../../steps/step.ts";
import { readUnitFailures } from "../../steps/units/failures.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { EXIT_TRANSIENT, runJob } from "../../workers/main.ts";
import { newStore, openerOf, putText, testDeps } from "../steps/deps.ts";
import { createInThreadExecutor, createInThreadMeasurer } from "../steps/in-thread-executor.ts";
import { makeYard, plan, recipe, runPipeline } from "../steps/pipeline.ts";

/** A planned run in memory and a way to run one job of it. */
async function planInMemory() {
  const yard = newStore();
  await makeYard(yard);
  const openStores = openerOf(yard);
  const planned = await plan(yard, testDeps(openStores));
  const stop = new AbortController();
  const job = async (
    stage: number,
    overrides: { env?: object; executeMerge?: ExecuteMerge; store?: ObjectStore } = {},
  ) => {
    const events: StepEvent[] = [];
    const environment = {
      MERGEYARD_YARD: yard.uri,
      MERGEYARD_RUN: planned.run,
      MERGEYARD_STAGE: String(stage),
      ...overrides.env,
    };
    const exitCode = await runJob(environment, {
      openStore: overrides.store === undefined ? openStores : openerOf(overrides.store),
      executeMerge: overrides.executeMerge ?? createInThreadExecutor(openStores),
      executeMeasure: createInThreadMeasurer(openStores),
      executeConvert: testDeps(openStores).executeConvert,
      log: (event) => void events.push(event),
      now: Date.now,
      cpuMs: () => 0,
      signal: stop.signal,
    });
    return { exitCode, events };
  };
  return { yard, planned, job, stop };
}

const NEVER = new AbortController().signal;
const unitsOf = (events: readonly StepEvent[], event: string) =>
  events.filter((entry) => entry.event === event).map((entry) => entry.unit);

test("job i of n runs units i, i + n, i + 2n and tells of each", async () => {
  const { job } = await planInMemory();
  const second = await job(0, { env: { MERGEYARD_JOBS: "4", AWS_BATCH_JOB_ARRAY_INDEX: "1" } });
  assert.equal(second.exitCode, 0);
  assert.deepEqual(unitsOf(second.events, "unit-started"), [1, 5]);
  assert.deepEqual(unitsOf(second.events, "unit-finished"), [1, 5]);
  const again = await job(0, { env: { MERGEYARD_JOBS: "4", AWS_BATCH_JOB_ARRAY_INDEX: "1" } });
  assert.deepEqual(unitsOf(again.events, "unit-finished"), [], "metrics count what was done once");
  assert.deepEqual(unitsOf(again.events, "unit-found"), [1, 5]);
  const none = await job(0, { env: { MERGEYARD_JOBS: "10", AWS_BATCH_JOB_ARRAY_INDEX: "9" } });
  assert.deepEqual([none.exitCode, none.events], [0, []]);
});

test("what is wrong for good ends with 1, what may pass with 75, and the unit's failure is kept", async () => {
  const { yard, planned, job } = await planInMemory();
  const early = await job(2);
  assert.equal(early.exitCode, 1);
  assert.equal(early.events.at(-1)?.event, "unit-failed");
  await job(0);
  await job(1);
  const passing = () => Promise.reject(new MergeyardError("YardChannelContended"));
  assert.equal((await job(2, { executeMerge: passing })).exitCode, EXIT_TRANSIENT);
  const [failure] = await readUnitFailures(yard, planned.run);
  assert.deepEqual([failure?.index, failure?.error.code], [0, "YardChannelContended"]);
  const crash = await job(2, { executeMerge: () => Promise.reject(new TypeError("a fault")) });
  assert.equal(crash.exitCode, 1);
  assert.equal((await job(2)).exitCode, 0);
  assert.deepEqual(await readUnitFailures(yard, planned.run), []);
  assert.equal((await job(2, { env: { MERGEYARD_RUN: "other" } })).exitCode, 1);
  const wrong = await job(2, { env: { MERGEYARD_STAGE: "two" } });
  assert.deepEqual([wrong.exitCode, wrong.events[0]?.event], [1, "worker-misconfigured"]);
});

test("a stopped worker drops its unit, says so, and asks to be run again", async () => {
  const { yard, planned, job, stop } = await planInMemory();
  await job(0);
  await job(1);
  const executeMerge: ExecuteMerge = (_request, { signal }) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      stop.abort("SIGTERM");
    });
  const { exitCode, events } = await job(2, { executeMerge });
  assert.equal(exitCode, EXIT_TRANSIENT);
  const { run } = planned;
  assert.deepEqual(events.at(-1), { event: "worker-stopped", run, stage: 2, unit: 0, reason: "SIGTERM" });
  assert.deepEqual(await readUnitFailures(yard, run), []);
  const [record] = (await readJobProgress(yard, run, new Map(), NEVER)).filter(({ stage }) => stage === 2);
  assert.deepEqual([record?.state, record?.unit, record?.events.at(-1)?.reason], ["stopped", 0, "SIGTERM"]);
});

test("a job keeps how far it is, over all its attempts, and its last words", async () => {
  const { yard, planned, job } = await planInMemory();
  const known: KnownProgress = new Map();
  const read = async () => readJobProgress(yard, planned.run, known, NEVER);
  await job(0, { env: { MERGEYARD_JOBS: "4", AWS_BATCH_JOB_ARRAY_INDEX: "1" } });
  const [first] = await read();
  assert.deepEqual(
    [first?.stage, first?.job, first?.jobs, first?.state, first?.attempt, first?.units, first?.unitsDone, first?.unit],
    [0, 1, 4, "done", 1, 2, 2, null],
  );
  assert.ok((first?.bytesRead ?? 0) > 0);
  await job(0);
  await job(1);
  await job(2, { executeMerge: () => Promise.reject(new TypeError("a fault")) });
  const failed = (await read()).at(-1);
  assert.deepEqual([failed?.state, failed?.unit], ["failed", 0]);
  assert.deepEqual([failed?.events.at(-1)?.event, failed?.events.at(-1)?.code], ["unit-failed", "TypeError"]);
  await job(2);
  const done = (await read()).at(-1);
  assert.deepEqual([done?.state, done?.attempt], ["done", 2]);
  assert.ok((done?.workerMs ?? -1) >= (failed?.workerMs ?? 0));
  const stage0 = currentJobs(await read()).filter(({ stage }) => stage === 0);
  assert.deepEqual(
    stage0.map(({ jobs }) => jobs),
    [1],
    "jobs of an earlier execution are not counted as running",
  );
});

test("a job whose progress cannot be written works all the same, and says so", async () => {
  const { yard, planned, job } = await planInMemory();
  const deaf = { ...yard, create: refuseProgress(yard.create), replace: refuseProgress(yard.replace) };
  const { exitCode, events } = await job(0, { store: deaf });
  assert.equal(exitCode, 0);
  assert.ok(events.some(({ event }) => event === "progress-not-kept"));
  assert.deepEqual(await readJobProgress(yard, planned.run, new Map(), NEVER), []);
});

function refuseProgress<Rest extends readonly unknown[], Result>(
  write: (key: string, ...rest: Rest) => Promise<Result>,
) {
  return (key: string, ...rest: Rest): Promise<Result> =>
    key.includes("/progress/") ? Promise.reject(new MergeyardError("StoreFull")) : write(key, ...rest);
}

test("jobs show signs of life so seldom that ten thousand of them do not flood a prefix", () => {
  assert.equal(beatMs(1), 10_000);
  assert.equal(beatMs(10_000), 200_000);
});

const WORKER = fileURLToPath(new URL("../../workers/main.ts", import.meta.url));

/** A yard in a folder of its own. */
async function makeFolderYard(t: TestContext): Promise<ObjectStore> {
  const folder = await mkdtemp(path.join(tmpdir(), "worker-"));
  t.after(() => rm(folder, { recursive: true }));
  const yard = openStore(pathToFileURL(folder).href, {});
  await makeYard(yard);
  return yard;
}

type WorkerProcess = {
  readonly child: ChildProcess;
  readonly end: Promise<{ code: number | null; events: StepEvent[] }>;
};

/** Starts a worker on a whole stage; `onEvent` sees its events as they come. */
function startWorker(
  planned: PlanOutput,
  stage: number,
  onEvent: (event: StepEvent, child: ChildProcess) => void = () => undefined,
): WorkerProcess {
  const environment = {
    MERGEYARD_YARD: planned.yard,
    MERGEYARD_RUN: planned.run,
    MERGEYARD_STAGE: String(stage),
    MERGEYARD_THREADS: "1",
    MERGEYARD_PARENT_PIPE: "1",
  };
  const child = spawn(process.execPath, [WORKER], {
    env: { ...process.env, ...environment },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const events: StepEvent[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    const event: StepEvent = JSON.parse(line);
    events.push(event);
    onEvent(event, child);
  });
  const end = new Promise<{ code: number | null; events: StepEvent[] }>((resolve) => {
    child.once("close", (code) => resolve({ code, events }));
  });
  return { child, end };
}

/** When the attempts of a stage are killed: the event, and how long after it. */
const KILLS = [
  ["unit-started", 0],
  ["unit-finished", 0],
  ["unit-started", 8],
  ["unit-finished", 1],
] as const;

test("a worker that is killed again and again repeats no finished unit and ends with the same version", async (t) => {
  const memory = newStore();
  await makeYard(memory);
  const inMemory = openerOf(memory);
  const expected = await runPipeline(memory, testDeps(inMemory, { executeMerge: createInThreadExecutor(inMemory) }));
  const yard = await makeFolderYard(t);
  const deps = testDeps((uri) => openStore(uri, {}));
  const planned = await plan(yard, deps);
  let kills = 0;
  const receipts = new Map<string, string>();
  for (const stage of planned.stages) {
    for (let attempt = 0; ; attempt += 1) {
      // Just after a unit began, a moment later, or just after it ended: in turn, then left alone.
      const [at, delayMs] = KILLS[attempt] ?? ["never", 0];
      let isKilled = false;
      const worker = startWorker(planned, stage.index, ({ event, unit }, child) => {
        if (event !== at || isKilled || receipts.has(layout.receipt(planned.run, stage.index, Number(unit)))) return;
        isKilled = true;
        setTimeout(() => child.kill("SIGKILL"), delayMs);
      });
      const { code } = await worker.end;
      for await (const { key, etag } of yard.list(layout.receipts(planned.run))) {
        assert.equal(receipts.get(key) ?? etag, etag, `${key} was written again`);
        receipts.set(key, etag);
      }
      if (code === 0) break;
      kills += 1;
    }
  }
  const units = planned.stages.reduce((sum, stage) => sum + stage.units, 0);
  assert.equal(receipts.size, units);
  assert.ok(kills >= 8, `${kills} kills`);
  const ref = { yard: planned.yard, run: planned.run };
  await runStep(checkStep, ref, deps);
  const result = await runStep(publishStep, { ...ref, plannedMs: planned.plannedMs }, deps);
  assert.equal(result.version, expected.result?.version);
});

/** A lone model.safetensors of one zero-filled gigabyte that takes no space on the disk. */
async function putSparseModel(yard: ObjectStore): Promise<void> {
  const bytes = 2 ** 30;
  const json = JSON.stringify({ big: { dtype: "U8", shape: [bytes], data_offsets: [0, bytes] } });
  const header = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ");
  header.writeBigUInt64LE(BigInt(header.length - 8));
  header.write(json, 8);
  await putText(yard, "incoming/big/1/model.safetensors", "");
  const file = await open(path.join(fileURLToPath(yard.uri), "incoming/big/1/model.safetensors"), "r+");
  await file.write(header);
  await file.truncate(header.length + bytes);
  await file.close();
  await putText(
    yard,
    "pipelines/big.yaml",
    recipe(0.5).replace("incoming/b", "incoming/big/1").replace("incoming/a", "incoming/big"),
  );
}

test("SIGTERM, and the end of the parent, stop a worker in the middle of a unit with 75", async (t) => {
  const yard = await makeFolderYard(t);
  await putSparseModel(yard);
  const planned = await plan(
    yard,
    testDeps((uri) => openStore(uri, {})),
    "pipelines/big.yaml",
  ).catch((error) => error);
  if (planned instanceof Error) throw planned;
  const stops: ((child: ChildProcess) => void)[] = [
    (child) => void child.kill("SIGTERM"),
    (child) => child.stdin?.end(),
  ];
  for (const stop of stops) {
    const worker = startWorker(planned, 0, ({ event }, child) => {
      if (event === "unit-started") stop(child);
    });
    const { code, events } = await worker.end;
    assert.equal(code, EXIT_TRANSIENT);
    assert.equal(events.at(-1)?.event, "worker-stopped");
    assert.equal(await yard.head(`runs/${planned.run}/receipts/000000-000000.json`), undefined);
  }
});
