// Goal: what methods must know of whole models is measured by many units and gives what one process gives; it is found
// again in the cache, survives kills, and is checked when it is read. Method: a pipeline of ties_paper on small models.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { pathToFileURL } from "node:url";
import { main } from "../../cli/main.ts";
import { layout } from "../../core/artifact/layout.ts";
import { parseManifest } from "../../core/artifact/manifest.ts";
import type { TensorFile } from "../../core/plan/receipt.ts";
import { planStep } from "../../steps/plan.ts";
import type { PlanOutput } from "../../steps/schemas.ts";
import { runStep } from "../../steps/step.ts";
import { openRun } from "../../steps/units/context.ts";
import { runUnit } from "../../steps/units/run-unit.ts";
import { initYard } from "../../steps/yard.ts";
import { readAll } from "../../stores/objects.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createRecorder } from "../cli/recorder.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { Crash, createDyingStore } from "./failing-stores.ts";
import { createInThreadExecutor, createInThreadMeasurer } from "./in-thread-executor.ts";
import { finishPipeline, plan, runPipeline, runUnits } from "./pipeline.ts";
import { putModel } from "./small-model.ts";

const recipe = (lambda: number) => `name: small
models: { zero: incoming/base, one: incoming/a, two: incoming/b, f1: incoming/f1, f2: incoming/f2 }
merge:
  merge_method: ties_paper
  base_model: zero
  models: [{ model: one }, { model: two }]
  parameters: { top_k_percent: 30, elect: normmass, merge: dis-mean, lambda: ${lambda} }
publish: { model: ab, channel: nightly }
`;

async function makeYard(yard = newStore()): Promise<ObjectStore> {
  await initYard(yard);
  for (const [index, name] of ["base", "a", "b"].entries()) {
    await putModel(yard, `incoming/${name}/1/`, { seed: index });
  }
  for (const [index, name] of ["f1", "f2"].entries()) {
    await putModel(yard, `incoming/${name}/1/`, { seed: index, positive: true });
  }
  await putText(yard, "pipelines/small.yaml", recipe(1));
  return yard;
}

/** Plans the pipeline for output files of that size. */
function planWith(yard: ObjectStore, shardBytes: number): Promise<PlanOutput> {
  const pipeline = { store: yard.uri, key: "pipelines/small.yaml" };
  return runStep(planStep, { yard: yard.uri, pipeline, shardBytes }, depsOn(yard));
}

/** Dependencies on one store, with what was computed: `merge 0`, or `measure <round> <unit>`. */
function depsOn(store: ObjectStore, done: string[] = []) {
  const openStore = openerOf(store);
  return testDeps(openStore, {
    executeMerge: createInThreadExecutor(openStore, ({ unit }) => void done.push(`merge ${unit.index}`)),
    executeMeasure: createInThreadMeasurer(
      openStore,
      ({ unit, round }) => void done.push(`measure ${round} ${unit.index}`),
    ),
  });
}

/** Digests of the published version's tensors, by name. */
async function publishedTensors(yard: ObjectStore, version: string): Promise<ReadonlyMap<string, string>> {
  return tensorsIn(await readAll(yard, layout.versionManifest("ab", version), 1e6));
}

function tensorsIn(manifestBytes: Uint8Array): ReadonlyMap<string, string> {
  const manifest = parseManifest(manifestBytes);
  return new Map(
    manifest?.files.flatMap((file) => ("tensors" in file ? file.tensors.map((own) => [own.name, own.digest]) : [])),
  );
}

test("every round is a stage of units that the merge waits for, and measures what the merge merges", async () => {
  const yard = await makeYard();
  const done: string[] = [];
  const { plan: planned } = await runPipeline(yard, depsOn(yard, done));
  assert.deepEqual(
    planned.stages.map(({ index, name, kind, units }) => [index, name, kind, units]),
    [
      [0, "adopt", "shard", 9],
      [1, "describe", "shard", 3],
      [2, "prepare-1-of-4", "prepare", 4],
      [3, "prepare-2-of-4", "prepare", 4],
      [4, "prepare-3-of-4", "prepare", 4],
      [5, "prepare-4-of-4", "prepare", 4],
      [6, "merge", "apply", 4],
    ],
  );
  const expected = ["measure 0", "measure 1", "measure 2", "measure 3", "merge"];
  assert.deepEqual(
    done,
    expected.flatMap((work) => [0, 1, 2, 3].map((unit) => `${work} ${unit}`)),
  );
});

const COMPETING = recipe(1)
  .replace("ties_paper", "pcb")
  .replace(/parameters: .*/, "parameters: { pcb_ratio: 0.2 }");

const WEIGHED = recipe(1)
  .replace("ties_paper", "fisher")
  .replace(/ {2}base_model: .*\n/, "")
  .replace("{ model: one }, { model: two }", "{ model: one, statistics: f1 }, { model: two, statistics: f2 }")
  .replace(/ {2}parameters: .*\n/, "");

const RECIPES = { ties_paper: recipe(1), pcb: COMPETING, fisher: WEIGHED };

for (const [method, text] of Object.entries(RECIPES)) {
  test(`tensors have the same bytes for any size of the output's files: ${method}`, () => sameForAnySize(text));
}

async function sameForAnySize(text: string): Promise<void> {
  const results = [];
  for (const shardBytes of [100, 1000, 1e9]) {
    const yard = await makeYard();
    await putText(yard, "pipelines/small.yaml", text);
    const planned = await planWith(yard, shardBytes);
    const files = await runStages(yard, planned, ["shard", "prepare", "apply"]);
    results.push(files.flatMap(({ tensors }) => tensors.map(({ name, digest }) => `${name} ${digest}`)).sort());
  }
  for (const result of results) assert.deepEqual(result, results[0]);
}

for (const [method, text] of Object.entries(RECIPES)) {
  test(`a yard in a folder publishes what mergeyard merge makes: ${method}`, (t) => sameInFolder(t, text));
}

/** Files of a folder are read into parts of larger memory: what is decoded from them must come from its own place. */
async function sameInFolder(t: TestContext, text: string): Promise<void> {
  const scratch = await mkdtemp(path.join(tmpdir(), "prepare-"));
  t.after(() => rm(scratch, { recursive: true }));
  const yardOf = (name: string) => makeYard(openStore(pathToFileURL(path.join(scratch, name)).href, {}));
  await yardOf("alone");
  const cwd = path.join(scratch, "alone");
  await writeFile(path.join(cwd, "small.yaml"), text.replace(/incoming\/(\w+)/g, "incoming/$1/1"));
  const terminal = createRecorder({ cwd });
  const command = ["merge", "small.yaml", "--out", "merged", "--report", "report.html"];
  assert.equal(await main(command, terminal), 0, terminal.err());
  const statistics = JSON.parse(await readFile(path.join(cwd, "merged/statistics.json"), "utf8"));
  assert.deepEqual([statistics.models.length, statistics.tensors.length], [2, 4]);
  const expected = tensorsIn(await readFile(path.join(cwd, "merged/manifest.json")));
  assert.equal(expected.size, 4);
  for (const shardBytes of [100, 1000, 1e9]) {
    const yard = await yardOf(`yard-${shardBytes}`);
    await putText(yard, "pipelines/small.yaml", text);
    const { result } = await finishPipeline(await planWith(yard, shardBytes), depsOn(yard));
    const published = await publishedTensors(yard, result?.version ?? "");
    assert.deepEqual([...published].sort(), [...expected].sort(), `files of ${shardBytes} bytes`);
  }
}

test("only what changed is measured again: nothing for another lambda, one unit for another tensor", async () => {
  const yard = await makeYard();
  const first = await runPipeline(yard, depsOn(yard));
  await putText(yard, "pipelines/small.yaml", recipe(0.5));
  const lambda: string[] = [];
  const second = await runPipeline(yard, depsOn(yard, lambda));
  assert.deepEqual(lambda, ["merge 0", "merge 1", "merge 2", "merge 3"]);
  assert.notEqual(second.result?.version, first.result?.version);

  await putModel(yard, "incoming/b/2/", { seed: 2, changedTensor: 3 });
  const changed: string[] = [];
  const third = await runPipeline(yard, depsOn(yard, changed));
  const measured = changed.filter((work) => work.startsWith("measure 0"));
  assert.equal(measured.length, 1, changed.join(", "));
  const fresh = await makeYard();
  await putText(fresh, "pipelines/small.yaml", recipe(0.5));
  await putModel(fresh, "incoming/b/2/", { seed: 2, changedTensor: 3 });
  const alone = await runPipeline(fresh, depsOn(fresh));
  const tensorsOf = (store: ObjectStore, version?: string | null) => publishedTensors(store, version ?? "");
  assert.deepEqual(await tensorsOf(yard, third.result?.version), await tensorsOf(fresh, alone.result?.version));
});

test("a run killed at any write of its prepare stages goes on to the same version", async () => {
  const whole = await makeYard();
  await putText(whole, "pipelines/small.yaml", recipe(1).replace("normmass", "mass"));
  const adopting = await planWith(whole, 1300);
  await runStages(whole, adopting, ["shard"]);
  const adopted = await copyOf(whole);
  const expected = await runStages(whole, adopting, ["prepare", "apply"]);
  let crashes = 0;
  for (let at = 1; ; at += 1) {
    const yard = await copyOf(adopted);
    const dying = createDyingStore(yard, at, at % 2 === 0 ? "after" : "before");
    const end = await runStages(dying.store, adopting, ["prepare"]).catch((error: unknown) => error);
    if (!dying.isDead()) break;
    assert.ok(end instanceof Crash, `write ${at}: ${String(end)}`);
    const finished = await receiptsOf(yard);
    const again: string[] = [];
    assert.deepEqual(await runStages(yard, adopting, ["prepare", "apply"], again), expected, `write ${at}`);
    const repeated = again.filter((work) => finished.has(work));
    assert.deepEqual(repeated, [], `write ${at}: finished units ran again`);
    crashes += 1;
  }
  assert.ok(crashes >= 24, `${crashes} crashes`);
});

/** Everything in a store, in one of its own. */
async function copyOf(yard: ObjectStore): Promise<ObjectStore> {
  const copy = newStore();
  for await (const { key } of yard.list("")) await copy.create(key, await readAll(yard, key, 1e7));
  return copy;
}

/** Runs the stages of these kinds as one worker; the files of the merge. */
async function runStages(store: ObjectStore, planned: PlanOutput, kinds: readonly string[], done: string[] = []) {
  const context = await openRun({ yard: store.uri, run: planned.run }, depsOn(store, done));
  const files: TensorFile[] = [];
  for (const { index: stage, kind, units } of planned.stages) {
    if (!kinds.includes(kind)) continue;
    for (let index = 0; index < units; index++) {
      const { file } = (await runUnit(context, stage, index)).receipt;
      if (kind === "apply" && file !== null) files.push(file);
    }
  }
  return files;
}

/** Measured units that have a receipt, spelt as depsOn does. */
async function receiptsOf(yard: ObjectStore): Promise<ReadonlySet<string>> {
  const done = new Set<string>();
  for await (const { key } of yard.list("runs/")) {
    if (!key.includes("/receipts/")) continue;
    const { op, stage, index } = JSON.parse(Buffer.from(await readAll(yard, key, 1e6)).toString());
    if (op === "prepare") done.add(`measure ${stage - 2} ${index}`);
  }
  return done;
}

test("totals that were damaged or that a run has lost are not decided from", async () => {
  const yard = await makeYard();
  const deps = depsOn(yard);
  const planned = await plan(yard, deps);
  const before = { ...planned, stages: planned.stages.filter(({ kind }) => kind !== "apply") };
  await runUnits(before, deps);
  const key = `${layout.stageOutput(planned.run, 3)}1.safetensors`;
  const bytes = await readAll(yard, key, 1e7);
  const damaged = bytes.slice();
  damaged[damaged.length - 1] = (damaged.at(-1) ?? 0) ^ 1;
  await yard.delete(key);
  await yard.create(key, damaged);
  await assert.rejects(runUnits(planned, deps), refusal({ code: "YardFileCorrupt", file: key }));
  await yard.delete(key);
  const again: string[] = [];
  await runUnits(planned, depsOn(yard, again));
  assert.deepEqual(again[0], "measure 1 1");
});
