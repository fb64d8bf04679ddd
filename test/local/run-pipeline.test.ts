// The local edge with fakes for steps and workers: what it answers, what it keeps, and how it goes on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { layout } from "../../core/artifact/layout.ts";
import { MergeyardError } from "../../core/error.ts";
import { type PipelineFunctions, type PipelineRun, runPipeline } from "../../local/run-pipeline.ts";
import { recordFailureStep } from "../../steps/record-failure.ts";
import { listKeys } from "../../steps/records.ts";
import { runStep, type StepEvent } from "../../steps/step.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import type { ObjectStore } from "../../stores/store.ts";

const WORKER = fileURLToPath(new URL("fake-worker.ts", import.meta.url));
const RUN = "0123456789abcdef";

let stores = 0;
function freshYard(): ObjectStore {
  stores += 1;
  return createMemoryStore(`run-pipeline-${process.pid}-${stores}`);
}
/** Functions that succeed: two stages, of two jobs and of one. */
function fakes(yard: ObjectStore, replaced: Partial<PipelineFunctions> = {}): PipelineFunctions {
  const ref = { yard: yard.uri, run: RUN };
  const size = { queue: "cpu", vcpus: 2, memoryMiB: 3584, memoryBytes: 2_254_438_400 };
  const stage = { kind: "apply", units: 2, ...size };
  const stages = [
    { ...stage, index: 0, name: "first", jobs: 2 },
    { ...stage, index: 1, name: "second", jobs: 1 },
  ];
  const where = { model: "m", channel: "c", version: "v" };
  const current = { version: "v", run: RUN };
  const sums = { units: 3, cached: 0, bytesRead: 0, bytesWritten: 0, cpuMs: 0 };
  return {
    plan: async () => ({ ...ref, ...where, outcome: "planned", plannedMs: 1, stages, version: null, current: null }),
    check: async () => ({ ...ref, ...sums, files: 1, tensors: 1, bytes: 1, nonFinite: 0 }),
    publish: async () => ({ ...ref, ...where, outcome: "published", current, files: 1, bytes: 1 }),
    notify: async () => ({ ...ref, ...sums, outcome: "published" }),
    recordFailure: (payload, deps) => runStep(recordFailureStep, payload, deps),
    ...replaced,
  };
}

type Options = {
  readonly functions?: Partial<PipelineFunctions>;
  readonly worker?: Readonly<Record<string, readonly string[]>>;
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: StepEvent) => void;
};

async function runOn(yard: ObjectStore, options: Options = {}) {
  const events: StepEvent[] = [];
  const { NODE_TEST_CONTEXT: _, ...environment } = process.env;
  const run: PipelineRun = {
    yard: yard.uri,
    pipeline: { store: yard.uri, key: "pipelines/p.yaml" },
    jobs: 2,
    threads: 3,
    memoryBytes: 1_000_000,
    environment: { ...environment, FAKE_WORKER: JSON.stringify(options.worker ?? {}) },
    signal: options.signal ?? new AbortController().signal,
    onEvent: (event) => {
      events.push(event);
      options.onEvent?.(event);
    },
  };
  const outcome = await runPipeline(run, {
    openStore: () => yard,
    functions: fakes(yard, options.functions),
    worker: [process.execPath, WORKER],
    retryDelayMs: 1,
  });
  const started = events.flatMap((event) => (event.event === "unit-started" ? [`${event.stage}/${event.index}`] : []));
  return { outcome, events, started: started.sort() };
}

test("a run gives what was published and the sums of its receipts", async () => {
  const yard = freshYard();
  const { outcome, started } = await runOn(yard);
  assert.ok(outcome.status === "done");
  assert.equal(outcome.result.outcome, "published");
  assert.equal(outcome.summary.units, 3);
  assert.deepEqual(started, ["0/0", "0/1", "1/0"]);
});

test("workers are told how much of the machine is theirs", async () => {
  const seen: unknown[] = [];
  const worker = { 0: ["tell"], 1: ["tell"], none: ["tell"] };
  await runOn(freshYard(), { worker, onEvent: (event) => event.event === "told" && seen.push(event.resources) });
  assert.deepEqual(seen, Array(3).fill({ threads: "3", memoryBytes: "1000000" }));
});

test("an unchanged run starts no worker and leaves nothing in the yard", async () => {
  const yard = freshYard();
  const unchanged: PipelineFunctions["plan"] = async (payload, deps) => {
    const plan = await fakes(yard).plan(payload, deps);
    assert.ok(plan !== null && typeof plan === "object");
    return { ...plan, outcome: "unchanged", stages: [], version: "v", current: { version: "v", run: null } };
  };
  const { outcome, started } = await runOn(yard, { functions: { plan: unchanged } });
  assert.ok(outcome.status === "done");
  assert.equal(outcome.result.outcome, "unchanged");
  assert.deepEqual(started, []);
  assert.deepEqual(await listKeys(yard, ""), []);
});

test("a refused plan is a failure with its typed error, and leaves nothing in the yard", async () => {
  const yard = freshYard();
  const refuse = async (): Promise<never> => {
    throw new MergeyardError("YardMissing", { where: { store: "s" }, found: "nothing" });
  };
  const { outcome } = await runOn(yard, { functions: { plan: refuse } });
  assert.ok(outcome.status === "failed");
  assert.equal(outcome.error, "YardMissing");
  assert.equal(outcome.failure?.run, null);
  assert.equal(outcome.failure?.state, "Plan");
  assert.partialDeepStrictEqual(outcome.failure?.error, {
    code: "YardMissing",
    where: { store: "s" },
    found: "nothing",
  });
  assert.deepEqual(await listKeys(yard, ""), []);
});

test("after a failed job the record tells how it ended, and the next run tries again in a new attempt", async () => {
  const yard = freshYard();
  const first = await runOn(yard, { worker: { 1: ["exit 3"] } });
  assert.ok(first.outcome.status === "failed");
  assert.equal(first.outcome.error, "States.TaskFailed");
  assert.equal(first.outcome.failure?.state, "RunStageArray");
  assert.equal(first.outcome.failure?.error.found, "exit code 3");
  assert.ok((await listKeys(yard, "")).includes(layout.failure(RUN, 1)));
  const second = await runOn(yard);
  assert.equal(second.outcome.status, "done");
  assert.deepEqual(attemptOf(second.events), { attempt: 2, resumed: false });
  assert.deepEqual(second.started, ["0/0", "0/1", "1/0"]);
});

test("a cancelled run stops its workers, and the next one goes on at the stage that was cut short", async () => {
  const yard = freshYard();
  const controller = new AbortController();
  const first = await runOn(yard, {
    worker: { none: ["polite"] },
    signal: controller.signal,
    onEvent: (event) => {
      if (event.event === "unit-started" && event.stage === "1") controller.abort(new Error("enough"));
    },
  });
  assert.equal(first.outcome.status, "cancelled");
  const second = await runOn(yard);
  assert.equal(second.outcome.status, "done");
  assert.deepEqual(attemptOf(second.events), { attempt: 1, resumed: true });
  assert.deepEqual(second.started, ["1/0"]);
});

test("a later plan time does not make finished stages run again", async () => {
  const yard = freshYard();
  const failing = async (): Promise<never> => {
    throw new Error("the machine lost power");
  };
  const controller = new AbortController();
  const publish: PipelineFunctions["publish"] = (payload, deps) => {
    controller.abort();
    return fakes(yard, { publish: failing }).publish(payload, deps);
  };
  await runOn(yard, { functions: { publish }, signal: controller.signal });
  const payloads: unknown[] = [];
  const later: Partial<PipelineFunctions> = {
    plan: async (payload, deps) => Object.assign({}, await fakes(yard).plan(payload, deps), { plannedMs: 99 }),
    publish: (payload, deps) => {
      payloads.push(payload);
      return fakes(yard).publish(payload, deps);
    },
  };
  const second = await runOn(yard, { functions: later });
  assert.equal(second.outcome.status, "done");
  assert.deepEqual(second.started, []);
  assert.deepEqual(payloads, [{ yard: yard.uri, run: RUN, plannedMs: 99 }]);
});

test("a journal that cannot be read ends the runner with its error instead of failing the run", async () => {
  const yard = freshYard();
  await yard.create(layout.journal(RUN, 1, 0), new TextEncoder().encode("{}"));
  await assert.rejects(runOn(yard), { code: "StoreJsonInvalid" });
  assert.deepEqual(await listKeys(yard, ""), [layout.journal(RUN, 1, 0)]);
});

function attemptOf(events: readonly StepEvent[]): object {
  const opened = events.find((event) => event.event === "attempt-opened");
  return { attempt: opened?.attempt, resumed: opened?.resumed };
}
