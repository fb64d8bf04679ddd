// The whole product under the state machine: real steps, real workers as child processes, a folder as the yard, and the
// runner killed at moments spread over the run.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import * as z from "zod";
import { layout } from "../../core/artifact/layout.ts";
import { receiptSchema } from "../../core/plan/receipt.ts";
import { failureSchema, type PublishOutput, publishOutputSchema } from "../../steps/schemas.ts";
import { readJson } from "../../stores/objects.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { putText } from "../steps/deps.ts";
import { makeYard, recipe } from "../steps/pipeline.ts";
import { putModel } from "../steps/small-model.ts";

const RUNNER = fileURLToPath(new URL("pipeline-runner.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "pipeline-"));
/** A yard with two uploads and the pipeline `small`. */
const uploaded = join(folder, "uploaded");
/** The same after a run, with the pipeline changed: what is left to do is one stage of three units. */
const adopted = join(folder, "adopted");
after(() => rmSync(folder, { recursive: true }));
before(async () => {
  await makeYard(openStore(uploaded, {}));
  cpSync(uploaded, adopted, { recursive: true });
  assert.equal((await runIn(adopted)).outcome?.status, "done");
  await putText(openStore(adopted, {}), "pipelines/small.yaml", recipe(0.25));
});

let yards = 0;
function copyOf(yard: string): string {
  yards += 1;
  const path = join(folder, `yard-${yards}`);
  cpSync(yard, path, { recursive: true });
  return path;
}

type Event = Record<string, unknown> & { event: string };

const eventSchema = z.looseObject({ event: z.string() });
const outcomeSchema = z.looseObject({ status: z.string() });

/** Runs the pipeline in a process of its own, which may be told when to kill itself or a worker. */
async function runIn(yard: string, ...fatal: readonly string[]) {
  const { NODE_TEST_CONTEXT: _, ...environment } = process.env;
  const args = [RUNNER, yard, ...fatal];
  const env = { ...environment, NODE_COMPILE_CACHE: join(folder, "compile") };
  const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "close");
  const events: Event[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    events.push(eventSchema.parse(JSON.parse(line)));
  }
  const [, signal] = await ended;
  const last = events.at(-1);
  const outcome = last?.event === "outcome" ? outcomeSchema.parse(last.outcome) : undefined;
  return { events, outcome, killed: signal === "SIGKILL" };
}

type Run = Awaited<ReturnType<typeof runIn>>;
const publishedBy = ({ outcome }: Run) => publishOutputSchema.parse(outcome?.result);
const started = ({ events }: Run) => events.filter((event) => event.event === "unit-started");

test("a pipeline publishes through the state machine, and run again finds nothing to do", async () => {
  const yard = copyOf(uploaded);
  const first = await runIn(yard);
  assert.equal(first.outcome?.status, "done");
  const published = publishedBy(first);
  assert.equal(published.outcome, "published");
  assert.ok(started(first).length > 8);
  const again = await runIn(yard);
  assert.deepEqual(publishedBy(again).version, published.version);
  assert.equal(publishedBy(again).outcome, "unchanged");
  assert.equal(publishedBy(again).run, published.run);
  assert.equal(started(again).length, 0);
  assert.deepEqual(readdirSync(join(yard, "artifacts/ab")), [published.version]);
});

/** Moments at which the runner is killed: the yard it works in, an event, and how often it was seen. */
const MOMENTS: readonly (readonly [yard: string, event: string, seen: number])[] = [
  [uploaded, "unit-finished", 3],
  [uploaded, "jobs-ended", 2],
  [adopted, "state-entered", 1],
  [adopted, "attempt-opened", 1],
  [adopted, "worker-started", 1],
  [adopted, "unit-started", 2],
  [adopted, "unit-finished", 2],
  [adopted, "jobs-ended", 1],
  [adopted, "run-ended", 1],
];

test("killed at any moment, the same command finishes the run and publishes the same version", async (t) => {
  const references = new Map<string, PublishOutput>();
  for (const yard of [uploaded, adopted]) references.set(yard, publishedBy(await runIn(copyOf(yard))));
  for (const [from, event, seen] of MOMENTS) {
    await t.test(`killed at ${event} ${seen}`, async () => {
      const yard = copyOf(from);
      assert.ok((await runIn(yard, event, String(seen))).killed);
      const store = openStore(yard, {});
      const before = await outputsOf(store);
      const result = publishedBy(await runIn(yard));
      const reference = references.get(from);
      assert.deepEqual([result.run, result.version], [reference?.run, reference?.version]);
      // Killed after it had published, the run has nothing left to do.
      assert.equal(result.outcome, event === "run-ended" ? "unchanged" : "published");
      // What had a receipt was not made again: its file is the same one.
      const now = new Map(await outputsOf(store));
      for (const [key, etag] of before) assert.equal(now.get(key), etag, key);
    });
  }
});

/** Output files of units that have a receipt, with their ETags. */
async function outputsOf(store: ObjectStore): Promise<[string, string][]> {
  const outputs: [string, string][] = [];
  for await (const { key } of store.list("runs/")) {
    if (!key.includes("/receipts/")) continue;
    const receipt = await readJson(store, key, receiptSchema, 1e6);
    const info = receipt.outputKey === null ? undefined : await store.head(receipt.outputKey);
    if (info !== undefined) outputs.push([info.key, info.etag]);
  }
  return outputs;
}

test("a worker that is killed is started again and the run goes on", async () => {
  const yard = copyOf(adopted);
  const run = await runIn(yard, "worker-started", "1", "worker");
  assert.equal(publishedBy(run).outcome, "published");
  assert.ok(run.events.some((event) => event.event === "job-attempt-failed" && event.again === true));
});

test("a failing unit is named with its error, and the channel stays where it was", async () => {
  const yard = copyOf(adopted);
  const store = openStore(yard, {});
  const channel = layout.channel("ab", "nightly");
  const before = await readJson(store, channel, z.looseObject({ version: z.string() }), 1e5);
  await putModel(store, "incoming/b/2/", { seed: 3, nanAt: 5 });
  const run = await runIn(yard);
  assert.equal(run.outcome?.status, "failed");
  const failure = failureSchema.parse(run.outcome?.failure);
  assert.match(failure.error.code, /^[A-Z]/);
  assert.notEqual(failure.error.code, "States.TaskFailed");
  assert.ok(failure.unitsFailed > 0 || failure.state === "Check");
  assert.deepEqual(await readJson(store, channel, z.looseObject({ version: z.string() }), 1e5), before);
});
