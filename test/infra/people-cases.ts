// What people do in a deployed yard, each under the policy that they are given: an operator, and another account's team
// through its access point.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { gcStep } from "../../steps/collect-garbage.ts";
import { promote, rollback } from "../../steps/decide-channel.ts";
import { preparePlan } from "../../steps/plan.ts";
import { publishFolderStep } from "../../steps/publish-folder.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import { pushStep } from "../../steps/push/push.ts";
import { runStep } from "../../steps/step.ts";
import { findVersion, initYard, listModels, parseVersionReference } from "../../steps/yard.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "../steps/deps.ts";
import { createInThreadExecutor } from "../steps/in-thread-executor.ts";
import { makeYard, recipe, runPipeline } from "../steps/pipeline.ts";
import { putModel } from "../steps/small-model.ts";
import { putTorch } from "../steps/torch-upload.ts";
import { patterned } from "../stores/patterned.ts";
import { full, standard } from "./deployments.ts";
import { allows, type Named, objectArn, statementsIn, underRole } from "./policies.ts";

const MIB = 2 ** 20;
const policyOf = (name: string) =>
  statementsIn(standard.one("AWS::IAM::ManagedPolicy", name).properties.PolicyDocument);
const operator = policyOf("Operator");
const team = statementsIn(full.ofType("AWS::S3::AccessPoint")[0]?.properties.Policy);
const POINT = "arn:aws:s3:eu-west-1:111122223333:accesspoint/mergeyard-test-support";
const byPoint: Named = { bucket: POINT, object: (key) => `${POINT}/object/${key}` };

/** A push that is cut off when all parts of its large file are sent, and the same again. */
async function pushTwice(yard: ObjectStore, model: string): Promise<void> {
  const folder = newStore();
  await putModel(folder, "", { seed: 1 });
  await writeBytes(folder, "optimizer.pt", patterned(17 * MIB + 5));
  const input = { yard: yard.uri, source: folder.uri, model };
  const cut: ObjectStore = {
    ...yard,
    finishWrite: async (ticket, receipts, o) => {
      if (ticket.key.endsWith("optimizer.pt")) throw new Error("cut off");
      return yard.finishWrite(ticket, receipts, o);
    },
  };
  await assert.rejects(runStep(pushStep, input, testDeps(openerOf(cut, folder))), { message: "cut off" });
  const pushed = await runStep(pushStep, input, testDeps(openerOf(yard, folder)));
  assert.deepEqual([pushed.outcome, pushed.sentBytes < 17 * MIB], ["committed", true]);
  assert.equal((await runStep(pushStep, input, testDeps(openerOf(yard, folder)))).outcome, "present");
}

/** A yard with two versions of a model. */
async function twoVersions(model: string) {
  const yard = newStore();
  await makeYard(yard);
  const openStore = openerOf(yard);
  const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) });
  const versions: string[] = [];
  for (const weight of [0.5, 0.25]) {
    await putText(yard, "pipelines/small.yaml", recipe(weight, `publish: { model: ${model}, channel: nightly }`));
    versions.push((await runPipeline(yard, deps)).result?.version ?? "");
  }
  const [first = "", second = ""] = versions;
  return { yard, first, second };
}

test("an operator makes a yard, pushes, moves channels and cleans up under the operator's policy", async () => {
  const empty = underRole(newStore(), operator);
  await initYard(empty);
  await pushTwice(empty, "chat");

  const { yard, first, second } = await twoVersions("ab");
  const own = underRole(yard, operator);
  const deps = testDeps(openerOf(own));
  assert.equal((await rollback(own, { model: "ab", channel: "nightly" }, undefined, deps)).before, second);
  assert.equal((await promote(own, `ab@${second}`, "nightly", deps)).before, first);
  assert.equal((await listModels(own)).find(({ model }) => model === "ab")?.versions.length, 2);

  // Promoted by somebody else while it is being removed: it gets its manifest back.
  const manifest = layout.versionManifest("ab", first);
  let wasGone = false;
  const raced: ObjectStore = {
    ...own,
    delete: async (key, o) => {
      await own.delete(key, o);
      if (key !== manifest) return;
      wasGone = true;
      const next = { channel: 1, version: first, run: null, decidedMs: 1, history: [] };
      await putText(yard, layout.channel("ab", "raced"), JSON.stringify(next));
    },
  };
  const later = () => Date.now() + 1e12;
  const gc = await runStep(
    gcStep,
    { yard: own.uri, keep: 1, graceMs: 1, isTrial: false },
    { ...testDeps(openerOf(raced)), now: later },
  );
  assert.deepEqual([gc.removed, wasGone], [[], true]);
  assert.notEqual(await yard.head(manifest), undefined);
});

test("an operator removes old inputs under the operator's policy, and gives up what is needed by now", async () => {
  const { yard } = await twoVersions("ab");
  await putModel(yard, "incoming/a/2/", { seed: 12 });
  const openStore = openerOf(yard);
  await runPipeline(yard, testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) }));
  await runStep(
    gcStep,
    { yard: yard.uri, keep: 1, graceMs: 1 },
    { ...testDeps(openStore), now: () => Date.now() + 1e12 },
  );
  const own = underRole(yard, operator);
  const gc = async () => {
    const deps = { ...testDeps(openerOf(own)), now: () => Date.now() + 1e12 };
    const input = { yard: own.uri, keepUploads: 1, keepCheckpoints: 1, graceMs: 1 };
    return (await runStep(gcStep, input, deps)).removed.map(({ kind }) => kind);
  };
  const pinned = recipe(0.5).replace("incoming/a", "incoming/a/1");
  const { create } = own;
  own.create = async (key, bytes, o) => {
    if (key.endsWith("/_REMOVED")) await putText(yard, "pipelines/pinned.yaml", pinned);
    return create(key, bytes, o);
  };
  assert.deepEqual(await gc(), ["checkpoint"]);
  await yard.delete("pipelines/pinned.yaml");
  own.create = create;
  assert.deepEqual(await gc(), ["upload"]);
});

test("a runner plans pipelines from uploads, before they are adopted and after, and writes nothing", async () => {
  const runner = policyOf("Runner");
  const yard = newStore();
  await makeYard(yard);
  await putTorch(yard, "incoming/b/1/", "incoming/torch/1/");
  await putText(yard, "pipelines/torch.yaml", recipe(0.5).replace("incoming/b", "incoming/torch"));
  const openStore = openerOf(yard);
  const own = underRole(yard, runner);
  const before = await Array.fromAsync(yard.list(""), ({ key }) => key);
  const preview = async (key: string) => {
    const input = { yard: own.uri, pipeline: { store: own.uri, key }, models: {} };
    return (await preparePlan(input, own, testDeps(openerOf(own)))).header.sources.map(({ state }) => state);
  };
  for (const key of ["pipelines/small.yaml", "pipelines/torch.yaml"]) {
    assert.deepEqual(await preview(key), ["pending", "pending"]);
  }
  assert.deepEqual(await Array.fromAsync(yard.list(""), ({ key }) => key), before);
  await runPipeline(yard, testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) }));
  assert.deepEqual(await preview("pipelines/small.yaml"), ["adopted", "adopted"]);
  for (const prefix of ["incoming/", "checkpoints/", "cache/", "artifacts/", "runs/", "channels/", "pipelines/"]) {
    for (const action of ["s3:PutObject", "s3:DeleteObject"]) {
      assert.ok(!allows(runner, action, objectArn(`${prefix}m/1`)), `${action} in ${prefix}`);
    }
  }
});

test("a publisher publishes a folder under the publisher's policy, and does nothing else", async () => {
  const { yard, first, second } = await twoVersions("ab");
  const publisher = policyOf("Publisher");
  const [elsewhere, folder] = [newStore(), newStore()];
  await initYard(elsewhere);
  const pull = { yard: yard.uri, model: `ab@${first}`, target: folder.uri };
  await runStep(pullStep, pull, testDeps(openerOf(yard, folder)));
  const own = underRole(elsewhere, publisher);
  const publish = (store: ObjectStore) => {
    const input = { source: folder.uri, yard: store.uri, model: "ab", channel: "nightly" };
    return runStep(publishFolderStep, input, testDeps(openerOf(store, folder)));
  };
  assert.deepEqual([(await publish(own)).outcome, (await publish(own)).outcome], ["published", "present"]);
  // Beside versions of runs the channel is moved, and stays where it was in history.
  const moved = await publish(underRole(yard, publisher));
  assert.deepEqual([moved.version, moved.before], [first, second]);
  for (const [name, key] of [
    ["upload", "incoming/m/1/model.safetensors"],
    ["checkpoint", "checkpoints/m/0123456789abcdef/universal.json"],
    ["pipeline", layout.pipeline("p")],
    ["cache", layout.cache("sha256:00")],
    ["result", layout.result("r")],
  ] as const) {
    for (const action of ["s3:PutObject", "s3:GetObject"]) assert.ok(!allows(publisher, action, objectArn(key)), name);
  }
  assert.ok(
    !allows(publisher, "s3:DeleteObject", objectArn(layout.version("ab", first))),
    "a publisher removes nothing",
  );
});

test("another account's team pushes and pulls through its access point", async () => {
  const { yard, first, second } = await twoVersions("support-bot");
  const own = underRole(yard, team, byPoint);
  await pushTwice(own, "support-july");
  const target = newStore();
  const pull = (model: string) =>
    runStep(pullStep, { yard: own.uri, model, target: target.uri }, testDeps(openerOf(own, target)));
  assert.equal((await pull(`support-bot@${first}`)).version, first);
  assert.equal((await pull("support-bot:nightly")).version, second);
  const find = (text: string) => findVersion(own, parseVersionReference(text));
  assert.equal((await find(`support-bot@${first.slice(0, 6)}`)).version, first);
  for (const text of ["ab", "support-bot:nightly-of-none"]) await assert.rejects(find(text));
});

test("a runner may send every request that following and cancelling a run sends", () => {
  const runner = policyOf("Runner");
  const account = "eu-west-1:111122223333";
  const execution = `arn:aws:states:${account}:execution:mergeyard-test:run-p-0123`;
  const places = new Map([
    ["states:StartExecution", `arn:aws:states:${account}:stateMachine:mergeyard-test`],
    ["states:ListExecutions", `arn:aws:states:${account}:stateMachine:mergeyard-test`],
    ["batch:DescribeJobs", "*"],
    ["batch:TerminateJob", `arn:aws:batch:${account}:job/0123`],
  ]);
  const folder = new URL("../../remote/", import.meta.url);
  const sources = readdirSync(folder).map((name) => readFileSync(new URL(name, folder), "utf8"));
  const sent = new Set(
    sources.flatMap((text) => [...text.matchAll(/ask\("([\w:]+)"/g)].map(([, action = ""]) => action)),
  );
  assert.equal(sent.size, 7);
  for (const action of sent) assert.ok(allows(runner, action, places.get(action) ?? execution), action);
});
