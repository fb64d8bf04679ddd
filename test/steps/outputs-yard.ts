// A yard with two small models and runs of a pipeline that merges them: what tests of several outputs begin with.
import assert from "node:assert/strict";
import { layout } from "../../core/artifact/layout.ts";
import { type Manifest, parseManifest } from "../../core/artifact/manifest.ts";
import { receiptSchema } from "../../core/plan/receipt.ts";
import { checkStep } from "../../steps/check.ts";
import { planStep } from "../../steps/plan.ts";
import { publishStep } from "../../steps/publish.ts";
import type { PlanOutput } from "../../steps/schemas.ts";
import { runStep, type UnitDeps } from "../../steps/step.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newYard, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { runUnits } from "./pipeline.ts";
import { type Change, putLlama } from "./small-llama.ts";

const TOKENIZER = {
  added_tokens: [{ id: 0, content: "<s>", special: true }],
  pre_tokenizer: { type: "ByteLevel", use_regex: true },
  model: { type: "BPE", vocab: { a: 1, b: 2, ab: 3 }, merges: ["a b"] },
};

/** A pipeline that merges two small models. */
export const recipe = (outputs: string, more = "") => `name: small
models: { one: incoming/a, two: incoming/b }
merge:
  merge_method: linear
  models:
    - { model: one, parameters: { weight: 0.25 } }
    - { model: two, parameters: { weight: 0.75 } }
  dtype: bfloat16
  ${more}
outputs: ${outputs}
publish: { model: ab, channel: nightly }
`;

/** A yard with both models; `merged` gets the file of every unit that is computed. */
export async function makeYard(change: Change = {}): Promise<{ yard: ObjectStore; merged: string[]; deps: UnitDeps }> {
  const yard = await newYard();
  for (const [model, norm] of [
    ["a", 0.5],
    ["b", 0.25],
  ] as const) {
    await putLlama(yard, { first: { "model.norm.weight": norm }, ...change }, `incoming/${model}/1/`);
    await putText(yard, `incoming/${model}/1/tokenizer.json`, JSON.stringify(TOKENIZER));
  }
  const merged: string[] = [];
  const openStore = openerOf(yard);
  const executeMerge = createInThreadExecutor(openStore, ({ unit }) => void merged.push(unit.file));
  return { yard, merged, deps: testDeps(openStore, { executeMerge }) };
}

/** A run that was published. */
export type End = { readonly planned: PlanOutput; readonly prefix: string; readonly manifest: Manifest };

/** All steps of a run. */
export async function run(yard: ObjectStore, deps: UnitDeps, text: string, shardBytes = 400_000): Promise<End> {
  await putText(yard, "pipelines/small.yaml", text);
  const pipeline = { store: yard.uri, key: "pipelines/small.yaml" };
  const planned = await runStep(planStep, { yard: yard.uri, pipeline, shardBytes }, deps);
  await runUnits(planned, deps);
  const ref = { yard: planned.yard, run: planned.run };
  await runStep(checkStep, ref, deps);
  const result = await runStep(publishStep, { ...ref, plannedMs: planned.plannedMs }, deps);
  const prefix = layout.version("ab", result.version ?? "");
  const manifest = parseManifest(await readAll(yard, `${prefix}manifest.json`, 1e7));
  assert.ok(manifest !== undefined);
  return { planned, prefix, manifest };
}

/** Bytes that the units of the merge read. */
export async function bytesRead(yard: ObjectStore, { planned }: End): Promise<number> {
  const { index = 0, units = 0 } = planned.stages.at(-1) ?? {};
  let sum = 0;
  for (let unit = 0; unit < units; unit++) {
    const bytes = await readAll(yard, layout.receipt(planned.run, index, unit), 1e7);
    sum += receiptSchema.parse(JSON.parse(new TextDecoder().decode(bytes))).bytesRead;
  }
  return sum;
}

export const filesOf = ({ manifest }: End, ending: string) =>
  manifest.files.map(({ name }) => name).filter((name) => name.endsWith(ending));
