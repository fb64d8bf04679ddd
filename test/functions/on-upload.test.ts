// Events of uploads as EventBridge delivers them: more than once, late, in any order, several to a batch.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createOnUpload } from "../../functions/on-upload.ts";
import { matchesPattern } from "../../steps/on-upload.ts";
import { initYard } from "../../steps/yard.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, putText } from "../steps/deps.ts";
import { recipe } from "../steps/pipeline.ts";
import { putModel } from "../steps/small-model.ts";
import { fakeExecutions, STATE_MACHINE } from "./fake-executions.ts";
import { lambdaContext } from "./lambda-context.ts";

const BUCKET = "yard";
let yards = 0;

/** A yard and the function that watches it; `send` delivers events of keys and gives the messages that failed. */
async function watchedYard(prefix = "") {
  yards += 1;
  const bucket = `${BUCKET}-${yards}`;
  const yard = createMemoryStore(prefix === "" ? bucket : `${bucket}/${prefix}`);
  await initYard(yard);
  const executions = fakeExecutions();
  const environment = { MERGEYARD_YARD: yard.uri, MERGEYARD_STATE_MACHINE: STATE_MACHINE };
  const handler = createOnUpload(environment, executions);
  const sendBodies = async (bodies: readonly string[]): Promise<readonly string[]> => {
    const Records = bodies.map((body, index) => ({ messageId: `m${index}`, body, eventSource: "aws:sqs" }));
    const { batchItemFailures } = await handler({ Records }, lambdaContext());
    return batchItemFailures.map(({ itemIdentifier }) => itemIdentifier);
  };
  const send = (...keys: readonly string[]) => sendBodies(keys.map((key) => eventBody(bucket, key)));
  return { yard, bucket, executions, send, sendBodies };
}

function eventBody(bucket: string, key: string): string {
  const detail = { version: "0", bucket: { name: bucket }, object: { key, size: 1, etag: "e", sequencer: "00" } };
  return JSON.stringify({ version: "0", source: "aws.s3", "detail-type": "Object Created", detail, region: "x" });
}

const wanting = (pattern: string, name = "small") =>
  recipe(0.5).replace("name: small", `name: ${name}\non: { upload: ["${pattern}"] }`);

test("a whole upload starts the pipelines that want its model, and no others", async () => {
  const { yard, executions, send } = await watchedYard();
  await putText(yard, "pipelines/first.yaml", wanting("support-*"));
  await putText(yard, "pipelines/second.v2.yaml", wanting("support-a"));
  await putText(yard, "pipelines/other.yaml", wanting("sales-*"));
  await putText(yard, "pipelines/clock.yaml", recipe(0.5));
  await putText(yard, "pipelines/notes.txt", "not a pipeline");
  await putModel(yard, "incoming/support-a/1/", { seed: 1 });
  assert.deepEqual(await send("incoming/support-a/1/model.safetensors.index.json"), []);
  const pipelines = [...executions.started.values()].map(({ pipeline }) => pipeline);
  assert.deepEqual(pipelines, [
    { store: yard.uri, key: "pipelines/first.yaml" },
    { store: yard.uri, key: "pipelines/second.v2.yaml" },
  ]);
  assert.match([...executions.started.keys()][1] ?? "", /^upload-second-v2-[0-9a-f]{16}$/);
});

test("an upload that is not whole starts nothing, nor does what is no upload", async () => {
  const { yard, bucket, executions, send, sendBodies } = await watchedYard("team");
  await putText(yard, "pipelines/p.yaml", wanting("*"));
  await putText(yard, "incoming/a/1/model-00001-of-00002.safetensors", "a part");
  const keys = ["incoming/a/1/model-00001-of-00002.safetensors", "incoming/a/2/gone.safetensors", "incoming/x.json"];
  const others = ["runs/r/result.json", "incoming/../a/1/x", "artifacts/a/v/manifest.json"];
  assert.deepEqual(await send(...[...keys, ...others].map((key) => `team/${key}`)), []);
  await putText(yard, "incoming/a/1/_COMPLETE", "");
  assert.deepEqual(await send("incoming/a/1/_COMPLETE", "teams/incoming/a/1/_COMPLETE"), []);
  assert.deepEqual(await sendBodies([eventBody(`${bucket}x`, "team/incoming/a/1/_COMPLETE")]), []);
  assert.equal(executions.asked.length, 0);
  await send("team/incoming/a/1/_COMPLETE");
  assert.equal(executions.started.size, 1);
});

test("events that come again, also after the execution ended, start nothing", async () => {
  const { yard, executions, send } = await watchedYard();
  await putText(yard, "pipelines/p.yaml", wanting("a"));
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  const key = "incoming/a/1/config.json";
  assert.deepEqual(await send(key, key, "incoming/a/1/tokenizer.json"), []);
  assert.equal(executions.asked.length, 1, "one batch asks once for one upload");
  await send(key);
  executions.endAll();
  assert.deepEqual(await send(key), []);
  await putText(yard, "incoming/a/1/_COMPLETE", "again");
  await send("incoming/a/1/_COMPLETE");
  assert.equal(executions.started.size, 1);
});

test("another upload of the model, other bytes, and a corrected pipeline are causes of their own", async () => {
  const { yard, executions, send } = await watchedYard();
  await putText(yard, "pipelines/p.yaml", wanting("a"));
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  await send("incoming/a/1/config.json");
  await putText(yard, "pipelines/p.yaml", wanting("a").replace("bfloat16", "float16"));
  await send("incoming/a/1/config.json");
  await putText(yard, "incoming/a/1/config.json", "{}");
  await send("incoming/a/1/config.json");
  await putModel(yard, "incoming/a/2/", { seed: 2 });
  await send("incoming/a/2/config.json");
  assert.equal(executions.started.size, 4);
});

test("a pipeline that cannot be read does not keep the others from starting", async () => {
  const { yard, executions, send } = await watchedYard();
  await putText(yard, "pipelines/broken.yaml", "merge: [");
  await putText(yard, "pipelines/late.yaml", wanting("a").replace("upload:", "schedule: daily, upload:"));
  await putText(yard, "pipelines/p.yaml", wanting("a"));
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  assert.deepEqual(await send("incoming/a/1/config.json"), []);
  assert.deepEqual(
    [...executions.started.values()].map(({ pipeline }) => pipeline.key),
    ["pipelines/p.yaml"],
  );
});

test("a message that failed goes back alone, and sent again it does what was left", async () => {
  const { yard, bucket, executions, sendBodies } = await watchedYard();
  await putText(yard, "pipelines/p.yaml", wanting("*"));
  await putText(yard, "pipelines/q.yaml", wanting("a"));
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  await putModel(yard, "incoming/b/1/", { seed: 2 });
  executions.failing.add("pipelines/q.yaml");
  const bodies = [
    "not json",
    eventBody(bucket, "incoming/a/1/config.json"),
    eventBody(bucket, "incoming/b/1/config.json"),
    eventBody(bucket, "incoming/a/1/tokenizer.json"),
    JSON.stringify({ detail: {} }),
  ];
  assert.deepEqual(await sendBodies(bodies), ["m0", "m1", "m3", "m4"]);
  assert.equal(executions.started.size, 2, "p starts for both uploads");
  executions.failing.clear();
  assert.deepEqual(await sendBodies([bodies[1] ?? "", bodies[3] ?? ""]), []);
  const keys = [...executions.started.values()].map(({ pipeline }) => pipeline.key);
  assert.deepEqual(keys, ["pipelines/p.yaml", "pipelines/p.yaml", "pipelines/q.yaml"]);
});

test("dead letters that are sent back start the one execution that their upload has", async () => {
  const { yard, bucket, executions, sendBodies } = await watchedYard();
  await putText(yard, "pipelines/p.yaml", wanting("*"));
  await putModel(yard, "incoming/a/1/", { seed: 1 });
  const bodies = ["config.json", "tokenizer.json"].map((file) => eventBody(bucket, `incoming/a/1/${file}`));
  executions.failing.add("pipelines/p.yaml");
  // As often as the queue tries, before it gives up.
  for (let attempt = 1; attempt <= 5; attempt += 1) assert.deepEqual(await sendBodies(bodies), ["m0", "m1"]);
  assert.equal(executions.started.size, 0);
  executions.failing.clear();
  for (const body of [...bodies, ...bodies]) assert.deepEqual(await sendBodies([body]), []);
  executions.endAll();
  assert.deepEqual(await sendBodies(bodies), [], "once more, after it ended");
  assert.equal(executions.started.size, 1);
  const [started] = executions.started.values();
  assert.deepEqual(started?.pipeline, { store: yard.uri, key: "pipelines/p.yaml" });
});

/**
 * Goal: files arrive in any order, events of any files at any time, many times; what counts is the upload as it lies.
 */
test("in whatever order files and events come, the whole upload is started, once", async () => {
  const model = newStore();
  await putModel(model, "", { seed: 3 });
  const files: string[] = [];
  for await (const { key } of model.list("")) files.push(key);
  const weights = files.filter((name) => name.includes("safetensors"));
  const arrival = fc.shuffledSubarray(files, { minLength: files.length });
  await fc.assert(
    fc.asyncProperty(arrival, fc.array(fc.nat(), { maxLength: 20 }), async (order, picks) => {
      const { yard, executions, send } = await watchedYard();
      await putText(yard, "pipelines/p.yaml", wanting("a"));
      const there: string[] = [];
      for (const [index, name] of order.entries()) {
        await copy(model, name, yard, `incoming/a/1/${name}`);
        there.push(name);
        for (const pick of picks.filter((value) => value % order.length === index)) {
          await send(`incoming/a/1/${there[pick % there.length]}`);
          const mayStart = weights.every((file) => there.includes(file));
          assert.ok(mayStart || executions.started.size === 0, "nothing starts before the weights are whole");
        }
      }
      const all = order.map((name) => `incoming/a/1/${name}`);
      await send(...all.reverse());
      const before = executions.started.size;
      executions.endAll();
      for (const key of all) await send(key);
      assert.equal(executions.started.size, before);
      assert.ok(before >= 1 && before <= 1 + files.length - weights.length);
    }),
    { numRuns: 30 },
  );
});

async function copy(from: ObjectStore, name: string, to: ObjectStore, key: string): Promise<void> {
  await to.create(key, await readAll(from, name, 1_000_000));
}

test("patterns match as shells match names", () => {
  const cases: readonly [string, string, boolean][] = [
    ["*", "a", true],
    ["support-*", "support-", true],
    ["support-*", "support", false],
    ["*-v?", "chat-v2", true],
    ["*-v?", "chat-v22", false],
    ["a*b*c", "aXbXbXc", true],
    ["a*b*c", "aXbX", false],
    ["a.c", "abc", false],
    ["", "a", false],
    ["**", "a", true],
  ];
  for (const [pattern, name, expected] of cases) {
    assert.equal(matchesPattern(pattern, name), expected, `${pattern} ${name}`);
  }
  const before = process.cpuUsage();
  assert.equal(matchesPattern(`${"*a".repeat(2000)}b`, "a".repeat(128)), false);
  const { user, system } = process.cpuUsage(before);
  assert.ok(user + system < 1e6, `${(user + system) / 1e6} CPU seconds`);
});
