// Quantizing into a GPTQ folder with the Hessians of the layers' inputs: the layers' outputs lose less than by rounding
// to the nearest, and a matrix without its Hessian is refused by name before anything is written.
import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { planStep } from "../../steps/plan.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { runStep } from "../../steps/step.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { gaussians } from "../core/schemes/gaussians.ts";
import { refusal } from "../refusal.ts";
import { newStore, newYard, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { recipe, run } from "./outputs-yard.ts";
import { runUnits } from "./pipeline.ts";

const [ROWS, COLUMNS] = [64, 128];
const MATRICES = ["q_proj", "k_proj"].map((name) => `model.layers.0.self_attn.${name}.weight`);

async function putTensors(store: ObjectStore, key: string, tensors: ReadonlyMap<string, Float32Array>): Promise<void> {
  const specs = [...tensors].map(([name, { length }]) => {
    return { name, dtype: "F32" as const, shape: [length / COLUMNS, COLUMNS] };
  });
  await writeBytes(
    store,
    key,
    encodeSafetensorsFile(specs, ({ name }) => tensors.get(name)),
  );
}

/** Sum of x x^T over inputs that have much in common, as those of a layer have. */
function hessianOf(seed: number): Float32Array {
  const sums = new Float32Array(COLUMNS * COLUMNS);
  const [common, own] = [gaussians(4 * COLUMNS, seed), gaussians(300 * (COLUMNS + 4), seed + 1)];
  for (let sample = 0; sample < 300; sample++) {
    const at = sample * (COLUMNS + 4);
    const x = Float32Array.from({ length: COLUMNS }, (_, column) => {
      let value = 0.3 * (own[at + 4 + column] ?? 0);
      for (let part = 0; part < 4; part++) value += (own[at + part] ?? 0) * (common[part * COLUMNS + column] ?? 0);
      return value;
    });
    for (const [i, a] of x.entries()) {
      for (const [j, b] of x.entries()) sums[i * COLUMNS + j] = (sums[i * COLUMNS + j] ?? 0) + a * b;
    }
  }
  return sums;
}

const WEIGHTS = new Map(MATRICES.map((name, seed) => [name, gaussians(ROWS * COLUMNS, seed)]));
const HESSIANS = new Map(MATRICES.map((name, seed) => [name, hessianOf(10 + seed)]));

async function quantize(hessians: ReadonlyMap<string, Float32Array> | undefined, threads = 1) {
  const [source, target, back] = [newStore(), newStore(), newStore()];
  await putTensors(source, "model.safetensors", WEIGHTS);
  await putText(source, "config.json", JSON.stringify({ model_type: "llama", vocab_size: 6 }));
  if (hessians !== undefined) await putTensors(source, "calibration/h.safetensors", hessians);
  const hessian = hessians && { hessian: { store: source.uri, key: "calibration/h.safetensors" } };
  const openStore = openerOf(source, target, back);
  const deps = { ...testDeps(openStore), ...createInThreadExecutor(openStore), threads };
  const input = { source: source.uri, target: target.uri, scheme: "gptq3_group128", ...hessian };
  const result = await runStep(quantizeFolderStep, input, deps);
  await runStep(convertStep, { source: target.uri, target: back.uri, to: "safetensors" }, deps);
  const { checkpoint } = await openCheckpoint(back, "");
  const values = new Map<string, Float32Array>();
  for (const { name, ranges } of checkpoint.tensors) {
    const [range] = ranges;
    assert.ok(range !== undefined);
    const bytes = new Uint8Array(range.bytes);
    await back.readInto(range.file, range.offset, bytes);
    values.set(name, new Float32Array(bytes.buffer));
  }
  return { result, values };
}

/** What the outputs of a matrix lose: sum of e H e^T over the rows of e. */
function outputLoss(name: string, back: Float32Array | undefined): number {
  const [weights, hessian] = [WEIGHTS.get(name), HESSIANS.get(name)];
  assert.ok(weights !== undefined && hessian !== undefined && back?.length === weights.length);
  let loss = 0;
  for (let row = 0; row < ROWS; row++) {
    const e = weights.subarray(row * COLUMNS, (row + 1) * COLUMNS).map((w, i) => w - (back[row * COLUMNS + i] ?? 0));
    e.forEach((a, i) => {
      e.forEach((b, j) => {
        loss += a * b * (hessian[i * COLUMNS + j] ?? 0);
      });
    });
  }
  return loss;
}

test("with Hessians the outputs of every matrix lose less than by rounding to the nearest", async () => {
  const [plain, solved] = [await quantize(undefined), await quantize(HESSIANS)];
  for (const name of MATRICES) {
    const [nearest, own] = [outputLoss(name, plain.values.get(name)), outputLoss(name, solved.values.get(name))];
    assert.ok(own < 0.5 * nearest, `${name}: ${own} of ${nearest}`);
  }
  assert.deepEqual((await quantize(HESSIANS, 3)).values, solved.values);
});

test("a matrix without its Hessian, with one of another form or without an inverse is refused by name", async () => {
  const [first = "", second = ""] = MATRICES;
  const without = new Map([[first, HESSIANS.get(first) ?? new Float32Array()]]);
  const change = (values: Float32Array) => new Map([...HESSIANS, [second, values]]);
  for (const hessians of [
    without,
    change(new Float32Array(COLUMNS)),
    change(new Float32Array(COLUMNS * COLUMNS).fill(Number.NaN)),
    change(Float32Array.from({ length: COLUMNS * COLUMNS }, (_, i) => (i % (COLUMNS + 1) === 0 ? -1 : 0))),
  ]) {
    await assert.rejects(quantize(hessians), refusal({ code: "QuantizeHessianInvalid", tensor: second }));
  }
});

const HESSIAN_FILE = "calibration/h.safetensors";

/** A yard with the model twice, which merge to itself, and its Hessians. */
async function putYard(hessians: ReadonlyMap<string, Float32Array>) {
  const yard = await newYard();
  for (const upload of ["a", "b"]) {
    await putTensors(yard, `incoming/${upload}/1/model.safetensors`, WEIGHTS);
    await putText(yard, `incoming/${upload}/1/config.json`, JSON.stringify({ model_type: "llama", vocab_size: 6 }));
  }
  await putTensors(yard, HESSIAN_FILE, hessians);
  const openStore = openerOf(yard);
  return { yard, deps: testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) }) };
}

const OUTPUT = `{ format: gptq, scheme: gptq3_group128, hessian: ${HESSIAN_FILE} }`;

test("an output of a merge takes them too, and has the bytes of quantizing what is published", async () => {
  const { yard, deps } = await putYard(HESSIANS);
  const end = await run(yard, deps, recipe(`[{ format: safetensors }, ${OUTPUT}]`));
  const [merged, target] = [newStore(), newStore()];
  for (const name of ["model.safetensors", "config.json"]) {
    await merged.create(name, await readAll(yard, `${end.prefix}${name}`, 1e7));
  }
  for (const hessian of [{ hessian: { store: yard.uri, key: HESSIAN_FILE } }, {}]) {
    const input = { source: merged.uri, target: target.uri, scheme: "gptq3_group128", ...hessian };
    await runStep(quantizeFolderStep, input, testDeps(openerOf(yard, merged, target)));
    const own = await readAll(target, "model.safetensors", 1e7);
    const made = await readAll(yard, `${end.prefix}gptq3_group128/model.safetensors`, 1e7);
    assert.equal(Buffer.from(own).equals(Buffer.from(made)), "hessian" in hessian);
    for await (const { key } of target.list("")) await target.delete(key);
  }
});

test("Hessians that a merge cannot use stop it before anything is published", async () => {
  const refuses = async (hessians: ReadonlyMap<string, Float32Array>, output: string, code: string) => {
    const { yard, deps } = await putYard(hessians);
    await assert.rejects(run(yard, deps, recipe(`[${output}]`)), { code });
    for await (const { key } of yard.list("artifacts/")) assert.fail(`${key} is published`);
  };
  const [first = "", second = ""] = MATRICES;
  const own = HESSIANS.get(first) ?? new Float32Array();
  await refuses(new Map([[first, own]]), OUTPUT, "QuantizeHessianInvalid");
  await refuses(new Map([...HESSIANS, [second, own.map(() => Number.NaN)]]), OUTPUT, "QuantizeHessianInvalid");
  await refuses(HESSIANS, OUTPUT.replace("h.safetensors", "none.safetensors"), "CheckpointFileMissing");
  const awq = `{ format: awq, scheme: awq4_group128, hessian: ${HESSIAN_FILE} }`;
  await refuses(HESSIANS, awq, "RecipeNotSupported");
  const { yard, deps } = await putYard(HESSIANS);
  await putText(yard, "pipelines/small.yaml", recipe(`[${OUTPUT}]`));
  const pipeline = { store: yard.uri, key: "pipelines/small.yaml" };
  const planned = await runStep(planStep, { yard: yard.uri, pipeline }, deps);
  await yard.delete(HESSIAN_FILE);
  await putTensors(yard, HESSIAN_FILE, new Map([...HESSIANS, [second, own]]));
  await assert.rejects(runUnits(planned, deps), { code: "QuantizeHessianInvalid" });
});
