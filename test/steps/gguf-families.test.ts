// GGUF files by families: entries, tensors and schemes as llama.cpp's converter and quantizer make them of the same
// small models, read by a reader that is not ours; back to the model; and what is refused.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { GGMLQuantizationType, type GGUFTensorInfo, gguf } from "@huggingface/gguf";
import * as z from "zod";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { isJsonObject } from "../../core/json.ts";
import { createEntryReader } from "../../engine/stored-reader.ts";
import { openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { type Change, putLlama } from "./small-llama.ts";

const FILE = "model.gguf";

/** Writes the GGUF file of the model in the store. */
async function quantize(store: ObjectStore, scheme: string) {
  const openStore = openerOf(store);
  const deps = { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
  return runStep(quantizeStep, { source: store.uri, target: store.uri, name: FILE, scheme, tokenizer: false }, deps);
}

/** The store with a small llama and its GGUF file. */
async function quantizeLlama(change: Change): Promise<ObjectStore> {
  const store = newStore();
  await putLlama(store, change);
  await quantize(store, "f32");
  return store;
}

/** The file as another reader has it. */
async function readOther(store: ObjectStore) {
  const folder = mkdtempSync(join(tmpdir(), "gguf-"));
  try {
    writeFileSync(join(folder, FILE), await readAll(store, FILE, 1e8));
    return await gguf(join(folder, FILE), { allowLocalFile: true });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("the size of heads is stated where the config states it, and comes back", async () => {
  for (const [config, stated] of [
    [{}, undefined],
    [{ head_dim: 64 }, 64],
  ] as const) {
    const store = await quantizeLlama({ config });
    const { metadata } = await readOther(store);
    const entries: Readonly<Record<string, unknown>> = { ...metadata };
    assert.equal(entries["llama.attention.key_length"], stated);
    assert.equal(entries["llama.attention.value_length"], stated);
    const { checkpoint } = await openCheckpointFile(store, FILE);
    assert.equal(checkpoint.config?.head_dim, stated);
  }
});

test("windows of a family whose readers know none are refused", async () => {
  await assert.rejects(
    quantizeLlama({ config: { model_type: "qwen2", use_sliding_window: true, sliding_window: 16 } }),
    refusal({ code: "QuantizeModelUnsupported", field: "use_sliding_window" }),
  );
});

const shape = z.array(z.number());
const golden = z
  .record(
    z.string(),
    z.object({
      config: z.record(z.string(), z.unknown()),
      stored: z.array(z.tuple([z.string(), shape])),
      entries: z.record(z.string(), z.unknown()),
      tensors: z.record(z.string(), z.tuple([shape, z.string()])),
      q4_k_m: z.array(z.tuple([z.string(), z.string()])),
    }),
  )
  .parse(JSON.parse(readFileSync(join(import.meta.dirname, "../golden/gguf-families/families.json"), "utf8")));
type Golden = (typeof golden)[string];

/** The value of an element of the tensor at a place in the list of names: make.py's. */
const elementOf = (place: number, at: number) => (((at * 7919 + place * 104729) % 65537) - 32768) / 65536;

async function putGolden(store: ObjectStore, { config, stored }: Golden, change: object = {}): Promise<void> {
  const places = new Map(stored.map(([name], place) => [name, place]));
  const specs = stored.map(([name, lengths]) => ({ name, dtype: "F32" as const, shape: lengths }));
  const file = encodeSafetensorsFile(specs, ({ name, bytes }) => {
    return Float32Array.from({ length: bytes / 4 }, (_, at) => elementOf(places.get(name) ?? 0, at));
  });
  await writeBytes(store, "model.safetensors", file);
  await putText(store, "config.json", JSON.stringify({ ...config, ...change }));
}

function digestsOf(file: Uint8Array, start: bigint, infos: readonly GGUFTensorInfo[]) {
  return Object.fromEntries(
    infos.map(({ name, shape: lengths, offset }) => {
      const own = lengths.toReversed().map(Number);
      const [at, bytes] = [Number(start + offset), 4 * own.reduce((product, axis) => product * axis, 1)];
      const digest = createHash("sha256").update(file.subarray(at, at + bytes));
      return [name, [own, digest.digest("hex").slice(0, 16)]] as const;
    }),
  );
}

/** A row of one column and a vector are the same to readers; llama-quantize writes the vector. */
const plain = ([lengths, digest]: readonly [readonly number[], string]) => {
  return [lengths[0] === 1 ? lengths.slice(1) : lengths, digest];
};

async function readValues(store: ObjectStore, entry: TensorEntry): Promise<Float32Array> {
  const values = new Float32Array(entry.shape.reduce((product, axis) => product * axis, 1));
  const read = createEntryReader(entry, { store, prefix: "" }, new AbortController().signal);
  await read(0, values.length, new Uint8Array(values.buffer));
  return values;
}

/** The file has the model's own config and tensors. */
async function checkBack(store: ObjectStore, expected: Golden): Promise<void> {
  const { checkpoint } = await openCheckpointFile(store, FILE);
  const config: Readonly<Record<string, unknown>> = { ...checkpoint.config };
  const same = Object.keys(config).filter((key) => key in expected.config && config[key] !== null);
  assert.ok(same.length > 8, "the config says what the model's own does");
  for (const key of same) assert.deepEqual(config[key], expected.config[key], key);
  const shapes = new Map(checkpoint.tensors.map((tensor) => [tensor.name, [...tensor.shape]]));
  assert.deepEqual(shapes, new Map(expected.stored));
  for (const [place, [name]] of expected.stored.entries()) {
    const entry = checkpoint.tensors.find((tensor) => tensor.name === name);
    assert.ok(entry !== undefined);
    const values = await readValues(store, entry);
    assert.deepEqual(
      values,
      values.map((_, at) => elementOf(place, at)),
      name,
    );
  }
}

for (const [family, expected] of Object.entries(golden)) {
  test(`a ${family} file has the entries, tensors and schemes that llama.cpp gives it`, async () => {
    const store = newStore();
    await putGolden(store, expected);
    const { leftOut } = await quantize(store, "f32");
    assert.equal(leftOut, expected.stored.filter(([name]) => /vision|multi_modal/.test(name)).length);
    const { metadata, tensorInfos, tensorDataOffset } = await readOther(store);
    const { version: _, tensor_count: __, kv_count: ___, ...entries } = metadata;
    const stated = Object.entries(entries).filter(([key]) => !key.startsWith("tokenizer."));
    assert.deepEqual(Object.fromEntries(stated), { "general.quantization_version": 2, ...expected.entries });
    const digests = digestsOf(await readAll(store, FILE, 1e8), tensorDataOffset, tensorInfos);
    const wanted = Object.entries(expected.tensors).map(([name, tensor]) => [name, plain(tensor)]);
    assert.deepEqual(digests, Object.fromEntries(wanted));

    // Of a model that also sees images, the file has the text model alone.
    if (expected.config.text_config === undefined) await checkBack(store, expected);

    await store.delete(FILE);
    await quantize(store, "q4_k_m");
    const small = await readOther(store);
    const types = small.tensorInfos.map(({ name, dtype }) => [name, GGMLQuantizationType[dtype]] as const);
    // What is no tensor of the checkpoint lies before all others.
    const first = expected.q4_k_m.filter(([name]) => name.startsWith("rope_"));
    assert.deepEqual(types, [...first, ...expected.q4_k_m.filter(([name]) => !name.startsWith("rope_"))]);
  });
}

test("settings that readers of a family do not take from the file are refused", async () => {
  for (const [family, change, field] of [
    ["smollm3", { no_rope_layers: [1, 0] }, "no_rope_layers"],
    ["olmo2", { tie_word_embeddings: true }, "tie_word_embeddings"],
    ["cohere", { tie_word_embeddings: false }, "tie_word_embeddings"],
    ["cohere", { use_qk_norm: true }, "use_qk_norm"],
    ["cohere", { partial_rotary_factor: 0.5 }, "partial_rotary_factor"],
    ["cohere2", { layer_types: ["full_attention", "sliding_attention"] }, "layer_types"],
    ["cohere2", { sliding_window: null }, "sliding_window"],
    ["granite", { hidden_act: "gelu" }, "hidden_act"],
    ["granite", { logits_scaling: null }, "logits_scaling"],
    ["starcoder2", { norm_epsilon: 0 }, "norm_epsilon"],
    ["olmo2", { head_dim: 128 }, "head_dim"],
    ["olmoe", { num_key_value_heads: 2 }, "num_key_value_heads"],
    ["qwen2_moe", { norm_topk_prob: true }, "norm_topk_prob"],
    ["qwen2_moe", { decoder_sparse_step: 2 }, "decoder_sparse_step"],
  ] as const) {
    const [store, model] = [newStore(), golden[family]];
    assert.ok(model !== undefined);
    await putGolden(store, model, change);
    await assert.rejects(quantize(store, "f32"), refusal({ code: "QuantizeModelUnsupported", field }));
  }
});

test("a bias that readers need is missed", async () => {
  const [store, model] = [newStore(), golden.starcoder2];
  assert.ok(model !== undefined);
  await putGolden(store, { ...model, stored: model.stored.filter(([name]) => name !== "model.norm.bias") });
  await assert.rejects(
    quantize(store, "f32"),
    refusal({ code: "QuantizeModelUnsupported", tensor: "output_norm.bias" }),
  );
});

test("what a text model's config leaves to the program is taken as transformers has it", async () => {
  const [store, model] = [newStore(), golden.gemma3];
  assert.ok(model !== undefined);
  const { text_config: text } = model.config;
  assert.ok(isJsonObject(text));
  const { rms_norm_eps: _, max_position_embeddings: __, rope_parameters: ___, ...bare } = text;
  await putGolden(store, model, { text_config: bare });
  await quantize(store, "f32");
  const { metadata } = await readOther(store);
  const entries: Readonly<Record<string, unknown>> = { ...metadata };
  assert.equal(entries["gemma3.context_length"], 131072);
  assert.equal(entries["gemma3.rope.freq_base"], 1e6);
  assert.equal(entries["gemma3.attention.layer_norm_rms_epsilon"], Math.fround(1e-6));
  await putGolden(store, model, { model_type: "llava" });
  await store.delete(FILE);
  await assert.rejects(quantize(store, "f32"), refusal({ code: "QuantizeModelUnsupported" }));
});
