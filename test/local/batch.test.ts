// The local Batch with real child processes: variables, bounds, retries, failures, cancellation, and a parent's death.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Json } from "../../core/json.ts";
import { systemClock } from "../../local/asl/clock.ts";
import { createLocalBatch } from "../../local/batch.ts";
import type { StepEvent } from "../../steps/step.ts";

const WORKER = fileURLToPath(new URL("fake-worker.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "batch-"));
after(() => rmSync(folder, { recursive: true }));

type Setup = {
  readonly size?: number;
  readonly jobs?: number;
  readonly worker?: Readonly<Record<string, readonly string[]>>;
  readonly signal?: AbortSignal;
  readonly killAfterMs?: number;
  readonly input?: Json;
};

let logs = 0;
/** Submits a job; returns its settled result, its events, and what the workers noted as `word index` lines. */
async function submit(setup: Setup) {
  logs += 1;
  const log = join(folder, `${logs}.log`);
  const events: StepEvent[] = [];
  const { NODE_TEST_CONTEXT: _, ...environment } = process.env;
  const batch = createLocalBatch({
    definitions: new Map([["worker", [process.execPath, WORKER]]]),
    environment: { ...environment, FAKE_WORKER: JSON.stringify(setup.worker ?? {}), FAKE_LOG: log },
    jobs: setup.jobs ?? 2,
    clock: systemClock,
    log: (event) => events.push(event),
    killAfterMs: setup.killAfterMs ?? 30_000,
    retryDelayMs: 1,
  });
  const input = setup.input ?? {
    JobName: "stage",
    JobQueue: "queue",
    JobDefinition: "worker",
    ...(setup.size === undefined ? {} : { ArrayProperties: { Size: setup.size } }),
    ContainerOverrides: { Environment: [{ Name: "MERGEYARD_STAGE", Value: "3" }] },
  };
  const context = { signal: setup.signal ?? new AbortController().signal, heartbeat: () => undefined };
  const [settled] = await Promise.allSettled([batch(input, context)]);
  return { settled, events, log, notes: () => readNotes(log) };
}

function readNotes(log: string): { word: string; index: string; pid: number }[] {
  const lines = readFileSync(log, "utf8").trimEnd().split("\n");
  return lines.map((line) => {
    const [word = "", index = "", pid = ""] = line.split(" ");
    return { word, index, pid: Number(pid) };
  });
}

type Submitted = Awaited<ReturnType<typeof submit>>;
function failureOf({ settled }: Submitted): { name: string; cause: Record<string, unknown> } {
  assert.ok(settled?.status === "rejected" && settled.reason instanceof Error);
  return { name: settled.reason.name, cause: JSON.parse(settled.reason.message) };
}
const attemptsOf = ({ events }: Submitted, index: number): number =>
  events.filter((event) => event.event === "unit-started" && event.index === index).length;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries += 1) {
    assert.ok(tries < 1500, "waited too long");
    await pause(20);
  }
}

test("an array runs every index once, with Batch's variables, no more at one time than allowed", async () => {
  const run = await submit({ size: 5, jobs: 2, worker: { 0: ["slow 100"], 1: ["slow 100"], 2: ["slow 100"] } });
  assert.ok(run.settled?.status === "fulfilled");
  assert.partialDeepStrictEqual(run.settled.value, {
    JobName: "stage",
    Status: "SUCCEEDED",
    ArrayProperties: { Size: 5, StatusSummary: { SUCCEEDED: 5, FAILED: 0 } },
  });
  const notes = run.notes();
  assert.deepEqual(
    notes
      .filter(({ word }) => word === "done")
      .map(({ index }) => index)
      .sort(),
    ["0", "1", "2", "3", "4"],
  );
  let running = 0;
  let most = 0;
  for (const { word } of notes) {
    running += word === "started" ? 1 : -1;
    most = Math.max(most, running);
  }
  assert.ok(most <= 2, `${most} ran at one time`);
  const started = run.events.filter((event) => event.event === "unit-started");
  assert.deepEqual(started.map((event) => event.index).sort(), [0, 1, 2, 3, 4]);
  assert.ok(started.every((event) => event.stage === "3" && event.job === "stage" && event.attempt === 1));
});

test("a plain job has no array index", async () => {
  const run = await submit({});
  assert.ok(run.settled?.status === "fulfilled");
  assert.deepEqual(
    run.notes().map(({ index }) => index),
    ["none", "none"],
  );
});

test("a transient exit and a killed child are tried again", async () => {
  const run = await submit({ size: 2, worker: { 0: ["exit 75", "exit 75", "ok"], 1: ["kill SIGKILL", "ok"] } });
  assert.equal(run.settled?.status, "fulfilled");
  assert.equal(attemptsOf(run, 0), 3);
  assert.equal(attemptsOf(run, 1), 2);
});

test("five attempts are the most", async () => {
  const run = await submit({ size: 2, worker: { 1: Array.from({ length: 9 }, () => "exit 75") } });
  assert.equal(failureOf(run).name, "States.TaskFailed");
  assert.equal(attemptsOf(run, 1), 5);
});

test("a crash of the program is not tried again", async () => {
  const run = await submit({ worker: { none: ["kill SIGABRT"] } });
  assert.equal(failureOf(run).name, "States.TaskFailed");
  assert.equal(run.events.filter((event) => event.event === "unit-started").length, 1);
});

test("an array runs to its end and names every failed index, with the errors its workers told", async () => {
  const run = await submit({ size: 6, worker: { 0: ["exit 1"], 3: ["fail 1"], 4: ["fail 1"] } });
  const { name, cause } = failureOf(run);
  assert.equal(name, "States.TaskFailed");
  assert.equal(run.notes().filter(({ word }) => word === "done").length, 3);
  assert.partialDeepStrictEqual(cause, {
    Status: "FAILED",
    FailedIndexes: "0,3-4",
    ArrayProperties: { Size: 6, StatusSummary: { SUCCEEDED: 3, FAILED: 3 } },
    Container: { ExitCode: 1 },
    Failures: [
      { Index: 0, Attempts: 1, Reason: "exit code 1" },
      {
        Index: 3,
        Attempts: 1,
        Reason: "exit code 1: the last line",
        Error: { code: "YardSourceChanged", where: { unit: 7 } },
      },
      { Index: 4 },
    ],
  });
  const ended = run.events.find((event) => event.event === "jobs-ended");
  assert.deepEqual(ended?.failed, [0, 3, 4]);
});

test("the cause of many failures stays within the service's length and valid JSON", async () => {
  const worker = Object.fromEntries(Array.from({ length: 24 }, (_, index) => [index, ["fail 1"]]));
  const run = await submit({ size: 24, worker });
  assert.ok(run.settled?.status === "rejected" && run.settled.reason instanceof Error);
  assert.ok(run.settled.reason.message.length <= 32_768);
  const { cause } = failureOf(run);
  assert.equal(cause.FailedIndexes, "0-23");
  assert.ok(Array.isArray(cause.Failures) && cause.Failures.length > 3 && cause.Failures.length < 24);
});

test("output that is no event is passed on as text, and a line without end is bounded", async () => {
  const run = await submit({ worker: { none: ["print"] } });
  const lines = run.events.flatMap((event) => (event.event === "worker-output" ? [String(event.line)] : []));
  assert.deepEqual(lines.slice(0, 2), ["plain text", "{broken"]);
  assert.equal(lines[2]?.length, 1_048_576);
  assert.equal(lines[3], "no end");
});

test("a command that cannot be started fails the job with the reason", async () => {
  const batch = createLocalBatch({
    definitions: new Map([["worker", [join(folder, "no-such-program")]]]),
    environment: {},
    jobs: 1,
    clock: systemClock,
    log: () => undefined,
  });
  const job = { JobName: "a", JobQueue: "b", JobDefinition: "worker" };
  await assert.rejects(batch(job, { signal: new AbortController().signal, heartbeat: () => undefined }), (error) => {
    assert.ok(error instanceof Error);
    assert.match(JSON.parse(error.message).Failures[0].Reason, /ENOENT/);
    return error.name === "States.TaskFailed";
  });
});

for (const [name, change] of [
  ["an array of one", { ArrayProperties: { Size: 1 } }],
  ["an array beyond 10,000", { ArrayProperties: { Size: 10_001 } }],
  ["an unknown field", { Tags: {} }],
  ["an unknown job definition", { JobDefinition: "other" }],
  ["a name that Batch refuses", { JobName: "a b" }],
] as const) {
  test(`${name} is refused as Batch refuses it`, async () => {
    const run = await submit({ input: { JobName: "a", JobQueue: "b", JobDefinition: "worker", ...change } });
    assert.ok(run.settled?.status === "rejected" && run.settled.reason instanceof Error);
    assert.equal(run.settled.reason.name, "Batch.ClientException");
  });
}

test("cancellation stops running jobs by SIGTERM and starts no more", async () => {
  const controller = new AbortController();
  const polite = Object.fromEntries(Array.from({ length: 8 }, (_, index) => [index, ["polite"]]));
  const running = submit({ size: 8, jobs: 2, worker: polite, signal: controller.signal });
  const log = join(folder, `${logs}.log`);
  await until(() => countStarted(log) === 2);
  controller.abort(new Error("enough"));
  const run = await running;
  assert.ok(run.settled?.status === "rejected" && run.settled.reason === controller.signal.reason);
  assert.deepEqual(
    run
      .notes()
      .map(({ word }) => word)
      .sort(),
    ["started", "started", "stopped", "stopped"],
  );
});

test("a job that ignores SIGTERM is killed after the grace", async () => {
  const controller = new AbortController();
  const running = submit({ worker: { none: ["deaf"] }, signal: controller.signal, killAfterMs: 200 });
  const log = join(folder, `${logs}.log`);
  await until(() => countStarted(log) === 1);
  controller.abort(new Error("enough"));
  const run = await running;
  assert.equal(run.settled?.status, "rejected");
  assert.ok(run.notes().every(({ pid }) => !isAlive(pid)));
});

test("a job beyond its attempt duration is stopped and not tried again", async () => {
  let fire: () => void = () => undefined;
  const clock = {
    now: () => 0,
    after: (ms: number, callback: () => void) => {
      if (ms === 60_000) fire = callback;
      return () => undefined;
    },
  };
  const { NODE_TEST_CONTEXT: _, ...environment } = process.env;
  const batch = createLocalBatch({
    definitions: new Map([["worker", [process.execPath, WORKER]]]),
    environment: { ...environment, FAKE_WORKER: '{"none":["hang"]}' },
    jobs: 1,
    clock,
    log: (event) => {
      if (event.event === "unit-started") fire();
    },
  });
  const job = { JobName: "a", JobQueue: "b", JobDefinition: "worker", Timeout: { AttemptDurationSeconds: 60 } };
  await assert.rejects(batch(job, { signal: new AbortController().signal, heartbeat: () => undefined }), (error) => {
    assert.ok(error instanceof Error);
    assert.partialDeepStrictEqual(JSON.parse(error.message), {
      Failures: [{ Attempts: 1, Reason: "Job attempt duration exceeded timeout" }],
    });
    return true;
  });
});

test("children end when their parent is killed", async () => {
  const log = join(folder, "orphans.log");
  const { NODE_TEST_CONTEXT: _, ...environment } = process.env;
  const parent = spawn(process.execPath, [fileURLToPath(new URL("fake-parent.ts", import.meta.url)), WORKER], {
    env: { ...environment, FAKE_WORKER: '{"0":["hang"],"1":["hang"]}', FAKE_LOG: log },
    stdio: "ignore",
  });
  await until(() => countStarted(log) === 2);
  const pids = readNotes(log).map(({ pid }) => pid);
  assert.ok(pids.every(isAlive));
  parent.kill("SIGKILL");
  await until(() => pids.every((pid) => !isAlive(pid)));
  assert.equal(readNotes(log).filter(({ word }) => word === "orphaned").length, 2);
});

function countStarted(log: string): number {
  try {
    return readNotes(log).filter(({ word }) => word === "started").length;
  } catch {
    return 0;
  }
}
