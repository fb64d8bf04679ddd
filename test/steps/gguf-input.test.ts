// GGUF files as inputs: converted, merged and quantized again, every value is the one that its block stands for, and
// rows and names are the model's own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { BLOCK_SCHEMES } from "../../core/schemes/registry.ts";
import { rowBytes } from "../../core/schemes/scheme.ts";
import { encodeSentencePiece } from "../../core/tokenizer/sentencepiece.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { initYard } from "../../steps/yard.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { runPipeline } from "./pipeline.ts";
import { putLlama } from "./small-llama.ts";

async function quantize(from: ObjectStore, scheme: string, to: ObjectStore, name: string): Promise<void> {
  const input = { source: from.uri, target: to.uri, name, scheme, tokenizer: false };
  await runStep(quantizeStep, input, quantizeDeps(from, to));
}

function quantizeDeps(from: ObjectStore, to: ObjectStore) {
  const openStore = openerOf(from, to);
  return { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
}

/** Values of every tensor that ordinary files hold, by name. */
async function valuesOf(store: ObjectStore, prefix = ""): Promise<Map<string, Float32Array>> {
  const { checkpoint } = await openCheckpoint(store, prefix);
  const values = new Map<string, Float32Array>();
  for (const { name, dtype, ranges } of checkpoint.tensors) {
    const [range] = ranges;
    assert.ok(range !== undefined && (dtype === "F32" || dtype === "F16"));
    const bytes = new Uint8Array(range.bytes);
    await store.readInto(`${prefix}${range.file}`, range.offset, bytes);
    values.set(
      name,
      dtype === "F32" ? new Float32Array(bytes.buffer) : Float32Array.from(new Float16Array(bytes.buffer)),
    );
  }
  return values;
}

/** What is left of values once they were rows of a scheme's blocks. */
function roundTrip(id: "q8_0" | "f16", values: Float32Array, columns: number): Float32Array {
  const scheme = BLOCK_SCHEMES[id];
  const back = new Float32Array(values.length);
  for (let at = 0; at < values.length; at += columns) {
    const stored = new Uint8Array(rowBytes(scheme, columns));
    scheme.quantize(values.subarray(at, at + columns), stored);
    scheme.dequantize(stored, back.subarray(at, at + columns));
  }
  return back;
}

for (const model_type of ["llama", "qwen2"]) {
  test(`a ${model_type} file converts back to the model's tensors, with the values of its blocks`, async () => {
    for (const scheme of ["f16", "q8_0"] as const) {
      const [source, quantized, target] = [newStore(), newStore(), newStore()];
      await putLlama(source, { config: { model_type } });
      await quantize(source, scheme, quantized, "model.gguf");
      const deps = testDeps(openerOf(quantized, target));
      await runStep(convertStep, { source: quantized.uri, target: target.uri, to: "safetensors" }, deps);
      const [before, after] = [await valuesOf(source), await valuesOf(target)];
      const { checkpoint } = await openCheckpoint(target, "");
      assert.equal(checkpoint.config?.model_type, model_type);
      for (const { name, shape } of checkpoint.tensors) {
        const own = before.get(name);
        assert.ok(own !== undefined, name);
        const expected = shape.length === 1 ? own : roundTrip(scheme, own, shape[1] ?? 0);
        assert.deepEqual(after.get(name), expected, `${scheme} ${name}`);
        before.delete(name);
      }
      assert.deepEqual(
        [...before.keys()].filter((name) => !name.endsWith("inv_freq")),
        [],
      );
    }
  });
}

const RECIPE = `name: small
models: { one: incoming/a, two: incoming/b }
merge:
  merge_method: linear
  models:
    - { model: one, parameters: { weight: 0.25 } }
    - { model: two, parameters: { weight: 0.75 } }
  dtype: float32
  allow_unlisted: drop
publish: { model: ab, channel: nightly }
`;

test("a pipeline merges a GGUF upload as the same values in a safetensors upload", async () => {
  const versions: Map<string, Float32Array>[] = [];
  for (const isQuantized of [true, false]) {
    const [source, quantized, yard] = [newStore(), newStore(), newStore()];
    await putLlama(source);
    await initYard(yard);
    const openStore = openerOf(source, quantized, yard);
    await quantize(source, "q8_0", quantized, "model.gguf");
    const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) });
    const upload = isQuantized ? quantized : newStore();
    if (!isQuantized) {
      const opener = openerOf(quantized, upload);
      const convert = { source: quantized.uri, target: upload.uri, to: "safetensors" as const };
      await runStep(convertStep, convert, testDeps(opener));
    }
    for await (const { key } of upload.list("")) {
      await yard.create(`incoming/a/1/${key}`, await readAll(upload, key, 1e8));
    }
    await putLlama(yard, { first: { "model.norm.weight": 3 } }, "incoming/b/1/");
    await putText(yard, "pipelines/small.yaml", RECIPE);
    const { plan, result } = await runPipeline(yard, deps);
    assert.equal(plan.stages[0]?.name, "adopt");
    versions.push(await valuesOf(yard, layout.version("ab", result?.version ?? "")));
  }
  const [packed, plain] = versions;
  assert.ok(packed !== undefined && plain !== undefined && packed.size > 20);
  assert.deepEqual(packed, plain);
});

test("a GGUF file is quantized again as its values are, tokenizer and all", async () => {
  for (const [name, tokenizer] of [
    ["tokenizer.json", new TextEncoder().encode(JSON.stringify(TOKENIZER))],
    ["tokenizer.model", PIECES],
  ] as const) {
    const [source, first, second, third] = [newStore(), newStore(), newStore(), newStore()];
    await putLlama(source, { config: { bos_token_id: 0, eos_token_id: 1 } });
    await source.create(name, tokenizer);
    const run = (from: ObjectStore, to: ObjectStore, scheme: string) =>
      runStep(quantizeStep, { source: from.uri, target: to.uri, name: "m.gguf", scheme }, quantizeDeps(from, to));
    await run(source, first, "q8_0");
    await run(first, second, "q8_0");
    assert.deepEqual(await readAll(second, "m.gguf", 1e8), await readAll(first, "m.gguf", 1e8), name);
    assert.equal((await run(first, third, "q4_0")).hasTokenizer, true);
  }
});

test("a merge of a GGUF file has its SentencePiece tokenizer, whose bytes are no text", async () => {
  const [source, upload, back, yard] = [newStore(), newStore(), newStore(), newStore()];
  await putLlama(source);
  await source.create("tokenizer.model", PIECES);
  const deps = quantizeDeps(source, upload);
  await runStep(quantizeStep, { source: source.uri, target: upload.uri, name: "m.gguf", scheme: "q8_0" }, deps);
  const convert = { source: upload.uri, target: back.uri, to: "safetensors" as const };
  await runStep(convertStep, convert, testDeps(openerOf(upload, back)));
  await initYard(yard);
  await yard.create("incoming/a/1/m.gguf", await readAll(upload, "m.gguf", 1e8));
  await putLlama(yard, {}, "incoming/b/1/");
  await putText(yard, "pipelines/small.yaml", RECIPE);
  const openStore = openerOf(yard);
  const { result } = await runPipeline(yard, testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) }));
  const made = await readAll(yard, `${layout.version("ab", result?.version ?? "")}tokenizer.model`, 1e6);
  assert.deepEqual(made, await readAll(back, "tokenizer.model", 1e6));
  assert.throws(() => new TextDecoder("utf-8", { fatal: true }).decode(made));
});

test("a GGUF file is quantized into a folder as its values are", async () => {
  const [source, quantized, plain] = [newStore(), newStore(), newStore()];
  await putLlama(source);
  await quantize(source, "q8_0", quantized, "model.gguf");
  const deps = testDeps(openerOf(quantized, plain));
  await runStep(convertStep, { source: quantized.uri, target: plain.uri, to: "safetensors" }, deps);
  const made: Uint8Array[] = [];
  for (const from of [quantized, plain]) {
    const target = newStore();
    const input = { source: from.uri, target: target.uri, scheme: "int8_dynamic" };
    await runStep(quantizeFolderStep, input, testDeps(openerOf(from, target)));
    made.push(await readAll(target, "model.safetensors", 1e8));
  }
  assert.deepEqual(made[0], made[1]);
});

const PIECES = encodeSentencePiece({
  pieces: [
    { text: "<s>", score: 0, kind: "control" },
    { text: "</s>", score: 0, kind: "control" },
    { text: "<unk>", score: 0, kind: "unknown" },
    { text: "a", score: -1, kind: "normal" },
    { text: "\u2581a", score: -2.5, kind: "normal" },
  ],
  algorithm: "bpe",
  addsPrefix: true,
  special: { unk: 2, bos: 0, eos: 1 },
});

const TOKENIZER = {
  added_tokens: [{ id: 0, content: "<s>", special: true }],
  pre_tokenizer: { type: "ByteLevel", use_regex: true },
  model: { type: "BPE", vocab: { a: 1, b: 2, ab: 3 }, merges: ["a b"] },
};
