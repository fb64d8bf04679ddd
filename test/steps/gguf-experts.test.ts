// Models with experts, and with norms of heads, written as GGUF and read back as checkpoints: the tensors are the
// model's own again, by name, shape and value. What cannot be stacked is refused.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gguf } from "@huggingface/gguf";
import type { ErrorPlace } from "../../core/error.ts";
import { readImatrix } from "../../core/formats/gguf/imatrix.ts";
import { planGgufModel } from "../../core/formats/gguf/model.ts";
import { NO_TOKENIZER } from "../../core/formats/gguf/tokenizer.ts";
import { ggufTypeOf } from "../../core/formats/gguf/type-codes.ts";
import { encodeGgufHeader } from "../../core/formats/gguf/write.ts";
import {
  encodeSafetensorsFile,
  encodeSafetensorsHeader,
  readSafetensorsHeader,
} from "../../core/formats/safetensors/safetensors.ts";
import { planGgufOutputs } from "../../core/plan/gguf-outputs.ts";
import { createNotes } from "../../core/plan/notes.ts";
import { MIXES } from "../../core/schemes/mixes.ts";
import { BLOCK_SCHEMES } from "../../core/schemes/registry.ts";
import type { Dtype, Shape } from "../../core/tensor.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { openGguf } from "../../steps/open-gguf.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { planBitsStep } from "../../steps/quantize/plan-bits.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createMeasureSchemes } from "../../workers/measure-executor.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { assertRefused, refusal } from "../refusal.ts";
import { newStore, newYard, openerOf, putText, testDeps } from "./deps.ts";
import { imatrixOf } from "./imatrix.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { recipe, run } from "./outputs-yard.ts";

const [HIDDEN, INNER, HEAD, VOCABULARY] = [64, 32, 32, 8];

const CONFIG = {
  hidden_size: HIDDEN,
  intermediate_size: INNER,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: HEAD,
  vocab_size: VOCABULARY,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
};

type Model = {
  readonly config: Readonly<Record<string, unknown>>;
  readonly router?: string;
  /** Names of an expert's parts: those with rows of the hidden size, and the one with rows of the inner size. */
  readonly expert?: (expert: number) => readonly [gate: string, up: string, down: string];
  readonly hasHeadNorms?: boolean;
};

const MIXTRAL: Model = {
  config: { ...CONFIG, model_type: "mixtral", num_local_experts: 3, num_experts_per_tok: 2 },
  router: "block_sparse_moe.gate",
  expert: (expert) => [
    `block_sparse_moe.experts.${expert}.w1`,
    `block_sparse_moe.experts.${expert}.w3`,
    `block_sparse_moe.experts.${expert}.w2`,
  ],
};
const QWEN3: Model = { config: { ...CONFIG, model_type: "qwen3" }, hasHeadNorms: true };
const QWEN3_MOE: Model = {
  config: {
    ...CONFIG,
    model_type: "qwen3_moe",
    num_experts: 11,
    num_experts_per_tok: 2,
    moe_intermediate_size: INNER,
    intermediate_size: 96,
    norm_topk_prob: true,
  },
  hasHeadNorms: true,
  router: "mlp.gate",
  expert: (expert) => [
    `mlp.experts.${expert}.gate_proj`,
    `mlp.experts.${expert}.up_proj`,
    `mlp.experts.${expert}.down_proj`,
  ],
};

function shapesOf({ config, router, expert, hasHeadNorms }: Model): Map<string, Shape> {
  const count = Number(config.num_local_experts ?? config.num_experts ?? 0);
  const shapes = new Map<string, Shape>([
    ["model.embed_tokens.weight", [VOCABULARY, HIDDEN]],
    ["model.norm.weight", [HIDDEN]],
    ["lm_head.weight", [VOCABULARY, HIDDEN]],
  ]);
  for (const layer of [0, 1]) {
    const put = (name: string, shape: Shape) => void shapes.set(`model.layers.${layer}.${name}.weight`, shape);
    put("input_layernorm", [HIDDEN]);
    put("post_attention_layernorm", [HIDDEN]);
    put("self_attn.q_proj", [4 * HEAD, HIDDEN]);
    put("self_attn.k_proj", [2 * HEAD, HIDDEN]);
    put("self_attn.v_proj", [2 * HEAD, HIDDEN]);
    put("self_attn.o_proj", [HIDDEN, 4 * HEAD]);
    if (hasHeadNorms === true) for (const name of ["q_norm", "k_norm"]) put(`self_attn.${name}`, [HEAD]);
    if (router !== undefined) put(router, [count, HIDDEN]);
    const dense = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"] as const;
    const all = expert === undefined ? [dense] : Array.from({ length: count }, (_, index) => expert(index));
    for (const [gate, up, down] of all) {
      put(gate, [INNER, HIDDEN]);
      put(up, [INNER, HIDDEN]);
      put(down, [HIDDEN, INNER]);
    }
  }
  return shapes;
}

async function putModel(store: ObjectStore, model: Model): Promise<void> {
  const specs = [...shapesOf(model)].map(([name, shape]) => ({ name, dtype: "F32" as const, shape }));
  const file = encodeSafetensorsFile(specs, ({ bytes }, seed) => {
    return Float32Array.from({ length: bytes / 4 }, (_, at) => Math.sin(seed * 37 + at * 0.7));
  });
  await writeBytes(store, "model.safetensors", file);
  await putText(store, "config.json", JSON.stringify(model.config));
}

async function quantize(from: ObjectStore, to: ObjectStore, scheme: string, more: object = {}) {
  const openStore = openerOf(from, to);
  const deps = { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
  const input = { source: from.uri, target: to.uri, name: "model.gguf", scheme, tokenizer: false, ...more };
  return runStep(quantizeStep, input, deps);
}

async function bytesOf(store: ObjectStore): Promise<Map<string, { shape: Shape; bytes: Buffer }>> {
  const { checkpoint } = await openCheckpoint(store, "");
  const found = new Map<string, { shape: Shape; bytes: Buffer }>();
  for (const { name, shape, ranges } of checkpoint.tensors) {
    const [range] = ranges;
    assert.ok(range !== undefined);
    const bytes = new Uint8Array(range.bytes);
    await store.readInto(range.file, range.offset, bytes);
    found.set(name, { shape, bytes: Buffer.from(bytes) });
  }
  return found;
}

for (const model of [MIXTRAL, QWEN3, QWEN3_MOE]) {
  const kind = String(model.config.model_type);
  test(`a ${kind} file reads back as the model that it was made from, config and all`, async () => {
    const [source, file, target] = [newStore(), newStore(), newStore()];
    await putModel(source, model);
    await quantize(source, file, "f32", { split: { maxTensors: 9 } });
    const deps = testDeps(openerOf(file, target));
    await runStep(convertStep, { source: file.uri, target: target.uri, to: "safetensors" }, deps);
    assert.deepEqual(await bytesOf(target), await bytesOf(source));
    const { checkpoint } = await openCheckpoint(target, "");
    const { config = {} } = checkpoint;
    assert.deepEqual(Object.fromEntries(Object.keys(model.config).map((key) => [key, config[key]])), model.config);
  });

  test(`a reader that is not ours finds the stacks and the metadata of a ${kind} file`, async (context) => {
    const folder = mkdtempSync(join(tmpdir(), "gguf-experts-"));
    context.after(() => rmSync(folder, { recursive: true }));
    const [source, file] = [newStore(), newStore()];
    await putModel(source, model);
    await quantize(source, file, "q8_0");
    writeFileSync(join(folder, "model.gguf"), await readAll(file, "model.gguf", 1e8));
    const { metadata, tensorInfos } = await gguf(join(folder, "model.gguf"), { allowLocalFile: true });
    const entries = new Map(Object.entries(metadata));
    const architecture = entries.get("general.architecture");
    const count = model.config.num_local_experts ?? model.config.num_experts;
    assert.equal(entries.get(`${architecture}.expert_count`), count);
    assert.equal(entries.get(`${architecture}.attention.key_length`), HEAD);
    assert.equal(entries.get(`${architecture}.attention.value_length`), HEAD);
    const infos = new Map(tensorInfos.map(({ name, shape, dtype }) => [name, [dtype, ...shape.map(Number)]]));
    const expected = count === undefined ? [HIDDEN, INNER] : [HIDDEN, INNER, count];
    assert.deepEqual(infos.get(`blk.1.ffn_gate${count === undefined ? "" : "_exps"}.weight`), [8, ...expected]);
    if (count !== undefined) {
      assert.equal(entries.get(`${architecture}.expert_used_count`), 2);
      assert.deepEqual(infos.get("blk.1.ffn_gate_inp.weight"), [0, HIDDEN, count]);
      assert.deepEqual(infos.get("blk.1.ffn_down_exps.weight"), [8, INNER, HIDDEN, count]);
    }
    if (model.hasHeadNorms === true) assert.deepEqual(infos.get("blk.0.attn_q_norm.weight"), [0, HEAD]);
  });
}

function plan(model: Model, scheme: string, change: (entry: { name: string; dtype: Dtype; shape: Shape }) => unknown) {
  const entries = [...shapesOf(model)].map(([name, shape]) => ({ name, dtype: "F32" as Dtype, shape, ranges: [] }));
  const tensors = entries.filter((entry) => change(entry) !== false);
  const mix = MIXES.get(scheme);
  assert.ok(mix !== undefined);
  return planGgufModel({ tensors, config: model.config }, mix, NO_TOKENIZER, false);
}

function refuses(model: Model, where: ErrorPlace, change: Parameters<typeof plan>[2] = () => true): void {
  assertRefused(() => plan(model, "q8_0", change), { code: "QuantizeModelUnsupported", ...where });
}

test("an expert that is missing, of another type or beyond the count is refused by name", () => {
  const last = "model.layers.1.block_sparse_moe.experts.2.w3.weight";
  refuses(MIXTRAL, { tensor: last.replace("2.w3", "0.w3") }, ({ name }) => name !== last);
  refuses(MIXTRAL, { tensor: last }, (entry) => {
    if (entry.name === last) entry.dtype = "BF16";
  });
  const two = { ...MIXTRAL, config: { ...MIXTRAL.config, num_local_experts: 2 } };
  refuses(two, {}, (entry) => {
    if (entry.name.includes("experts.1.")) entry.name = entry.name.replace("experts.1.", "experts.2.");
  });
  refuses(
    MIXTRAL,
    { tensor: "blk.0.ffn_gate_inp.weight" },
    ({ name }) => !name.endsWith("0.block_sparse_moe.gate.weight"),
  );
});

test("a config that readers of the format would take for another is refused by field", () => {
  const without = (model: Model, field: string, value?: unknown): Model => ({
    ...model,
    config: { ...model.config, [field]: value },
  });
  refuses(without(QWEN3_MOE, "norm_topk_prob", false), { field: "norm_topk_prob", file: "config.json" });
  refuses(without(QWEN3_MOE, "norm_topk_prob"), { field: "norm_topk_prob" });
  refuses(without(QWEN3_MOE, "moe_intermediate_size"), { field: "moe_intermediate_size" });
  refuses(without(MIXTRAL, "num_local_experts"), { field: "num_local_experts" });
  refuses(without(MIXTRAL, "num_experts_per_tok"), { field: "num_experts_per_tok" });
  refuses(without(QWEN3, "model_type", "qwen9"), { field: "model_type" });
});

test("experts that transformers 5 counts under Mixtral's key are as many", () => {
  const { num_experts: count, ...config } = QWEN3_MOE.config;
  const own = { ...QWEN3_MOE, config: { ...config, num_local_experts: count } };
  assert.deepEqual(
    plan(own, "q8_0", () => true),
    plan(QWEN3_MOE, "q8_0", () => true),
  );
  refuses({ ...QWEN3_MOE, config }, { field: "num_experts" });
});

test("with eight experts attention has more bits, as llama-quantize gives it", () => {
  // Eight times as large: rows are whole blocks of 256.
  const sizes = {
    hidden_size: 8 * HIDDEN,
    intermediate_size: 8 * INNER,
    head_dim: 8 * HEAD,
    vocab_size: 8 * VOCABULARY,
  };
  const schemes = (scheme: string, count: number) => {
    const model = { ...MIXTRAL, config: { ...MIXTRAL.config, ...sizes, num_local_experts: count } };
    const { tensors } = plan(model, scheme, (entry) => {
      const isRouter = entry.name.includes("block_sparse_moe.gate");
      entry.shape = entry.shape.map((axis, at) => (isRouter && at === 0 ? axis : 8 * axis));
    });
    const of = (name: string) => tensors.find((each) => each.name === `blk.0.${name}.weight`)?.scheme;
    return ["attn_k", "attn_v", "attn_output", "attn_q", "ffn_gate_exps", "ffn_gate_inp"].map(of);
  };
  assert.deepEqual(schemes("q4_k_m", 8), ["q8_0", "q8_0", "q5_k", "q4_k", "q4_k", "f32"]);
  assert.deepEqual(schemes("q5_k_m", 8), ["q8_0", "q8_0", "q5_k", "q5_k", "q5_k", "f32"]);
  assert.deepEqual(schemes("q3_k_l", 8), ["q8_0", "q8_0", "q3_k", "q3_k", "q3_k", "f32"]);
  assert.deepEqual(schemes("q2_k", 8), ["q8_0", "q8_0", "q5_k", "q2_k", "q2_k", "f32"]);
  assert.deepEqual(schemes("q2_k", 4), ["q2_k", "q3_k", "q3_k", "q2_k", "q2_k", "f32"]);
});

test("yarn's factor and context are entries, and settings that no entry says are refused", () => {
  const scaled = (more: object): Model => ({
    ...QWEN3,
    config: {
      ...QWEN3.config,
      rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32, ...more },
    },
  });
  const { metadata } = plan(scaled({ beta_fast: 32, beta_slow: 1 }), "q8_0", () => true);
  assert.deepEqual(metadata.get("qwen3.rope.scaling.type"), { kind: "string", value: "yarn" });
  assert.deepEqual(metadata.get("qwen3.rope.scaling.factor"), { kind: "f32", value: 4 });
  assert.deepEqual(metadata.get("qwen3.rope.scaling.original_context_length"), { kind: "u32", value: 32 });
  const wrong = [
    { beta_fast: 16 },
    { attention_factor: 2 },
    { original_max_position_embeddings: undefined },
    { factor: 0 },
    { rope_type: "llama3" },
  ];
  for (const more of wrong) refuses(scaled(more), { field: "rope_scaling" });
});

test("a merge of models with experts makes the file in its own pass, of one shard or several", async () => {
  for (const [model, shardBytes, more] of [
    [QWEN3_MOE, 200_000, ""],
    [MIXTRAL, 1e9, ", imatrix: imatrix"],
  ] as const) {
    const yard = await newYard();
    for (const upload of ["a", "b"]) {
      const own = newStore();
      await putModel(own, model);
      for (const name of ["model.safetensors", "config.json"]) {
        await yard.create(`incoming/${upload}/1/${name}`, await readAll(own, name, 1e8));
      }
    }
    const values = Float32Array.from({ length: 3 * HIDDEN }, (_, at) => 1 + ((at * 7) % 13) ** 2);
    const matrix = imatrixOf({ "blk.0.ffn_gate_exps.weight": values });
    await writeBytes(yard, "imatrix", matrix);
    const both = "{ format: safetensors }, { format: compressed-tensors, scheme: nvfp4a16 }";
    const outputs = `[${both}, { format: gguf, scheme: q4_0, tokenizer: false${more} }]`;
    const openStore = openerOf(yard);
    const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) });
    const end = await run(yard, deps, recipe(outputs, "allow_unlisted: drop"), shardBytes);
    const names = end.manifest.files.map(({ name }) => name);
    const made = names.filter((name) => name.endsWith(".gguf"));
    assert.equal(made.length > 1, shardBytes < 1e9);

    // The published checkpoint, quantized by itself, has the same tensors.
    const [version, target] = [newStore(), newStore()];
    for (const name of names.filter((each) => !each.endsWith(".gguf"))) {
      await version.create(name, await readAll(yard, `${end.prefix}${name}`, 1e8));
    }
    await writeBytes(version, "imatrix", matrix);
    const imatrix = more === "" ? {} : { imatrix: { store: version.uri, key: "imatrix" } };
    await quantize(version, target, "q4_0", imatrix);
    const expected = await blocksOf(target, ["model.gguf"]);
    const found = await blocksOf(
      yard,
      made.map((name) => `${end.prefix}${name}`),
    );
    assert.deepEqual(new Map([...found].sort()), new Map([...expected].sort()));
    assert.ok([...found.keys()].some((name) => name.startsWith("blk.1.ffn_down_exps.weight")));

    // So has the folder, whose scheme measures two experts' parts together that the file has in two stacks.
    const folder = newStore();
    const input = { source: version.uri, target: folder.uri, scheme: "nvfp4a16" };
    await runStep(quantizeFolderStep, input, testDeps(openerOf(version, folder)));
    const parts = names.filter((name) => name.startsWith("nvfp4a16/") && name.endsWith(".safetensors"));
    assert.deepEqual(
      await partsOf(
        yard,
        parts.map((name) => `${end.prefix}${name}`),
      ),
      await partsOf(folder, ["model.safetensors"]),
    );
  }
});

/** Bytes of every tensor of safetensors files, by name. */
async function partsOf(store: ObjectStore, keys: readonly string[]): Promise<Map<string, Buffer>> {
  const found: [string, Buffer][] = [];
  for (const key of keys) {
    const file = await readAll(store, key, 1e8);
    const read = async (offset: number, bytes: number) => file.subarray(offset, offset + bytes);
    for (const { name, ranges } of (await readSafetensorsHeader(read, { name: key, bytes: file.length })).tensors) {
      const [{ offset, bytes } = { offset: 0, bytes: 0 }] = ranges;
      found.push([name, Buffer.from(file.subarray(offset, offset + bytes))]);
    }
  }
  return new Map(found.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Bytes of every tensor of some files, by name, type and shape. */
async function blocksOf(store: ObjectStore, keys: readonly string[]): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  for (const key of keys) {
    for (const { name, type, shape, offset, bytes } of (await openGguf(store, key)).header.tensors) {
      const into = new Uint8Array(bytes);
      await store.readInto(key, offset, into);
      found.set(`${name} ${type.name} ${shape}`, Buffer.from(into));
    }
  }
  return found;
}

test("experts that a file's order leaves apart are refused as outputs of a merge", () => {
  const mix = MIXES.get("q8_0");
  assert.ok(mix !== undefined);
  const tensors = [...shapesOf(MIXTRAL)].map(([name, shape]) => ({ name, dtype: "F32" as const, shape }));
  const parts = {
    name: "small",
    outputs: [{ mix, tokenizer: false, imatrix: undefined }],
    imatrices: new Map(),
    shards: [{ file: "model.safetensors", ...encodeSafetensorsHeader(tensors) }],
    sideFiles: [{ name: "config.json", from: "text" as const, text: JSON.stringify(MIXTRAL.config) }],
    models: [],
    notes: createNotes(),
  };
  assert.throws(() => planGgufOutputs(parts), {
    code: "QuantizeShapeUnsupported",
    found: "experts apart from each other",
  });
});

test("every expert of a stack is quantized with its own part of the importance matrix", async () => {
  const [source, file] = [newStore(), newStore()];
  await putModel(source, MIXTRAL);
  const name = "blk.0.ffn_gate_exps.weight";
  const values = Float32Array.from({ length: 3 * HIDDEN }, (_, at) => 1 + ((at * 7) % 13) ** 2);
  const matrix = imatrixOf({ [name]: values });
  await writeBytes(source, "imatrix", matrix);
  const imatrix = { store: source.uri, key: "imatrix" };
  await quantize(source, file, "q4_0", { imatrix });
  const { header } = await openGguf(file, "model.gguf");
  const stack = header.tensors.find((tensor) => tensor.name === name);
  assert.ok(stack !== undefined);
  const made = new Uint8Array(stack.bytes);
  await file.readInto("model.gguf", stack.offset, made);
  const weights = await bytesOf(source);
  const expected = [0, 1, 2].flatMap((expert) => {
    const own = weights.get(`model.layers.0.block_sparse_moe.experts.${expert}.w1.weight`)?.bytes;
    assert.ok(own !== undefined);
    const rows = new Float32Array(new Uint8Array(own).buffer);
    return Array.from({ length: INNER }, (_, row) => {
      const blocks = new Uint8Array((HIDDEN / 32) * 18);
      const importance = values.subarray(expert * HIDDEN, (expert + 1) * HIDDEN);
      BLOCK_SCHEMES.q4_0.quantize(rows.subarray(row * HIDDEN, (row + 1) * HIDDEN), blocks, importance);
      return Buffer.from(blocks);
    });
  });
  assert.deepEqual(Buffer.from(made), Buffer.concat(expected));
  const openStore = openerOf(source);
  const deps = { ...testDeps(openStore), measureSchemes: createMeasureSchemes(openStore) };
  const planned = await runStep(planBitsStep, { source: source.uri, budget: "6bpw", imatrix }, deps);
  assert.equal(planned.sensitivity, "importance");
  assert.ok(planned.tensors.some(({ tensor, relativeError }) => tensor === name && relativeError > 0));
});

test("sums of every expert over its own tokens are read, and a matrix of fewer experts is refused", async () => {
  const name = "blk.0.ffn_gate_exps.weight";
  const float = ggufTypeOf("f32");
  assert.ok(float !== undefined);
  const specs = [
    { name: `${name}.in_sum2`, shape: [3, HIDDEN], type: float },
    { name: `${name}.counts`, shape: [3, 1], type: float },
  ];
  const { header, tensors, fileBytes } = encodeGgufHeader(new Map(), specs);
  const file = new Uint8Array(fileBytes);
  file.set(header);
  const [sums, counts] = tensors;
  file.set(new Uint8Array(new Float32Array(3 * HIDDEN).fill(6).buffer), sums?.offset);
  file.set(new Uint8Array(Float32Array.of(2, 0, 3).buffer), counts?.offset);
  const read = async (offset: number, bytes: number) => file.slice(offset, offset + bytes);
  const values = (await readImatrix(read, { name: "imatrix", bytes: file.length })).get(name);
  assert.deepEqual([values?.[0], values?.[HIDDEN], values?.[2 * HIDDEN]], [3, 1, 2]);
  const [source, target] = [newStore(), newStore()];
  await putModel(source, MIXTRAL);
  const short = imatrixOf({ [name]: new Float32Array(2 * HIDDEN).fill(1) });
  await writeBytes(source, "imatrix", short);
  const refused = quantize(source, target, "q4_0", { imatrix: { store: source.uri, key: "imatrix" } });
  await assert.rejects(refused, refusal({ code: "ImatrixInvalid", tensor: name }));
});
