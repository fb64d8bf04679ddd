import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { handler as check } from "../../functions/check.ts";
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

/** What Lambda gives a function besides the event. */
const CONTEXT = {
  awsRequestId: "1",
  callbackWaitsForEmptyEventLoop: false,
  functionName: "f",
  functionVersion: "1",
  invokedFunctionArn: "arn:aws:lambda:eu-west-1:1:function:f",
  logGroupName: "g",
  logStreamName: "s",
  memoryLimitInMB: "1024",
  getRemainingTimeInMillis: () => 60_000,
  done: () => undefined,
  fail: () => undefined,
  succeed: () => undefined,
};

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
