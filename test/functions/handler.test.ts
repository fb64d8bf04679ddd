import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { handler as check } from "../../functions/check.ts";
import { createLambda } from "../../functions/handler.ts";
import { handler as notify } from "../../functions/notify.ts";
import { handler as plan } from "../../functions/plan.ts";
import { handler as publish } from "../../functions/publish.ts";
import { handler as recordFailure } from "../../functions/record-failure.ts";
import { planOutputSchema, publishOutputSchema, recordFailureOutputSchema } from "../../steps/schemas.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { openStore } from "../../stores/open.ts";
import { testDeps } from "../steps/deps.ts";
import { createInThreadExecutor } from "../steps/in-thread-executor.ts";
import { makeYard, runUnits } from "../steps/pipeline.ts";
import { lambdaContext } from "./lambda-context.ts";

const CONTEXT = lambdaContext();

test("the functions carry a run from plan to notice, as Lambda calls them", async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), "functions-"));
  t.after(() => rm(folder, { recursive: true }));
  const uri = pathToFileURL(folder).href;
  const yard = openStore(uri, {});
  await makeYard(yard);
  const planned = planOutputSchema.parse(
    await plan({ yard: uri, pipeline: { store: uri, key: "pipelines/small.yaml" } }, CONTEXT),
  );
  const opener = (place: string) => openStore(place, {});
  await runUnits(planned, testDeps(opener, { executeMerge: createInThreadExecutor(opener) }));
  const ref = { yard: uri, run: planned.run };
  await check(ref, CONTEXT);
  const result = publishOutputSchema.parse(await publish({ ...ref, plannedMs: planned.plannedMs }, CONTEXT));
  assert.equal(result.outcome, "published");
  await notify({ ...ref, outcome: result.outcome }, CONTEXT);
  assert.ok(await yard.head(`runs/${planned.run}/events.jsonl`));
});

test("a function's typed error has its code as name, and its record reaches the failure record", async () => {
  const uri = "memory://functions-no-yard";
  const failed = await plan({ yard: uri, pipeline: { store: uri, key: "p.yaml" } }, CONTEXT).catch((error) => error);
  assert.equal(failed.name, "YardMissing");
  const cause = JSON.stringify({ errorType: failed.name, errorMessage: failed.message, trace: [] });
  const input = { yard: uri, run: null, state: "Plan", error: { Error: failed.name, Cause: cause } };
  const recorded = recordFailureOutputSchema.parse(await recordFailure(input, CONTEXT));
  assert.equal(recorded.error.code, "YardMissing");
  assert.equal(recorded.error.where.store, uri);
  assert.equal(recorded.key, null);
  assert.equal(await createMemoryStore("functions-no-yard").head("yard.json"), undefined);
});

test("work that runs out of time is stopped before Lambda kills it, and is worth trying again", async () => {
  let stopped = false;
  const handler = createLambda("slow", async (_event, { signal }) => {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    stopped = true;
    signal.throwIfAborted();
  });
  const failed = await handler({}, lambdaContext(10_020)).catch((error) => error);
  assert.equal(failed.name, "FlowTimeUp");
  assert.equal(JSON.parse(failed.message).retryable, true);
  assert.ok(stopped, "the work was told, and had time to discard what it had open");
});

test("work that does not listen is answered for before Lambda kills it", async () => {
  const handler = createLambda("deaf", () => new Promise<never>(() => undefined));
  const failed = await handler({}, lambdaContext(2020)).catch((error) => error);
  assert.equal(failed.name, "FlowTimeUp");
});

test("plans are made for the deployment's workers, unless the input says otherwise", async (t) => {
  const store = createMemoryStore("functions-sizes");
  await makeYard(store);
  const cpu = { vcpus: 3, memoryMiB: 2048, memoryMiBMax: 2048 };
  process.env.MERGEYARD_FLEET = JSON.stringify({ cpu, gpu: null });
  t.after(() => {
    delete process.env.MERGEYARD_FLEET;
  });
  const input = { yard: store.uri, pipeline: { store: store.uri, key: "pipelines/small.yaml" } };
  const { stages } = await plan(input, CONTEXT);
  const sizes = stages.map(({ queue, vcpus, memoryMiB }) => [queue, vcpus, memoryMiB]);
  assert.deepEqual(sizes, [
    ["cpu", 3, 2048],
    ["cpu", 1, 2048],
    ["cpu", 3, 2048],
  ]);
  const failed = await plan({ ...input, memoryBytes: 1000 }, CONTEXT).catch((error) => error);
  assert.equal(failed.name, "PlanMemoryExceeded");
});
