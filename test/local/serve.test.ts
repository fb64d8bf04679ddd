// Serving a yard: what is started, when, and how often. Runs are made by the test; real ones are in
// test/cli/serve.test.ts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import type { PipelineOutcome } from "../../local/run-pipeline.ts";
import { type Served, serve } from "../../local/serve.ts";
import { listKeys } from "../../steps/records.ts";
import type { StepEvent } from "../../steps/step.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, newYard, openerOf, putText } from "../steps/deps.ts";
import { recipe } from "../steps/pipeline.ts";
import { putModel } from "../steps/small-model.ts";

const MORNING = Date.parse("2026-11-24T08:00:00Z");
const HOUR = 3_600_000;

const DONE: PipelineOutcome = {
  status: "done",
  result: {
    yard: "memory://y",
    run: "r",
    outcome: "published",
    model: "m",
    channel: "c",
    version: "v",
    current: null,
    files: 1,
    bytes: 1,
  },
  summary: {
    yard: "memory://y",
    run: "r",
    outcome: "published",
    units: 1,
    cached: 0,
    bytesRead: 1,
    bytesWritten: 1,
    cpuMs: 1,
  },
};
const FAILED: PipelineOutcome = { status: "failed", error: "PlanTooLarge", cause: "", failure: undefined };

async function yardWith(pipelines: Readonly<Record<string, string>>): Promise<ObjectStore> {
  const yard = await newYard();
  for (const [name, on] of Object.entries(pipelines)) await putText(yard, `pipelines/${name}.yaml`, withTrigger(on));
  return yard;
}

const withTrigger = (on: string) => recipe(0.5).replace("name: small", `name: small\non: ${on}`);

type Options = {
  /** What a run gives or throws; `done` when it is left out. */
  readonly answer?: (pipeline: string) => PipelineOutcome;
  /** Does something to the yard after the given look, of which there are as many as there are entries, and one more. */
  readonly between?: readonly (() => Promise<void> | void)[];
  readonly once?: boolean;
  readonly nowMs?: () => number;
};

/** Serves for a few looks; gives the pipelines that ran, in order. */
async function serveLooks(yard: ObjectStore, { answer, between = [], once = false, nowMs = () => MORNING }: Options) {
  const [ran, events, served]: [string[], StepEvent[], Served[]] = [[], [], []];
  const stopped = new AbortController();
  let look = 0;
  // Every look lists the uploads once.
  const watched: ObjectStore = {
    ...yard,
    async *list(prefix, options) {
      if (prefix === "incoming/") {
        if (look > 0) await between[look - 1]?.();
        if (look > between.length) stopped.abort(new Error("enough"));
        look += 1;
      }
      yield* yard.list(prefix, options);
    },
  };
  const deps = {
    openStore: openerOf(watched),
    now: nowMs,
    log: (event: StepEvent) => void events.push(event),
    signal: stopped.signal,
  };
  const ended = serve(
    { yard: yard.uri, everyMs: 1, once },
    {
      deps,
      run: async ({ key }) => {
        ran.push(key.replace("pipelines/", ""));
        return { outcome: answer?.(key) ?? DONE, unitsEnded: 1 };
      },
      ended: (each) => void served.push(each),
    },
  );
  if (once) return { ran, events, served, failed: await ended };
  await ended.catch((error: Error) => {
    if (error.message !== "enough") throw error;
  });
  return { ran, events, served, failed: 0 };
}

const nothing = () => {};
const records = (yard: ObjectStore) => listKeys(yard, "starts/");

test("a whole upload starts the pipelines that want its model, once, whoever serves", async () => {
  const yard = await yardWith({ a: '{ upload: ["a*"] }', b: '{ upload: ["b"] }', c: '{ upload: ["?"] }' });
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  const first = await serveLooks(yard, { between: [nothing, nothing, nothing] });
  assert.deepEqual(first.ran, ["a.yaml", "c.yaml"]);
  assert.deepEqual((await serveLooks(yard, { between: [nothing, nothing] })).ran, [], "the yard remembers");
  await putModel(yard, "incoming/b/1/", { seed: 2 });
  assert.deepEqual((await serveLooks(yard, { between: [nothing, nothing] })).ran, ["b.yaml", "c.yaml"]);
  await putModel(yard, "incoming/b/2/", { seed: 3 });
  assert.deepEqual((await serveLooks(yard, { once: true })).ran, ["b.yaml", "c.yaml"]);
  assert.equal((await records(yard)).length, 6);
});

test("several uploads that ask for one pipeline are one run of it", async () => {
  const yard = await yardWith({ all: '{ upload: ["*"], schedule: "cron(0 2 * * ? *)" }' });
  for (const model of ["a", "b", "c"]) await putModel(yard, `incoming/${model}/1/`, { seed: model.charCodeAt(0) });
  const { ran, served } = await serveLooks(yard, { once: true });
  assert.deepEqual(ran, ["all.yaml"]);
  assert.equal(served[0]?.starts.length, 4);
  assert.equal((await records(yard)).length, 4);
});

test("an upload counts when two looks in a row found it the same", async () => {
  const yard = await yardWith({ a: '{ upload: ["a"] }' });
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  const add = (name: string) => () => putText(yard, `incoming/a/1/${name}`, name);
  const { ran, served } = await serveLooks(yard, {
    between: [add("tokenizer.json"), add("notes.txt"), nothing, nothing],
  });
  assert.deepEqual([ran, served.length], [["a.yaml"], 1]);
});

test("an upload that is not whole starts nothing, and why is said once", async () => {
  const yard = await yardWith({ a: '{ upload: ["a"] }' });
  await putText(yard, "incoming/a/1/model-00001-of-00002.safetensors", "a part");
  const complete = () => putText(yard, "incoming/a/1/_COMPLETE", "");
  const { ran, events } = await serveLooks(yard, { between: [nothing, nothing, complete, nothing] });
  assert.deepEqual(ran, ["a.yaml"]);
  assert.deepEqual(
    events.filter(({ event }) => event === "upload-incomplete"),
    [{ event: "upload-incomplete", prefix: "incoming/a/1/", reason: "no index, and no lone model.safetensors" }],
  );
});

test("a schedule is made up for when nobody looked, for a day, and then follows the clock", async () => {
  const yard = await yardWith({
    night: '{ schedule: "cron(0 2 * * ? *)" }',
    old: '{ schedule: "at(2026-11-22T02:00:00)" }',
  });
  let hours = 0;
  const pass = () => {
    hours += 9;
  };
  const { served } = await serveLooks(yard, { nowMs: () => MORNING + hours * HOUR, between: [pass, pass, pass] });
  const names = served.flatMap(({ starts }) => starts).map((name) => name.replace(/-[0-9a-f]{16}$/, ""));
  assert.deepEqual(names, ["schedule-20261124T0200-night", "schedule-20261125T0200-night"]);
  assert.deepEqual((await serveLooks(yard, { nowMs: () => MORNING + 20 * HOUR, once: true })).ran, []);
});

test("a pipeline that failed starts again when its file was corrected, and not before", async () => {
  const yard = await yardWith({ a: '{ upload: ["a"] }' });
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  const correct = () => putText(yard, "pipelines/a.yaml", withTrigger('{ upload: ["a"] }').replace("0.5", "0.25"));
  let failures = 0;
  const answer = (): PipelineOutcome => {
    failures += 1;
    return failures === 1 ? FAILED : DONE;
  };
  const { served } = await serveLooks(yard, { answer, between: [nothing, nothing, correct, nothing, nothing] });
  assert.deepEqual(
    served.map(({ outcome }) => outcome.status),
    ["failed", "done"],
  );
});

test("what may pass is waited for: a store that is silent, another process at the same run", async () => {
  const yard = await yardWith({ a: '{ schedule: "rate(1 hour)" }', b: '{ schedule: "rate(1 hour)" }' });
  let calls = 0;
  const answer = (pipeline: string): PipelineOutcome => {
    calls += 1;
    if (calls === 1) throw new MergeyardError("StoreUnavailable", { found: "no answer" });
    if (calls === 3) throw new MergeyardError("FlowRunBusy", { where: { file: pipeline } });
    return DONE;
  };
  const { ran, events } = await serveLooks(yard, { answer, between: [nothing, nothing, nothing] });
  assert.deepEqual(ran, ["a.yaml", "b.yaml", "a.yaml", "a.yaml"]);
  const waits = events.filter(({ event }) => event === "serve-waiting");
  assert.deepEqual(
    waits.map(({ reason }) => String(reason).split(":")[0]),
    ["StoreUnavailable", "FlowRunBusy"],
  );
  calls = 0;
  await assert.rejects(serveLooks(yard, { answer, once: true, nowMs: () => MORNING + HOUR }), /no answer/);
});

test("a pipeline that cannot be read keeps no other from starting", async () => {
  const yard = await yardWith({ a: '{ schedule: "rate(1 hour)" }', b: '{ schedule: "hourly" }' });
  const { ran, failed } = await serveLooks(yard, { once: true });
  assert.deepEqual([ran, failed], [["a.yaml"], 1]);
});

test("a run that its runner gives up is a failed one, and a store that refuses ends the service", async () => {
  const yard = await yardWith({ a: '{ schedule: "rate(1 hour)" }', b: '{ schedule: "rate(1 hour)" }' });
  const damaged = (pipeline: string): PipelineOutcome => {
    if (pipeline.includes("/b.")) return DONE;
    throw new MergeyardError("StoreJsonInvalid", { where: { file: "runs/r/journal/000001-000000.json" } });
  };
  const { served } = await serveLooks(yard, { answer: damaged, between: [nothing, nothing] });
  assert.deepEqual(
    served.map(({ outcome }) => outcome.status),
    ["failed", "done"],
  );
  const refused = (): PipelineOutcome => {
    throw new MergeyardError("StoreAccessDenied");
  };
  const later = { nowMs: () => MORNING + HOUR };
  await assert.rejects(serveLooks(yard, { answer: refused, ...later }), { code: "StoreAccessDenied" });
});

test("records of starts are forgotten after 90 days, but for those of uploads that are still there", async () => {
  const yard = await yardWith({ a: '{ schedule: "rate(1 hour)" }', b: '{ upload: ["b"] }', c: '{ upload: ["c"] }' });
  for (const model of ["b", "c"]) await putModel(yard, `incoming/${model}/1/`, { seed: model.charCodeAt(0) });
  // The clock of a memory store begins with 2026.
  const at = (days: number) => Date.parse("2026-01-01T08:00:00Z") + days * 24 * HOUR;
  const serveOnce = (days: number) => serveLooks(yard, { once: true, nowMs: () => at(days) });
  const kept = async () => (await records(yard)).map((key) => key.replace(/-[0-9a-f]{16}.json$/, ""));
  await serveOnce(0);
  assert.deepEqual(await kept(), ["starts/schedule-20260101T0800-a", "starts/upload-b", "starts/upload-c"]);
  for await (const { key } of yard.list("incoming/c/")) await yard.delete(key);
  await serveOnce(80);
  assert.equal((await kept()).length, 4);
  await serveOnce(100);
  assert.deepEqual(await kept(), ["starts/schedule-20260411T0800-a", "starts/upload-b"]);
  let days = 200;
  const pass = () => {
    days += 1;
  };
  await serveLooks(yard, { nowMs: () => at(days), between: [pass, pass, pass] });
  assert.deepEqual([days, (await kept()).includes("starts/upload-b")], [203, true]);
});

test("a place that is no yard is refused", async () => {
  await assert.rejects(serveLooks(newStore(), { once: true }), { code: "YardMissing" });
});
