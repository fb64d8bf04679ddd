// The journal: an execution that is killed at any of its writes goes on where it stopped; one that changed, ended or
// failed starts anew; two at one time notice each other.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { MergeyardError } from "../../core/error.ts";
import { isJsonObject, type Json, type JsonObject } from "../../core/json.ts";
import { type ExecutionResult, execute } from "../../local/asl/execute.ts";
import type { FlowEvent } from "../../local/asl/frame.ts";
import { loadMachine } from "../../local/asl/load.ts";
import { createRunJournal } from "../../local/run-journal.ts";
import { listKeys } from "../../steps/records.ts";
import { createFaultyStore } from "../../stores/faulty.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { refusal } from "../refusal.ts";
import { createFakeClock } from "./asl/fake-clock.ts";
import { call, definitionOf, LAMBDA, named } from "./asl/machine-case.ts";

const RUN = "run-1";
/** Calls `work` with an id and gives what it gives. */
const work = (id: JsonObject | string, fields: JsonObject = {}): JsonObject =>
  call("work", { Arguments: { FunctionName: "work", Payload: id }, ...fields });

/** Every kind of state that can be cut short: a loop, a map in a branch, a caught error inside a map, random values. */
const MACHINE: JsonObject = {
  Start: { Type: "Pass", Assign: { i: 0, token: "{% $uuid() %}" }, Next: "Left" },
  Left: { Type: "Choice", Choices: [{ Condition: "{% $i < 2 %}", Next: "Step" }], Default: "Both" },
  Step: work("{% 'step' & $string($i) %}", { Assign: { i: "{% $i + 1 %}" }, Next: "Left" }),
  Both: {
    Type: "Parallel",
    Branches: [
      {
        StartAt: "Each",
        States: {
          Each: {
            Type: "Map",
            Items: ["a", "b", "c"],
            MaxConcurrency: 2,
            ItemProcessor: {
              StartAt: "Item",
              States: {
                Item: work("{% $states.input %}", { Next: "Again" }),
                Again: work("{% $states.input & '2' %}"),
              },
            },
            End: true,
          },
        },
      },
      { StartAt: "Side", States: { Side: work("side") } },
    ],
    Next: "Pause",
  },
  Pause: { Type: "Wait", Seconds: 5, Next: "Last" },
  Last: work("last", { Output: { before: "{% $states.input %}", token: "{% $token %}" }, Next: "Done" }),
  Done: { Type: "Succeed" },
};
const IDS = ["step0", "step1", "a", "b", "c", "a2", "b2", "c2", "side", "last"];

type Run = {
  readonly result: ExecutionResult;
  readonly calls: string[];
  readonly events: FlowEvent[];
  readonly attempt: number;
};
type Options = {
  readonly store: ObjectStore;
  readonly states?: JsonObject;
  readonly signal?: AbortSignal;
  readonly token?: string;
  readonly onCall?: (id: string) => void;
};

/** One process's run: opens the journal, executes, closes it as the local edge does. */
async function runOnce(options: Options): Promise<Run> {
  const clock = createFakeClock();
  const machine = loadMachine(definitionOf({ states: options.states ?? MACHINE }), { resources: new Set([LAMBDA]) });
  const journal = createRunJournal({ store: options.store, definition: machine.digest, now: clock.now });
  const { attempt } = await journal.open(RUN);
  const calls: string[] = [];
  const events: FlowEvent[] = [];
  const invoke = async (input: Json): Promise<Json> => {
    assert.ok(isJsonObject(input) && typeof input.Payload === "string");
    calls.push(input.Payload);
    options.onCall?.(input.Payload);
    return input.Payload;
  };
  const result = await execute({
    machine,
    input: {},
    name: "test",
    tasks: new Map([[LAMBDA, invoke]]),
    journal,
    clock,
    entropy: { random: Math.random, uuid: () => options.token ?? "token" },
    signal: options.signal,
    onEvent: (event) => events.push(event),
  });
  await journal.end(result.status);
  return { result, calls, events, attempt };
}

let stores = 0;
function freshStore(): ObjectStore {
  stores += 1;
  return createMemoryStore(`journal-${process.pid}-${stores}`);
}
const keysOf = (store: ObjectStore) => listKeys(store, layout.journals(RUN));
const parse = (bytes: Uint8Array): unknown => JSON.parse(new TextDecoder().decode(bytes));
const text = (json: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(json));

/** Ids of the tasks that the journal says are finished. */
async function finishedIds(store: ObjectStore): Promise<string[]> {
  const ids: string[] = [];
  for (const key of await keysOf(store)) {
    const object = await store.get(key, 1_000_000);
    const entry = object === undefined ? undefined : parse(object.bytes);
    if (entry !== null && typeof entry === "object" && "output" in entry && typeof entry.output === "string") {
      ids.push(entry.output);
    }
  }
  return ids;
}

const whole = { before: [["a2", "b2", "c2"], "side"], token: "first" };

for (const when of ["before", "after"] as const) {
  test(`killed ${when} any journal write, the next run goes on and repeats nothing that was finished`, async () => {
    let points = 0;
    for (let at = 1; ; at += 1) {
      const store = freshStore();
      const crash = { at, when, act: kill };
      const faulty = createFaultyStore(store, { seed: 1, rate: 0, faults: [], crash });
      const first: string[] = [];
      const killed = await runOnce({ store: faulty.store, token: "first", onCall: (id) => first.push(id) }).then(
        () => false,
        (error) => error.message === "killed",
      );
      if (!killed) break;
      points += 1;
      const durable = await finishedIds(store);
      const second = await runOnce({ store, token: "second" });
      assert.ok(second.result.status === "SUCCEEDED");
      // Killed after the last write, the attempt had ended: this was a new one.
      if (second.attempt === 2) continue;
      const label = `killed at ${at}`;
      const replayed = second.events.some((event) => event.event === "state-replayed");
      assert.deepEqual(second.result.output, replayed ? whole : { ...whole, token: "second" }, label);
      assert.deepEqual(
        second.calls.filter((id) => durable.includes(id)),
        [],
        label,
      );
      assert.deepEqual(new Set([...first, ...second.calls]), new Set(IDS), label);
    }
    // 18 states, the attempt before them and its end behind them.
    assert.equal(points, 20);
  });
}

function kill(): never {
  throw new Error("killed");
}

/** A run that is killed just before its `at`-th operation on the store. */
async function runKilled(store: ObjectStore, at: number, states?: JsonObject): Promise<void> {
  const crash = { at, when: "before" as const, act: kill };
  const faulty = createFaultyStore(store, { seed: 1, rate: 0, faults: [], crash });
  await assert.rejects(runOnce({ store: faulty.store, ...(states === undefined ? {} : { states }) }), {
    message: "killed",
  });
}

test("a changed definition begins a new attempt and replays nothing", async () => {
  const store = freshStore();
  await runKilled(store, 12);
  assert.ok((await finishedIds(store)).length > 0);
  const states = { ...MACHINE, Pause: { Type: "Wait", Seconds: 6, Next: "Last" } };
  const changed = await runOnce({ store, states });
  assert.equal(changed.attempt, 2);
  assert.ok(changed.events.every((event) => event.event !== "state-replayed"));
  assert.deepEqual(changed.calls.toSorted(), IDS.toSorted());
});

test("a finished attempt is not replayed: running again runs again", async () => {
  const store = freshStore();
  const first = await runOnce({ store });
  const second = await runOnce({ store });
  assert.deepEqual([first.attempt, second.attempt], [1, 2]);
  assert.deepEqual(second.calls.toSorted(), IDS.toSorted());
});

const CATCHING: JsonObject = {
  A: work("a", { Next: "B" }),
  B: work("b", { Catch: [{ ErrorEquals: ["States.ALL"], Next: "C" }] }),
  C: work("c", { Next: "D" }),
  D: { Type: "Fail", Error: "E" },
};

test("an attempt that met an error is not gone on with, even when it was killed before its end", async () => {
  const store = freshStore();
  let calls = 0;
  const controller = new AbortController();
  const first = await runOnce({
    store,
    states: CATCHING,
    signal: controller.signal,
    onCall: (id) => {
      calls += 1;
      if (id === "b") throw named("Broken");
      if (id === "c") controller.abort(new Error("stop"));
    },
  });
  assert.equal(first.result.status, "ABORTED");
  assert.equal(calls, 3);
  const second = await runOnce({ store, states: CATCHING });
  assert.equal(second.attempt, 2);
  assert.deepEqual(second.result, { status: "SUCCEEDED", output: "b" });
});

test("a cancelled execution goes on where it was", async () => {
  const store = freshStore();
  const controller = new AbortController();
  const first = await runOnce({
    store,
    signal: controller.signal,
    onCall: (id) => {
      if (id === "step1") controller.abort(new Error("stop"));
    },
  });
  assert.equal(first.result.status, "ABORTED");
  const second = await runOnce({ store });
  assert.equal(second.attempt, 1);
  assert.ok(!second.calls.includes("step0"));
  assert.deepEqual(new Set([...first.calls, ...second.calls]), new Set(IDS));
});

test("a write whose answer was lost is no conflict", async () => {
  const store = freshStore();
  const twice: ObjectStore = {
    ...store,
    create: async (key, bytes, options) => {
      await store.create(key, bytes, options);
      return store.create(key, bytes, options);
    },
  };
  const run = await runOnce({ store: twice });
  assert.equal(run.result.status, "SUCCEEDED");
});

test("of two processes on one run, one goes on and the other says that the run is busy", async () => {
  const store = freshStore();
  const settled = await Promise.allSettled([runOnce({ store }), runOnce({ store })]);
  const failed = settled.flatMap((one) => (one.status === "rejected" ? [one.reason] : []));
  assert.equal(failed.length, 1);
  assert.ok(failed[0] instanceof MergeyardError);
  assert.equal(failed[0].code, "FlowRunBusy");
  assert.match(failed[0].where.file ?? "", /^runs\/run-1\/journal\//);
});

test("a journal that cannot be written ends the execution with the store's error, and nothing catches it", async () => {
  const store = freshStore();
  const full: ObjectStore = {
    ...store,
    create: async (key, bytes, options) => {
      if (key.endsWith("-000001.json")) throw new MergeyardError("StoreUnavailable", { where: { file: key } });
      return store.create(key, bytes, options);
    },
  };
  const states = { A: work("a", { Catch: [{ ErrorEquals: ["States.ALL"], Next: "C" }], Next: "C" }), C: work("c") };
  const calls: string[] = [];
  const run = runOnce({ store: full, states, onCall: (id) => calls.push(id) });
  await assert.rejects(run, { code: "StoreUnavailable" });
  assert.deepEqual(calls, ["a"]);
});

test("a damaged entry is refused, not skipped", async () => {
  const store = freshStore();
  await runKilled(store, 8);
  const [, second = ""] = await keysOf(store);
  const before = await store.head(second);
  await store.replace(second, text({ journal: 1, kind: "state", path: 5 }), before?.etag ?? "");
  await assert.rejects(runOnce({ store }), refusal({ code: "StoreJsonInvalid", file: second }));
});
