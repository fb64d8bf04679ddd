// GGUF files as checkpoints: names, shapes and rows as the Hugging Face model has them, and what is refused.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import type { CheckpointFile } from "../../../core/checkpoint.ts";
import type { OpenedCheckpoint } from "../../../core/formats/format.ts";
import { gguf } from "../../../core/formats/gguf/checkpoint.ts";
import { describeTokenizer } from "../../../core/formats/gguf/tokenizer.ts";
import { rebuildTokenizer } from "../../../core/formats/gguf/tokenizer-json.ts";
import { GGUF_TYPES, type GgufMetadata, type GgufValue } from "../../../core/formats/gguf/type-codes.ts";
import { encodeGgufHeader } from "../../../core/formats/gguf/write.ts";
import { refusal } from "../../refusal.ts";

type Entries = Readonly<Record<string, GgufValue>>;
type Spec = readonly [name: string, shape: readonly number[], type?: number];

const u32 = (value: number): GgufValue => ({ kind: "u32", value });
const f32 = (value: number): GgufValue => ({ kind: "f32", value: Math.fround(value) });
const text = (value: string): GgufValue => ({ kind: "string", value });

function entriesOf(architecture: string, more: Entries = {}): GgufMetadata {
  const own = {
    block_count: u32(1),
    context_length: u32(64),
    embedding_length: u32(32),
    feed_forward_length: u32(64),
    "attention.head_count": u32(4),
    "attention.head_count_kv": u32(2),
    "attention.layer_norm_rms_epsilon": f32(1e-6),
    "rope.freq_base": f32(500000),
  };
  const named = Object.entries(own).map(([key, value]) => [`${architecture}.${key}`, value] as const);
  return new Map([["general.architecture", text(architecture)], ...named, ...Object.entries(more)]);
}

const NOWHERE = { file: "m.gguf", field: undefined, tensor: undefined };

const BASE: readonly Spec[] = [
  ["token_embd.weight", [8, 32], 8],
  ["output_norm.weight", [32]],
  ["blk.0.attn_q.weight", [32, 32], 2],
  ["blk.0.attn_k.weight", [16, 32], 1],
];

function fileOf(metadata: GgufMetadata, specs: readonly Spec[]): Uint8Array {
  const tensors = specs.map(([name, shape, id = 0]) => {
    const type = GGUF_TYPES.get(id);
    assert.ok(type !== undefined);
    return { name, shape, type };
  });
  const { header, fileBytes } = encodeGgufHeader(metadata, tensors);
  const file = new Uint8Array(fileBytes);
  file.set(header);
  return file;
}

function open(files: Readonly<Record<string, Uint8Array>>): Promise<OpenedCheckpoint> {
  const listed: CheckpointFile[] = Object.entries(files).map(([name, { length }]) => ({ name, bytes: length }));
  return gguf.open({
    files: listed,
    read: async (name, offset, bytes) => files[name]?.slice(offset, offset + bytes) ?? new Uint8Array(0),
  });
}

suite("a GGUF file as a checkpoint", () => {
  test("has the model's own names, says how values are packed, and a config made from the metadata", async () => {
    const { checkpoint, warnings } = await open({ "m.gguf": fileOf(entriesOf("llama"), BASE) });
    const described = checkpoint.tensors.map(({ name, dtype, shape, packing }) => [name, dtype, shape, packing]);
    assert.deepEqual(described, [
      ["model.embed_tokens.weight", "F32", [8, 32], { scheme: "q8_0" }],
      ["model.norm.weight", "F32", [32], undefined],
      ["model.layers.0.self_attn.q_proj.weight", "F32", [32, 32], { scheme: "q4_0", interleavedHeads: 4 }],
      ["model.layers.0.self_attn.k_proj.weight", "F16", [16, 32], { interleavedHeads: 2 }],
    ]);
    const text = new TextDecoder().decode(checkpoint.documents?.get("config.json"));
    assert.match(text, /"rope_theta": \d+\.0,/);
    assert.deepEqual(JSON.parse(text), {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_act: "silu",
      hidden_size: 32,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      max_position_embeddings: 64,
      rms_norm_eps: 1e-6,
      rope_theta: 500000,
      vocab_size: 8,
      tie_word_embeddings: true,
    });
    assert.equal(JSON.stringify(JSON.parse(text)), JSON.stringify(checkpoint.config));
    assert.deepEqual(warnings, []);
  });

  test("keeps rows in place where the architecture does", async () => {
    const { checkpoint } = await open({ "m.gguf": fileOf(entriesOf("qwen2"), BASE) });
    assert.ok(checkpoint.tensors.every(({ packing }) => packing?.interleavedHeads === undefined));
    assert.deepEqual(checkpoint.config?.architectures, ["Qwen2ForCausalLM"]);
  });

  test("gives every expert of a stack its own tensor, whose bytes are its part of the stack's", async () => {
    const specs: readonly Spec[] = [
      ...BASE,
      ["blk.0.ffn_gate_inp.weight", [3, 32]],
      ["blk.0.ffn_down_exps.weight", [3, 32, 64], 8],
    ];
    for (const [architecture, names] of [
      ["llama", ["block_sparse_moe.gate", "block_sparse_moe.experts.E.w2"]],
      ["qwen3moe", ["mlp.gate", "mlp.experts.E.down_proj"]],
    ] as const) {
      const metadata = entriesOf(architecture, { [`${architecture}.expert_count`]: u32(3) });
      const { checkpoint } = await open({ "m.gguf": fileOf(metadata, specs) });
      const tensors = new Map(checkpoint.tensors.map((tensor) => [tensor.name, tensor]));
      assert.deepEqual(tensors.get(`model.layers.0.${names[0]}.weight`)?.shape, [3, 32]);
      const experts = [0, 1, 2].map((expert) => {
        return tensors.get(`model.layers.0.${names[1].replace("E", String(expert))}.weight`);
      });
      const bytes = 32 * (64 / 32) * 34;
      const [first = 0] = experts.map((expert) => expert?.ranges[0]?.offset);
      for (const [index, expert] of experts.entries()) {
        assert.deepEqual(expert?.shape, [32, 64]);
        assert.deepEqual(expert?.ranges, [{ file: "m.gguf", offset: first + index * bytes, bytes }]);
      }
    }
  });

  test("is read from all files of a split set, and refused when one is missing or out of its place", async () => {
    const part = (no: number, specs: readonly Spec[], count = 2) =>
      fileOf(
        entriesOf("llama", {
          "split.no": { kind: "u16", value: no },
          "split.count": { kind: "u16", value: count },
          "split.tensors.count": { kind: "i32", value: 4 },
        }),
        specs,
      );
    const [a, b] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    const first = part(0, BASE.slice(0, 1));
    const { checkpoint } = await open({ [a]: first, [b]: part(1, BASE.slice(1)) });
    assert.equal(checkpoint.tensors.length, 4);
    assert.deepEqual(new Set(checkpoint.tensors.map(({ ranges }) => ranges[0]?.file)), new Set([a, b]));
    await assert.rejects(open({ [a]: first }), { code: "GgufSplitIncomplete", found: "1 files", expected: "2" });
    await assert.rejects(open({ [a]: first, [b]: part(0, BASE.slice(1)) }), { code: "GgufSplitIncomplete" });
    await assert.rejects(open({ [a]: first, [b]: part(1, BASE.slice(2)) }), { code: "GgufSplitIncomplete" });
    await assert.rejects(open({ [a]: first, [b]: part(1, BASE) }), { code: "GgufSplitIncomplete" });
    const repeated = part(1, [...BASE.slice(0, 1), ...BASE.slice(2)]);
    await assert.rejects(open({ [a]: first, [b]: repeated }), { code: "CheckpointTensorRepeated" });
  });

  test("is refused when it is another kind of model, or none, or several", async () => {
    const refuses = (metadata: GgufMetadata, specs: readonly Spec[], where: Record<string, string>) =>
      assert.rejects(
        open({ "m.gguf": fileOf(metadata, specs) }),
        refusal({ code: "GgufModelUnsupported", ...NOWHERE, ...where }),
      );
    await refuses(entriesOf("mamba"), BASE, { field: "general.architecture" });
    await refuses(new Map(), BASE, { field: "general.architecture" });
    await refuses(entriesOf("qwen2", { "qwen2.expert_count": u32(3) }), BASE, { field: "general.architecture" });
    await refuses(entriesOf("llama", { "llama.block_count": u32(0) }), BASE, { field: "llama.block_count" });
    await refuses(entriesOf("llama"), [...BASE, ["blk.1.attn_v.weight", [16, 32]]], { tensor: "blk.1.attn_v.weight" });
    await refuses(entriesOf("llama"), [...BASE, ["blk.0.ffn_up_exps.weight", [3, 64, 32]]], {
      tensor: "blk.0.ffn_up_exps.weight",
    });
    await refuses(entriesOf("llama"), [["token_embd.weight", [8, 256], 18]], { tensor: "token_embd.weight" });
    await refuses(entriesOf("llama"), [BASE[0] ?? ["", []], ["blk.0.attn_q.weight", [4, 32]]], {
      tensor: "blk.0.attn_q.weight",
    });
    const file = fileOf(entriesOf("llama"), BASE);
    await assert.rejects(open({ "a.gguf": file, "b.gguf": file }), { code: "CheckpointAmbiguous" });
  });

  test("says what it leaves out: a tensor of rotary scales, and a tokenizer that cannot be written", async () => {
    const spm = { "tokenizer.ggml.model": text("llama"), "tokenizer.ggml.pre": text("default") };
    const specs: readonly Spec[] = [...BASE, ["rope_freqs.weight", [4]]];
    const { checkpoint, warnings } = await open({ "m.gguf": fileOf(entriesOf("llama", spm), specs) });
    assert.deepEqual(
      warnings.map(({ code }) => code),
      ["RopeScalingLost", "TokenizerNotRebuilt"],
    );
    assert.deepEqual([...(checkpoint.documents?.keys() ?? [])], ["config.json"]);
  });
});

const BYTES = { a: 0, b: 1, __proto__x: 2, ab: 3 };
const TOKENIZER = {
  added_tokens: [
    { id: 4, content: "<s>", special: true },
    { id: 5, content: "<tool>", special: false },
  ],
  pre_tokenizer: { type: "ByteLevel", use_regex: true },
  model: { type: "BPE", vocab: BYTES, merges: ["a b"] },
};

test("where a tokenizer splits needs no name only when it merges nothing", () => {
  const describe = (model: object) => {
    const pre_tokenizer = { type: "ByteLevel", use_regex: false };
    const json = { ...TOKENIZER, pre_tokenizer, model: { ...TOKENIZER.model, ...model } };
    const tokenizerJson = new TextEncoder().encode(JSON.stringify(json));
    return describeTokenizer({ tokenizerJson, tokenizerConfig: undefined, config: undefined });
  };
  assert.deepEqual(describe({ merges: [] }).get("tokenizer.ggml.pre"), { kind: "string", value: "gpt-2" });
  const refusal = { code: "QuantizeTokenizerUnsupported" };
  assert.throws(() => describe({}), refusal);
  assert.throws(() => describe({ merges: [], ignore_merges: true }), refusal);
});

test("a byte-level tokenizer comes back with its tokens, merges, splitting, settings and template", () => {
  const tokenizerConfig = { add_bos_token: true, chat_template: "{{x}}" };
  const config = { vocab_size: 8, bos_token_id: 4, eos_token_id: 5 };
  const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
  for (const pre_tokenizer of [
    TOKENIZER.pre_tokenizer,
    {
      type: "Sequence",
      pretokenizers: [
        {
          type: "Split",
          pattern: {
            Regex:
              "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" +
              "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
          },
          behavior: "Isolated",
          invert: false,
        },
        { type: "ByteLevel", use_regex: false },
      ],
    },
  ]) {
    const tokenizerJson = encode({ ...TOKENIZER, pre_tokenizer });
    const before = describeTokenizer({ tokenizerJson, tokenizerConfig, config });
    const { documents, lost } = rebuildTokenizer(before);
    assert.equal(lost, undefined);
    const [json = "", settings = ""] = documents.map(([, content]) => new TextDecoder().decode(content));
    const again = describeTokenizer({
      tokenizerJson: new TextEncoder().encode(json),
      tokenizerConfig: JSON.parse(settings),
      config,
    });
    assert.deepEqual(again, before);
    const { post_processor: processor, model } = JSON.parse(json);
    assert.deepEqual(processor.single[0], { SpecialToken: { id: "<s>", type_id: 0 } });
    assert.deepEqual(model.vocab, BYTES);
    assert.equal(JSON.parse(settings).bos_token, "<s>");
  }
});
