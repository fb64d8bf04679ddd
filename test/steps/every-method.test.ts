// Goal: whatever the method, a merge gives the same tensors for any size of the output's files, any order of its units
// and any number of threads, and a folder that is whole. Method: every registered method on small models, through the
// pipeline's steps with scalar kernels and through the command with threads and WebAssembly.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { main } from "../../cli/main.ts";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import type { MergeMethod } from "../../core/methods/method.ts";
import { findMethod, METHOD_IDS } from "../../core/methods/registry.ts";
import type { TensorFile } from "../../core/plan/receipt.ts";
import { planStep } from "../../steps/plan.ts";
import { runStep } from "../../steps/step.ts";
import { openRun } from "../../steps/units/context.ts";
import { runUnit } from "../../steps/units/run-unit.ts";
import { initYard } from "../../steps/yard.ts";
import { writeBytes } from "../../stores/objects.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createRecorder } from "../cli/recorder.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor, createInThreadMeasurer } from "./in-thread-executor.ts";
import { putModel } from "./small-model.ts";

/** What a recipe must or had better say, beyond the method and its models. */
const PARAMETERS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  adamerging: { coefficient: 0.4 },
  breadcrumbs: { weight: 0.6, density: 0.6, gamma: 0.1 },
  breadcrumbs_ties: { weight: 0.6, density: 0.6, gamma: 0.1 },
  dare_linear: { weight: 0.6, density: 0.5 },
  dare_ties: { weight: 0.6, density: 0.5 },
  della: { weight: 0.6, density: 0.5 },
  della_linear: { weight: 0.6, density: 0.5 },
  knots: { density: 0.3 },
  linear: { weight: 0.5 },
  localize_and_stitch: { density: 0.3 },
  multislerp: { weight: 0.5 },
  nearswap: { t: 0.1 },
  nuslerp: { weight: 0.5 },
  pcb: { pcb_ratio: 0.3 },
  sce: { select_topk: 0.5 },
  slerp: { t: 0.3 },
  task_arithmetic: { weight: 0.5 },
  ties: { weight: 0.6, density: 0.5 },
  ties_paper: { top_k_percent: 30 },
};
const TASK_METHODS = ["emr"];
/** Methods whose base is a choice, with one. */
const WITH_BASE = ["multislerp", "nuslerp"];
const MODELS = ["base", "one", "two"];
/** Square matrices of the inputs' width beside 2-D tensors, and any positive numbers beside the others. */
const STATISTICS: Readonly<Record<string, readonly number[]>> = {
  "model.layers.0.mlp.up_proj.weight": [24, 8],
  "model.layers.1.mlp.up_proj.weight": [24, 8],
};

function methodOf(id: string): MergeMethod {
  const method = findMethod(id);
  assert.ok(method !== undefined);
  return method;
}

function namesOf(id: string): readonly string[] {
  return [...MODELS, ...(methodOf(id).statistics === undefined ? [] : ["statistics"])];
}

function recipeOf(id: string, hasBase: boolean): Record<string, unknown> {
  const { base, inputCount, statistics } = methodOf(id);
  const others = Math.min(2, inputCount.max - (hasBase ? 1 : 0));
  const listed = base === "member" ? ["base", "one"] : MODELS.slice(1, 1 + others);
  const models = listed.map((model, index) => ({
    model,
    ...(statistics === undefined ? {} : { statistics: "statistics" }),
    ...(TASK_METHODS.includes(id) && index === 0 ? { parameters: { task: true } } : {}),
  }));
  const parameters = PARAMETERS[id] ?? {};
  return { merge_method: id, ...(hasBase ? { base_model: "base" } : {}), models, parameters, out_dtype: "bfloat16" };
}

/** Statistics as numbers that are positive and symmetric, with a heavy diagonal. */
async function putStatistics(store: ObjectStore, method: MergeMethod): Promise<void> {
  const specs = Object.entries(STATISTICS).flatMap(([name, shape]) => {
    const own = method.statistics?.shapeOf(shape);
    return own === undefined ? [] : [{ name, dtype: "F32" as const, shape: [...own] }];
  });
  const file = encodeSafetensorsFile(specs, ({ shape, bytes }) => {
    const columns = shape.at(-1) ?? 1;
    return Float32Array.from({ length: bytes / 4 }, (_, i) =>
      Math.floor(i / columns) === i % columns ? 2 + (i % columns) / 8 : 0.1,
    );
  });
  await writeBytes(store, "incoming/statistics/1/model.safetensors", file);
}

async function makeYard(id: string, yard: ObjectStore): Promise<ObjectStore> {
  await initYard(yard);
  for (const [seed, name] of MODELS.entries()) {
    await putModel(yard, `incoming/${name}/1/`, { seed });
    await putText(yard, `incoming/${name}/1/generation_config.json`, `{"max_length": 20}`);
  }
  if (methodOf(id).statistics !== undefined) await putStatistics(yard, methodOf(id));
  return yard;
}

/** Digests of the merge's tensors by name; `reversed`: units in the other order, as other workers might take them. */
async function throughYard(
  id: string,
  hasBase: boolean,
  shardBytes: number,
  reversed: boolean,
): Promise<readonly string[]> {
  const yard = await makeYard(id, newStore());
  const models = Object.fromEntries(namesOf(id).map((name) => [name, `incoming/${name}`]));
  const pipeline = { name: "small", models, merge: recipeOf(id, hasBase) };
  await putText(yard, "pipelines/small.yaml", JSON.stringify(pipeline));
  const opener = openerOf(yard);
  const deps = testDeps(opener, {
    executeMerge: createInThreadExecutor(opener),
    executeMeasure: createInThreadMeasurer(opener),
  });
  const place = { store: yard.uri, key: "pipelines/small.yaml" };
  const planned = await runStep(planStep, { yard: yard.uri, pipeline: place, shardBytes }, deps);
  const files: TensorFile[] = [];
  for (const { index: stage, units, kind } of planned.stages) {
    const order = Array.from({ length: units }, (_, index) => (reversed ? units - 1 - index : index));
    for (const index of order) {
      // Every unit in a process of its own.
      const context = await openRun({ yard: yard.uri, run: planned.run }, deps);
      const { file } = (await runUnit(context, stage, index)).receipt;
      if (kind === "apply" && file !== null) files.push(file);
    }
  }
  return files.flatMap(({ tensors }) => tensors.map(({ name, digest }) => `${name} ${digest}`)).sort();
}

const scratch = await mkdtemp(path.join(tmpdir(), "every-method-"));
after(() => rm(scratch, { recursive: true }));

async function throughCommand(id: string, hasBase: boolean, threads: number) {
  const folder = folderOf(id, hasBase);
  const out = path.join(folder, `merged-${threads}`);
  const recipe = path.join(folder, "recipe.yaml");
  await writeFile(recipe, JSON.stringify(recipeOf(id, hasBase)));
  const terminal = createRecorder({ cwd: folder });
  const named = namesOf(id).flatMap((name) => ["--model", `${name}=incoming/${name}/1`]);
  const command = ["merge", recipe, "--out", out, "--threads", `${threads}`, ...named];
  assert.equal(await main(command, terminal), 0, terminal.err());
  const manifest = parseManifest(await readFile(path.join(out, "manifest.json")));
  const tensors = manifest?.files.flatMap((file) => ("tensors" in file ? file.tensors : [])) ?? [];
  return { out, manifest, tensors: tensors.map(({ name, digest }) => `${name} ${digest}`).sort() };
}

function folderOf(id: string, hasBase: boolean): string {
  return path.join(scratch, `${id}-${hasBase}`);
}

async function sameEverywhere(id: string, hasBase: boolean): Promise<void> {
  const expected = await throughYard(id, hasBase, 1e9, false);
  assert.equal(expected.length, 4);
  assert.deepEqual(await throughYard(id, hasBase, 100, true), expected, "a file for each tensor, in the other order");
  await makeYard(id, openStore(pathToFileURL(folderOf(id, hasBase)).href, {}));
  const one = await throughCommand(id, hasBase, 1);
  assert.deepEqual(one.tensors, expected, "one thread of WebAssembly");
  assert.deepEqual((await throughCommand(id, hasBase, 3)).tensors, expected, "three threads");
  const files = one.manifest?.files.map(({ name }) => name);
  const whole = ["config.json", "generation_config.json", "model.safetensors", "README.md", "tokenizer.json"];
  for (const name of whole) assert.ok(files?.includes(name), `${name} among ${files}`);
  const card = await readFile(path.join(one.out, "README.md"), "utf8");
  const config = JSON.parse(await readFile(path.join(one.out, "config.json"), "utf8"));
  assert.ok(card.includes(`\`${id}\``) && card.includes(methodOf(id).source), card);
  assert.ok(card.includes(`"merge_method":"${id}"`), "the recipe is in the card");
  assert.deepEqual([config.torch_dtype, config.num_hidden_layers], ["bfloat16", 2]);
}

describe("the same tensors wherever it runs, in a whole folder", () => {
  for (const id of METHOD_IDS) {
    const { base } = methodOf(id);
    test(id, () => sameEverywhere(id, base === "required" || base === "member"));
  }
  for (const id of WITH_BASE) test(`${id} with a base`, () => sameEverywhere(id, true));
});
