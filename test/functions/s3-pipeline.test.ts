// The pipeline as it is deployed, on a real S3 server: events to the functions, the functions' executions through the
// state machine, its jobs as processes of the bundled worker, and a pull at the end. The local runner plays Step
// Functions and Batch.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import * as z from "zod";
import { handler as check } from "../../functions/check.ts";
import { handler as notify } from "../../functions/notify.ts";
import { createOnUpload } from "../../functions/on-upload.ts";
import { handler as plan } from "../../functions/plan.ts";
import { handler as publish } from "../../functions/publish.ts";
import { handler as recordFailure } from "../../functions/record-failure.ts";
import { type PipelineOutcome, runPipeline } from "../../local/run-pipeline.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import type { PlanInput } from "../../steps/schemas.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { initYard } from "../../steps/yard.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { bundleWorker } from "../../tools/bundle-worker.ts";
import { putText, testDeps } from "../steps/deps.ts";
import { recipe } from "../steps/pipeline.ts";
import { putModel } from "../steps/small-model.ts";
import { fakeExecutions, STATE_MACHINE } from "./fake-executions.ts";
import { lambdaContext } from "./lambda-context.ts";

const endpoint = process.env.MERGEYARD_TEST_S3_ENDPOINT;
const bucket = process.env.MERGEYARD_TEST_S3_BUCKET ?? "tests";
const skip =
  endpoint === undefined
    ? 'no S3 server: eval "$(node tools/s3-server.ts start)" starts one (Debian packages radosgw ceph-mon ceph-osd ' +
      "ceph-common); or name another by MERGEYARD_TEST_S3_ENDPOINT, MERGEYARD_TEST_S3_BUCKET and the AWS_* credentials"
    : undefined;
if (endpoint !== undefined) process.env.AWS_ENDPOINT_URL_S3 = endpoint;

const folder = await mkdtemp(path.join(tmpdir(), "mergeyard-s3-"));
const worker = path.join(folder, "image/worker/main.mjs");
before(async () => {
  if (endpoint !== undefined) await bundleWorker(path.join(folder, "image"));
});
after(() => rm(folder, { recursive: true }));

const prefix = randomUUID();
const uri = `s3://${bucket}/${prefix}`;
const opener = (place: string) => openStore(place, process.env);

async function removeAll(yard: ObjectStore): Promise<void> {
  for await (const { key } of yard.list("")) await yard.delete(key);
}

/** Runs an execution that a function started, by the functions' own handlers. */
function runExecution({ yard, pipeline }: PlanInput): Promise<PipelineOutcome> {
  const context = lambdaContext();
  const run = {
    yard,
    pipeline,
    jobs: 2,
    threads: 1,
    memoryBytes: 256 * 1024 * 1024,
    shardBytes: 400,
    environment: process.env,
    signal: new AbortController().signal,
    onEvent: () => undefined,
  };
  return runPipeline(run, {
    openStore: opener,
    functions: {
      plan: (payload) => plan(payload, context),
      check: (payload) => check(payload, context),
      publish: (payload) => publish(payload, context),
      notify: (payload) => notify(payload, context),
      recordFailure: (payload) => recordFailure(payload, context),
    },
    worker: [process.execPath, worker],
  });
}

test("an upload's events become a version that a team pulls, whatever comes twice", { skip }, async () => {
  const yard = opener(uri);
  after(() => removeAll(yard));
  await initYard(yard);
  await putText(yard, "pipelines/p.yaml", recipe(0.5).replace("name: small", "name: small\non: { upload: [a] }"));
  await putModel(yard, "incoming/b/1/", { seed: 2 });
  await putModel(yard, "incoming/a/1/", { seed: 1 });

  const executions = fakeExecutions();
  const onUpload = createOnUpload({ MERGEYARD_YARD: uri, MERGEYARD_STATE_MACHINE: STATE_MACHINE }, executions);
  const send = async () => {
    const keys = ["config.json", "model-00001-of-00003.safetensors", "model.safetensors.index.json"];
    const Records = keys.map((name, index) => {
      const detail = { bucket: { name: bucket }, object: { key: `${prefix}/incoming/a/1/${name}` } };
      return { messageId: String(index), body: JSON.stringify({ detail }) };
    });
    assert.deepEqual(await onUpload({ Records }, lambdaContext()), { batchItemFailures: [] });
  };
  await send();
  executions.endAll();
  await send();
  assert.equal(executions.started.size, 1);

  const [input] = executions.started.values();
  assert.ok(input !== undefined);
  const first = await runExecution(input);
  assert.equal(first.status === "done" && first.result.outcome, "published", JSON.stringify(first));
  const second = await runExecution(input);
  assert.equal(second.status === "done" && second.result.outcome, "unchanged", JSON.stringify(second));

  const target = pathToFileURL(path.join(folder, "pulled")).href;
  const deps = testDeps(opener);
  const pulled = await runStep(pullStep, { yard: uri, model: "ab:nightly", target }, deps);
  const verified = await runStep(verifyStep, { folder: target, version: pulled.version }, deps);
  assert.equal(verified.tensors, 4);
});

test("a run that fails on S3 is recorded with its code and its unit", { skip }, async () => {
  const failing = `${uri}-failing`;
  const yard = opener(failing);
  after(() => removeAll(yard));
  await initYard(yard);
  await putText(yard, "pipelines/p.yaml", recipe(0.5));
  await putModel(yard, "incoming/a/1/", { seed: 1, nanAt: 3 });
  await putModel(yard, "incoming/b/1/", { seed: 2 });
  const pipeline = { store: failing, key: "pipelines/p.yaml" };
  const ended = await runExecution({ yard: failing, pipeline, models: {} });
  assert.ok(ended.status === "failed", JSON.stringify(ended));
  const failure = z.looseObject({ error: z.looseObject({ code: z.string() }) }).parse(ended.failure);
  assert.match(failure.error.code, /NonFinite/);
});
