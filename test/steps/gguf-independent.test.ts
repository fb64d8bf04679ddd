// GGUF files that we write, read by a reader that is not ours: every tensor's name, type, shape, place and bytes, and
// the metadata. Nothing is fetched: the files lie in a temporary folder.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { GGMLQuantizationType, type GGUFTensorInfo, gguf, ggufAllShards } from "@huggingface/gguf";
import { GGUF_TYPES } from "../../core/formats/gguf/type-codes.ts";
import { MIXES } from "../../core/schemes/mixes.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { putLlama, shapesOf } from "./small-llama.ts";

/** A temporary folder for the time of one test. */
async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "gguf-"));
  try {
    await use(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Names of the files. */
async function quantizeTo(store: ObjectStore, scheme: string, more: object): Promise<readonly string[]> {
  const openStore = openerOf(store);
  const deps = { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
  const input = { source: store.uri, target: store.uri, name: "out.gguf", scheme, tokenizer: false, ...more };
  return (await runStep(quantizeStep, input, deps)).files;
}

async function quantize(store: ObjectStore, scheme: string, tokenizer = false) {
  await quantizeTo(store, scheme, { tokenizer });
  return readAll(store, "out.gguf", 1e8);
}

/** Bytes of a tensor, from its numbers alone. */
function bytesOf({ shape, dtype }: GGUFTensorInfo): number {
  const type = GGUF_TYPES.get(dtype);
  assert.ok(type !== undefined);
  return (Number(shape.reduce((product, axis) => product * axis, 1n)) / type.blockElements) * type.blockBytes;
}

/** The stored tensor that one of the file comes from; the layers' names are spelled out, not taken from the writer. */
const SOURCES: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  ffn_norm: "post_attention_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

function sourceOf(name: string): string {
  const [, layer, part = ""] = /^(?:blk\.(\d+)\.)?(\w+)\.(?:weight|bias)$/.exec(name) ?? [];
  const suffix = name.slice(name.lastIndexOf("."));
  return `${layer === undefined ? "" : `model.layers.${layer}.`}${SOURCES[part]}${suffix}`;
}

for (const architecture of ["llama", "qwen2"]) {
  test(`a reader that is not ours finds every tensor of a ${architecture} file, for every scheme`, async () => {
    await withFolder(async (folder) => {
      const store = newStore();
      await putLlama(store, { config: { model_type: architecture } });
      const shapes = shapesOf(architecture === "qwen2");
      for (const [id, { base }] of MIXES) {
        await store.delete("out.gguf");
        const bytes = await quantize(store, id);
        const file = join(folder, `${id}.gguf`);
        writeFileSync(file, bytes);
        const { metadata, tensorInfos, tensorDataOffset } = await gguf(file, { allowLocalFile: true });
        assert.equal(metadata.version, 3);
        assert.equal(metadata["general.architecture"], architecture);
        assert.equal(metadata.tensor_count, BigInt(tensorInfos.length));
        const left = new Map([...shapes].filter(([name]) => !name.endsWith("inv_freq")));
        let end = 0;
        for (const info of tensorInfos) {
          const shape = left.get(sourceOf(info.name));
          assert.deepEqual(info.shape.toReversed().map(Number), shape, `${id} ${info.name}`);
          assert.equal(Number(info.offset), end, `${id} ${info.name}`);
          assert.equal(Number(info.offset) % 32, 0);
          end += Math.ceil(bytesOf(info) / 32) * 32;
          left.delete(sourceOf(info.name));
        }
        assert.deepEqual([...left.keys()], [], id);
        assert.equal(Number(tensorDataOffset) + end, bytes.length, id);
        const gate = tensorInfos.find(({ name }) => name === "blk.0.ffn_gate.weight");
        assert.equal(GGUF_TYPES.get(gate?.dtype ?? -1)?.scheme, base, id);
        const norm = tensorInfos.find(({ name }) => name === "output_norm.weight");
        assert.equal(norm?.dtype, GGMLQuantizationType.F32);
      }
    });
  });
}

test("a reader that is not ours finds the values of a tensor where the header says", async () => {
  await withFolder(async (folder) => {
    const store = newStore();
    await putLlama(store, { first: { "model.norm.weight": 0.625 } });
    const bytes = await quantize(store, "q8_0");
    const file = join(folder, "model.gguf");
    writeFileSync(file, bytes);
    const { tensorInfos, tensorDataOffset } = await gguf(file, { allowLocalFile: true });
    const norm = tensorInfos.find(({ name }) => name === "output_norm.weight");
    assert.ok(norm !== undefined);
    const at = Number(tensorDataOffset + norm.offset);
    assert.equal(new DataView(bytes.buffer, bytes.byteOffset).getFloat32(at, true), 0.625);
  });
});

test("a reader that is not ours finds the metadata that a loader needs", async () => {
  await withFolder(async (folder) => {
    const store = newStore();
    await putLlama(store, { config: { rope_theta: 500000, rope_scaling: { type: "linear", factor: 4 } } });
    const model = { type: "BPE", vocab: { a: 1, b: 2, ab: 3 }, merges: ["a b"] };
    const added = [{ id: 0, content: "<s>", special: true }];
    const tokenizer = { added_tokens: added, pre_tokenizer: { type: "ByteLevel", use_regex: true }, model };
    await putText(store, "tokenizer.json", JSON.stringify(tokenizer));
    await putText(store, "tokenizer_config.json", JSON.stringify({ add_bos_token: true, chat_template: "{{x}}" }));
    const file = join(folder, "model.gguf");
    writeFileSync(file, await quantize(store, "q4_k_m", true));
    const { metadata } = await gguf(file, { allowLocalFile: true });
    const { version, tensor_count, kv_count, ...entries } = metadata;
    assert.deepEqual([version, tensor_count, kv_count], [3, 21n, BigInt(Object.keys(entries).length)]);
    assert.deepEqual(entries, {
      "general.architecture": "llama",
      "general.type": "model",
      "general.size_label": "840K",
      "llama.block_count": 2,
      "llama.context_length": 128,
      "llama.embedding_length": 256,
      "llama.feed_forward_length": 288,
      "llama.attention.head_count": 4,
      "llama.attention.head_count_kv": 2,
      "llama.rope.freq_base": 500000,
      "llama.attention.layer_norm_rms_epsilon": Math.fround(1e-6),
      "llama.rope.scaling.type": "linear",
      "llama.rope.scaling.factor": 4,
      "llama.vocab_size": 6,
      "llama.rope.dimension_count": 64,
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "gpt-2",
      "tokenizer.ggml.tokens": ["<s>", "a", "b", "ab", "[PAD4]", "[PAD5]"],
      "tokenizer.ggml.token_type": [3, 1, 1, 1, 5, 5],
      "tokenizer.ggml.merges": ["a b"],
      "tokenizer.ggml.bos_token_id": 0,
      "tokenizer.ggml.eos_token_id": 1,
      "tokenizer.ggml.add_bos_token": true,
      "tokenizer.chat_template": "{{x}}",
      "general.quantization_version": 2,
      "general.file_type": 15,
    });
  });
});

test("a reader that is not ours finds in a set of files every tensor of the one file, with its bytes", async () => {
  await withFolder(async (folder) => {
    const store = newStore();
    await putLlama(store);
    const whole = await quantize(store, "q8_0");
    writeFileSync(join(folder, "whole.gguf"), whole);
    const one = await gguf(join(folder, "whole.gguf"), { allowLocalFile: true });
    const bytesIn = (file: Uint8Array, start: bigint, info: GGUFTensorInfo) => {
      const at = Number(start + info.offset);
      return Buffer.from(file.subarray(at, at + bytesOf(info)));
    };
    const expected = one.tensorInfos.map((info) => [info.name, bytesIn(whole, one.tensorDataOffset, info)]);
    for (const split of [{ maxTensors: 8 }, { maxBytes: 100_000 }, { maxBytes: 200_000, maxTensors: 4 }]) {
      const files = await quantizeTo(store, "q8_0", { split });
      const five = (value: number) => String(value).padStart(5, "0");
      assert.deepEqual(
        files,
        files.map((_, index) => `out-${five(index + 1)}-of-${five(files.length)}.gguf`),
      );
      for (const name of files) writeFileSync(join(folder, name), await readAll(store, name, 1e8));
      const { shards } = await ggufAllShards(join(folder, files[0] ?? ""), { allowLocalFile: true });
      const found = shards.flatMap(({ tensorInfos, tensorDataOffset }, index) => {
        const file = readFileSync(join(folder, files[index] ?? ""));
        return tensorInfos.map((info) => [info.name, bytesIn(file, tensorDataOffset, info)]);
      });
      assert.deepEqual(found, expected);
      for (const [index, { metadata, tensorInfos }] of shards.entries()) {
        const { version, tensor_count, kv_count, ...entries } = metadata;
        const own: Record<string, number> = {
          "split.no": index,
          "split.count": files.length,
          "split.tensors.count": expected.length,
        };
        const { version: _, tensor_count: __, kv_count: ___, ...all } = one.metadata;
        assert.deepEqual({ ...entries }, index === 0 ? { ...all, ...own } : own);
        assert.ok(tensorInfos.length > 0 && tensorInfos.length <= (split.maxTensors ?? 1e9));
        const bytes = tensorInfos.reduce((sum, info) => sum + Math.ceil(bytesOf(info) / 32) * 32, 0);
        assert.ok(tensorInfos.length === 1 || bytes <= (split.maxBytes ?? 1e9));
      }
      for (const name of files) await store.delete(name);
    }
  });
});
