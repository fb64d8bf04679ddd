// Gemma as GGUF: names, entries and norms as llama.cpp's converter writes them, read by a reader that is not ours, the
// same from the pass that merges, and back to the model's own tensors.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gguf } from "@huggingface/gguf";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { createEntryReader } from "../../engine/stored-reader.ts";
import { openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, testDeps } from "./deps.ts";
import { filesOf, makeYard, recipe, run } from "./outputs-yard.ts";
import { type Change, putLlama } from "./small-llama.ts";

const WINDOWS = { head_dim: 64, query_pre_attn_scalar: 64, sliding_window: 32, rms_norm_eps: 1e-6 };
const CAPS = { attn_logit_softcapping: 50, final_logit_softcapping: 30 };

const layers = (parts: Readonly<Record<string, readonly number[]>>) =>
  Object.fromEntries(
    [0, 1].flatMap((layer) =>
      Object.entries(parts).map(([name, shape]) => [`model.layers.${layer}.${name}.weight`, shape] as const),
    ),
  );
const TWICE = { pre_feedforward_layernorm: [256], post_feedforward_layernorm: [256] };

const GEMMA: Change = { config: { model_type: "gemma", head_dim: 64 } };
const GEMMA2: Change = { config: { model_type: "gemma2", ...WINDOWS, ...CAPS }, shapes: layers(TWICE) };
const GEMMA3: Change = {
  config: { model_type: "gemma3_text", ...WINDOWS, rope_theta: 1e6, rope_local_base_freq: 5000 },
  shapes: layers({ ...TWICE, "self_attn.q_norm": [64], "self_attn.k_norm": [64] }),
};

async function quantize(store: ObjectStore, scheme: string, name: string): Promise<Uint8Array> {
  const openStore = openerOf(store);
  const deps = { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
  await runStep(quantizeStep, { source: store.uri, target: store.uri, name, scheme, tokenizer: false }, deps);
  return readAll(store, name, 1e8);
}

async function readValues(store: ObjectStore, entry: TensorEntry | undefined): Promise<Float32Array> {
  assert.ok(entry !== undefined && entry.dtype === "F32");
  const values = new Float32Array(entry.shape.reduce((product, axis) => product * axis, 1));
  const read = createEntryReader(entry, { store, prefix: "" }, new AbortController().signal);
  await read(0, values.length, new Uint8Array(values.buffer));
  return values;
}

/** The file as another reader has it. */
async function readOther(bytes: Uint8Array) {
  const folder = mkdtempSync(join(tmpdir(), "gguf-"));
  try {
    writeFileSync(join(folder, "gemma.gguf"), bytes);
    return await gguf(join(folder, "gemma.gguf"), { allowLocalFile: true });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const HEADS = { "attention.key_length": 64, "attention.value_length": 64, "attention.head_count_kv": 2 };

for (const [change, architecture, entries, norms] of [
  [GEMMA, "gemma", HEADS, ["attn_norm", "ffn_norm"]],
  [
    GEMMA2,
    "gemma2",
    { ...HEADS, ...CAPS, "attention.sliding_window": 32 },
    ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"],
  ],
  [
    GEMMA3,
    "gemma3",
    { ...HEADS, "attention.sliding_window": 32, "rope.freq_base": 1e6, "rope.freq_base_swa": 5000 },
    ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"],
  ],
] as const) {
  test(`a ${architecture} file has the names, entries and norms that llama.cpp reads, and comes back`, async () => {
    const store = newStore();
    await putLlama(store, change);
    const bytes = await quantize(store, "q8_0", "gemma.gguf");
    const { metadata, tensorInfos, tensorDataOffset } = await readOther(bytes);
    const stated: Readonly<Record<string, unknown>> = { ...metadata };
    assert.equal(stated["general.architecture"], architecture);
    for (const [key, value] of Object.entries(entries)) assert.equal(stated[`${architecture}.${key}`], value, key);
    const names = tensorInfos.map(({ name }) => name);
    assert.ok(!names.includes("output.weight"), "the embedding is the output");
    assert.deepEqual(
      names.filter((name) => /^blk\.1\..*norm/.test(name)).sort(),
      norms.map((name) => `blk.1.${name}.weight`).sort(),
    );

    const { checkpoint: before } = await openCheckpointFile(store, "model.safetensors");
    const { checkpoint: after } = await openCheckpointFile(store, "gemma.gguf");
    const config: Readonly<Record<string, unknown>> = { ...after.config };
    for (const [key, value] of Object.entries(change.config ?? {})) assert.deepEqual(config[key], value, key);
    const norm = tensorInfos.find(({ name }) => name === "blk.1.ffn_norm.weight");
    const at = Number(tensorDataOffset) + Number(norm?.offset);
    const stored = new Float32Array(bytes.slice(at, at + 4 * 256).buffer);
    const own = norms.length > 2 ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    const name = `model.layers.1.${own}.weight`;
    const values = await readValues(
      store,
      before.tensors.find((tensor) => tensor.name === name),
    );
    assert.deepEqual(
      stored,
      values.map((value) => Math.fround(1 + value)),
    );
    const back = await readValues(
      store,
      after.tensors.find((tensor) => tensor.name === name),
    );
    assert.deepEqual(
      back,
      stored.map((value) => value - 1),
    );
    const known = new Set(before.tensors.map((tensor) => tensor.name));
    assert.deepEqual(
      after.tensors.filter((tensor) => !known.has(tensor.name)),
      [],
    );
  });
}

test("the pass that merges Gemma makes the file that quantizing the merged checkpoint gives", async () => {
  const { yard, deps } = await makeYard(GEMMA3);
  const outputs = "[{ format: safetensors }, { format: gguf, scheme: q8_0, tokenizer: false }]";
  const end = await run(yard, deps, recipe(outputs, "allow_unlisted: drop"), 1e9);
  const merged = newStore();
  for (const name of ["model.safetensors", "config.json"]) {
    await merged.create(name, await readAll(yard, `${end.prefix}${name}`, 1e8));
  }
  const own = await readOther(await quantize(merged, "q8_0", "own.gguf"));
  const [file = ""] = filesOf(end, ".gguf");
  await merged.create("made.gguf", await readAll(yard, `${end.prefix}${file}`, 1e8));
  const made = await readOther(await readAll(merged, "made.gguf", 1e8));
  const { "general.architecture": architecture } = made.metadata;
  assert.equal(architecture, own.metadata["general.architecture"]);
  const valuesOf = async (key: string) => {
    const { checkpoint } = await openCheckpointFile(merged, key);
    const values = new Map<string, Float32Array>();
    for (const entry of checkpoint.tensors) values.set(entry.name, await readValues(merged, entry));
    return values;
  };
  const [a, b] = [await valuesOf("made.gguf"), await valuesOf("own.gguf")];
  assert.deepEqual([...a.keys()].sort(), [...b.keys()].sort());
  for (const [name, values] of a) assert.deepEqual(values, b.get(name), name);
});

test("numbers of Gemma that readers of GGUF do not take from the file are refused", async () => {
  for (const [change, config, field] of [
    [GEMMA2, { query_pre_attn_scalar: 144 }, "query_pre_attn_scalar"],
    [GEMMA2, { final_logit_softcapping: null }, "final_logit_softcapping"],
    [GEMMA3, { sliding_window_pattern: 2 }, "sliding_window_pattern"],
    [GEMMA3, { layer_types: ["full_attention", "sliding_attention"] }, "layer_types"],
    [GEMMA3, { use_bidirectional_attention: true }, "use_bidirectional_attention"],
    [GEMMA3, { sliding_window: null }, "sliding_window"],
  ] as const) {
    const store = newStore();
    await putLlama(store, { ...change, config: { ...change.config, ...config } });
    const expected = { code: "QuantizeModelUnsupported", field };
    await assert.rejects(quantize(store, "q8_0", "gemma.gguf"), refusal(expected));
  }
});
