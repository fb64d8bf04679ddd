// What alignment is worth on two networks that were trained apart: their plain midpoint is bad, the midpoint after
// `mergeyard align` is good, about as the models' own README states. Runs where these models are.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test from "node:test";
import * as z from "zod";
import { compileLinear, createLayers } from "../../tools/quality/linear.ts";
import { readTensorFile, readWeights } from "../../tools/quality/weights.ts";
import { runJson } from "../cli/model-files.ts";

const models = process.env.MERGEYARD_TEST_MODELS;
const folder = models === undefined ? "" : path.join(models, "mlp-rebasin");
const skip = existsSync(folder) ? false : "set MERGEYARD_TEST_MODELS to a folder that holds mlp-rebasin and vit-tiny";

const LAYERS = 4;
/** Orders of visits end in different optima, 91 to 95 % over four seeds: this share of the stated gain is asked for. */
const GAIN = 0.6;

test("the midpoint of two networks is as bad as stated, and good once they are aligned", { skip }, async (t) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "align-quality-"));
  t.after(() => rmSync(cwd, { recursive: true }));
  const stated = z
    .record(z.string(), z.object({ accuracy: z.number() }))
    .parse(JSON.parse(readFileSync(path.join(folder, "table.json"), "utf8")));
  const place = (name: string) => path.join(folder, `model-${name}`);
  const done = await runJson(cwd, "align", place("b"), "--to", place("a"), "--out", "aligned", "--seed", "1");
  assert.equal(done.status, undefined, JSON.stringify(done));
  const [naive, aligned] = [stated["naive 1-2"]?.accuracy ?? 0, stated["aligned 1-2"]?.accuracy ?? 100];
  const plain = await accuracyOf(await mergeHalves(cwd, "naive", [place("a"), place("b")]));
  const own = await accuracyOf(await mergeHalves(cwd, "midpoint", [place("a"), path.join(cwd, "aligned")]));
  t.diagnostic(`plain ${plain.toFixed(1)} %, stated ${naive} %; aligned ${own.toFixed(1)} %, stated ${aligned} %`);
  assert.ok(Math.abs(plain - naive) < 0.5, `${plain} %`);
  assert.ok(own >= naive + GAIN * (aligned - naive), `${own} %`);
});

async function mergeHalves(cwd: string, name: string, parents: readonly string[]): Promise<string> {
  const recipe = { merge_method: "linear", models: parents.map((model) => ({ model })), parameters: { weight: 1 } };
  writeFileSync(path.join(cwd, `${name}.yaml`), JSON.stringify({ ...recipe, out_dtype: "float32" }));
  const done = await runJson(cwd, "merge", `${name}.yaml`, "--out", name);
  assert.equal(done.status, undefined, JSON.stringify(done));
  return path.join(cwd, name);
}

/** Share of the test images, in percent, whose largest output is the label's: linear layers with relu between. */
async function accuracyOf(model: string): Promise<number> {
  const weights = await readWeights(model);
  const data = await readTensorFile(path.join(models ?? "", "vit-tiny/data"), "mnist.safetensors");
  const [images, labels] = [data.get("images")?.bytes, data.get("labels")?.bytes];
  assert.ok(images !== undefined && labels !== undefined);
  const count = labels.length;
  const layers = createLayers(compileLinear(), 1 << 26);
  let width = images.length / count;
  let x = layers.allocate(count * width);
  x.values.set(Float32Array.from(images, (pixel) => pixel / 255));
  for (let layer = 0; layer < LAYERS; layer++) {
    const bias = weights.values(`layers.${layer}.bias`);
    if (layer > 0) x.values.set(x.values.map((value) => Math.max(0, value)));
    const y = layers.allocate(count * bias.length);
    const loaded = layers.load(weights.values(`layers.${layer}.weight`), bias.length, width, bias);
    layers.linear(y, x, loaded, count);
    [x, width] = [y, bias.length];
  }
  const right = Array.from(labels, (label, row) => {
    const own = x.values.subarray(row * width, (row + 1) * width);
    return own.indexOf(Math.max(...own)) === label ? 100 : 0;
  });
  return right.reduce<number>((sum, score) => sum + score, 0) / count;
}
