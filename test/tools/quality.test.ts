// The forward passes that measure merges, against logits of PyTorch, and the verdicts drawn from their scores.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import test from "node:test";
import * as z from "zod";
import { routeRows } from "../../tools/quality/feed-forward.ts";
import { compileLinear, createLayers } from "../../tools/quality/linear.ts";
import { createLlama } from "../../tools/quality/llama.ts";
import { beyondNoise, judge } from "../../tools/quality/table.ts";
import { createVit } from "../../tools/quality/vit.ts";
import { readTensorFile, readWeights } from "../../tools/quality/weights.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");
/** Both add float32 numbers, in different orders. */
const LOGIT_TOLERANCE = 1e-4;

const models = process.env.MERGEYARD_TEST_MODELS;

/** Why a test of these models does not run here; false where it does. */
function skipOf(name: string): string | false {
  const isThere = models !== undefined && existsSync(path.join(models, name));
  return isThere ? false : `set MERGEYARD_TEST_MODELS to a folder that holds ${name} with its reference.json`;
}

const module = compileLinear();

function worstDifference(got: Float32Array, expected: readonly number[]): number {
  return Math.max(...expected.map((value, index) => Math.abs(value - (got[index] ?? Number.NaN))));
}

test("a linear layer is y = x W^T + b for any number of rows, outputs and inputs", () => {
  for (const [rows, outs, ins] of [
    [1, 1, 1],
    [2, 4, 4],
    [3, 5, 7],
    [5, 9, 49],
  ] as const) {
    const layers = createLayers(module, 1 << 20);
    const weight = Float32Array.from({ length: outs * ins }, (_, i) => ((i * 7) % 11) - 5);
    const bias = Float32Array.from({ length: outs }, (_, i) => i);
    const loaded = layers.load(weight, outs, ins, bias);
    const [x, y] = [layers.allocate(rows * loaded.ins), layers.allocate(rows * outs)];
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < ins; i++) x.values[row * loaded.ins + i] = ((row + 3 * i) % 5) - 2;
    }
    layers.linear(y, x, loaded, rows);
    const expected = Array.from({ length: rows * outs }, (_, at) => {
      const [row, out] = [Math.floor(at / outs), at % outs];
      let sum = bias[out] ?? 0;
      for (let i = 0; i < ins; i++) sum += (x.values[row * loaded.ins + i] ?? 0) * (weight[out * ins + i] ?? 0);
      return sum;
    });
    assert.deepEqual([...y.values], expected);
  }
});

test("the language model's logits are those of PyTorch", async () => {
  const golden = z
    .object({
      models: z.record(z.string(), z.array(z.object({ bytes: z.array(z.int()), logits: z.array(z.number()) }))),
    })
    .parse(JSON.parse(readFileSync(path.join(ROOT, "test/golden/quality/lm-logits.json"), "utf8")));
  for (const [name, cases] of Object.entries(golden.models)) {
    const llama = createLlama(module, await readWeights(path.join(ROOT, "examples/models", name)));
    for (const { bytes, logits } of cases) {
      const last = llama.logits(Uint8Array.from(bytes), 1, bytes.length).subarray(-llama.vocabulary);
      assert.ok(worstDifference(last, logits) < LOGIT_TOLERANCE, name);
    }
  }
});

test("the logits of a model with experts are those of PyTorch", { skip: skipOf("moe-tiny") }, async () => {
  const folder = path.join(models ?? "", "moe-tiny");
  const cases = z.object({
    input_bytes: z.array(z.array(z.int())),
    last_position_logits: z.array(z.array(z.number())),
  });
  const { moe } = z.object({ moe: cases }).parse(JSON.parse(readFileSync(path.join(folder, "reference.json"), "utf8")));
  const llama = createLlama(module, await readWeights(folder));
  for (const [index, bytes] of moe.input_bytes.entries()) {
    const last = llama.logits(Uint8Array.from(bytes), 1, bytes.length).subarray(-llama.vocabulary);
    assert.ok(worstDifference(last, moe.last_position_logits[index] ?? []) < LOGIT_TOLERANCE, `input ${index}`);
  }
});

test("a row is sent to its likeliest experts, with shares that add up to one", () => {
  const sent = routeRows(Float32Array.of(0, Math.log(3), -1, 5, 5, 5), 3, 2);
  assert.deepEqual(
    sent.map((rows) => rows.map(({ row, share }) => [row, Number(share.toFixed(6))])),
    [
      [
        [0, 0.25],
        [1, 0.5],
      ],
      [
        [0, 0.75],
        [1, 0.5],
      ],
      [],
    ],
  );
});

test("the vision transformer's features are those of PyTorch", { skip: skipOf("vit-tiny") }, async () => {
  const folder = path.join(models ?? "", "vit-tiny");
  const reference = z
    .record(
      z.string(),
      z.object({ data: z.string(), rows: z.array(z.int()), features_first8: z.array(z.array(z.number())) }),
    )
    .parse(JSON.parse(readFileSync(path.join(folder, "reference.json"), "utf8")));
  for (const [name, { data, rows, features_first8: expected }] of Object.entries(reference)) {
    const model = createVit(module, await readWeights(path.join(folder, name)));
    const images = (await readTensorFile(path.join(folder, "data"), `${data}.safetensors`)).get("images");
    const features = model.features(images?.bytes ?? new Uint8Array(), rows.length);
    for (const [index, row] of rows.entries()) {
      const own = features.subarray(row * model.width);
      assert.ok(worstDifference(own, expected[index] ?? []) < LOGIT_TOLERANCE, `${name}, image ${row}`);
    }
  }
});

test("a merge is better or worse only beyond the noise of its samples", () => {
  const base = { a: [1, 2, 3, 4], b: [5, 6, 7, 8] };
  const shifted = (by: number) => ({ a: base.a.map((x) => x + by), b: base.b.map((x) => x + by) });
  assert.equal(judge("higher", base, base), "tie");
  assert.equal(judge("higher", shifted(0.1), base), "better");
  assert.equal(judge("lower", shifted(0.1), base), "worse");
  assert.equal(judge("higher", { a: [3, 0, 4, 3], b: [5, 6, 7, 8] }, base), "tie");
});

test("a stated number is within the noise or beyond it, by task and for the mean", () => {
  // Standard errors: 0.56 for each task, 0.40 for their mean.
  const scores = { a: [1, 2, 3, 4], b: [5, 6, 7, 8] };
  assert.deepEqual(beyondNoise(scores, { a: 3.5, b: 5.5, mean: 4.5 }), []);
  assert.deepEqual(beyondNoise(scores, { a: 1.3, b: 6.5 }), ["a"]);
  assert.deepEqual(beyondNoise(scores, { a: 3.5, b: 7.5, mean: 5.4 }), ["mean"]);
});
