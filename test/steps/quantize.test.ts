// Quantizing a model of the llama family into a GGUF file, from a small model made here: names, types, the rows that
// move, what is refused, and that nothing is left behind then. Whole files of the reference are golden cases.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { GgufTensor } from "../../core/formats/gguf/gguf.ts";
import { ggufTypeOf } from "../../core/formats/gguf/type-codes.ts";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { MIXES } from "../../core/schemes/mixes.ts";
import { BLOCK_SCHEME_IDS } from "../../core/schemes/registry.ts";
import { openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { openGguf } from "../../steps/open-gguf.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { listKeys } from "../../steps/records.ts";
import { runStep } from "../../steps/step.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore, OpenStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { imatrixOf } from "./imatrix.ts";
import { type Change, putLlama, shapesOf } from "./small-llama.ts";

const COLUMNS = Array.from({ length: 256 }, (_, column) => (column < 64 ? 100 : 0.01));

/** Dependencies of the step; the calling thread quantizes. */
function depsOf(openStore: OpenStore) {
  return { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
}

function run(store: ObjectStore, scheme: string, more: Record<string, unknown> = {}) {
  const input = { source: store.uri, target: store.uri, name: "out.gguf", scheme, ...more };
  return runStep(quantizeStep, input, depsOf(openerOf(store)));
}

async function tensorsOf(store: ObjectStore): Promise<ReadonlyMap<string, GgufTensor>> {
  const { header } = await openGguf(store, "out.gguf");
  return new Map(header.tensors.map((tensor) => [tensor.name, tensor]));
}

async function bytesOf(store: ObjectStore, tensor: GgufTensor | undefined): Promise<Uint8Array> {
  assert.ok(tensor !== undefined);
  const bytes = new Uint8Array(tensor.bytes);
  await store.readInto("out.gguf", tensor.offset, bytes);
  return bytes;
}

async function floatsOf(store: ObjectStore, tensor: GgufTensor | undefined): Promise<Float32Array> {
  return new Float32Array((await bytesOf(store, tensor)).buffer);
}

async function refuses(change: Change, code: string, scheme = "q8_0", files: Record<string, string> = {}) {
  const store = newStore();
  await putLlama(store, change);
  for (const [name, text] of Object.entries(files)) await putText(store, name, text);
  await assert.rejects(run(store, scheme), { code });
  assert.equal(await store.head("out.gguf"), undefined, "nothing is published");
}

test("q4_k_m gives outputs, values and downs more bits, norms float32, and narrow rows another block", async () => {
  const store = newStore();
  await putLlama(store);
  const result = await run(store, "q4_k_m");
  const tensors = await tensorsOf(store);
  const typeOf = (name: string) => tensors.get(name)?.type.name;
  assert.equal(typeOf("output.weight"), "Q6_K");
  assert.equal(typeOf("token_embd.weight"), "Q4_K");
  assert.equal(typeOf("blk.0.attn_v.weight"), "Q4_K");
  assert.equal(typeOf("blk.1.attn_v.weight"), "Q6_K");
  // Rows of 288 are no multiple of 256: Q4_K gives way to Q5_0, Q6_K to Q8_0.
  assert.equal(typeOf("blk.0.ffn_down.weight"), "Q5_0");
  assert.equal(typeOf("blk.1.ffn_down.weight"), "Q8_0");
  assert.equal(typeOf("blk.0.attn_norm.weight"), "F32");
  assert.equal(tensors.size, 3 + 2 * 9);
  assert.equal(result.tensors, tensors.size);
  assert.equal(result.losses.length, tensors.size);
  assert.deepEqual(result.losses.find(({ tensor }) => tensor === "model.norm.weight")?.snr, null);
  assert.ok(result.losses.every(({ snr }) => snr === null || snr >= (result.worst?.snr ?? 0)));
  assert.ok(result.worst !== null && result.snr !== null && result.worst.snr <= result.snr && result.worst.snr > 15);
});

test("tensors outside the layers come first, then layer by layer in the order of their names", async () => {
  const store = newStore();
  await putLlama(store);
  await run(store, "q8_0");
  const names = [...(await tensorsOf(store)).keys()];
  assert.deepEqual(names.slice(0, 5), [
    "output.weight",
    "output_norm.weight",
    "token_embd.weight",
    "blk.0.attn_k.weight",
    "blk.0.attn_norm.weight",
  ]);
});

test("rows of queries and keys interleave their halves for llama and stay for qwen2", async () => {
  for (const [model_type, permutes] of [
    ["llama", true],
    ["qwen2", false],
  ] as const) {
    const store = newStore();
    await putLlama(store, { config: { model_type } });
    await run(store, "f32");
    const tensors = await tensorsOf(store);
    const seed = [...shapesOf(!permutes)].map(([name, shape]) => ({ name, dtype: "F32" as const, shape }));
    const order = encodeSafetensorsHeader(seed).tensors.findIndex(({ name }) =>
      name.endsWith("0.self_attn.k_proj.weight"),
    );
    const rows = await floatsOf(store, tensors.get("blk.0.attn_k.weight"));
    // Heads of 64 rows: row 64 + 2 * 5 + 1 comes from row 64 + 32 + 5.
    const from = permutes ? 101 : 75;
    const expected = Math.fround(Math.sin(order * 37 + from * 256 * 0.7) * 0.1);
    assert.equal(rows[75 * 256], expected, model_type);
  }
});

test("metadata says what a loader needs, as the config has it", async () => {
  const store = newStore();
  await putLlama(store, { config: { rope_theta: 500000, rope_scaling: { type: "linear", factor: 4 } } });
  await run(store, "q6_k");
  const { metadata } = (await openGguf(store, "out.gguf")).header;
  const stated = (key: string) => {
    const found = metadata.get(key);
    return found !== undefined && "value" in found ? found.value : undefined;
  };
  assert.equal(stated("general.architecture"), "llama");
  assert.equal(stated("general.file_type"), 18);
  assert.equal(stated("llama.attention.head_count_kv"), 2);
  assert.equal(stated("llama.rope.dimension_count"), 64);
  assert.equal(stated("llama.rope.freq_base"), 500000);
  assert.equal(stated("llama.rope.scaling.factor"), 4);
  assert.equal(stated("llama.attention.layer_norm_rms_epsilon"), Math.fround(1e-6));
  assert.equal(stated("tokenizer.ggml.model"), "no_vocab");
});

test("the scaling of Llama 3 is a tensor before all others, which reads back as the config had it", async () => {
  const scaling = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  };
  const [plain, scaled] = [newStore(), newStore()];
  await putLlama(plain, { config: { rope_theta: 500000 } });
  await putLlama(scaled, { config: { rope_parameters: { rope_theta: 500000, ...scaling } } });
  for (const store of [plain, scaled]) await run(store, "q8_0");
  const [own, others] = [await tensorsOf(scaled), await tensorsOf(plain)];
  const [first] = own.values();
  assert.deepEqual([first?.name, first?.shape, first?.type.name], ["rope_freqs.weight", [32], "F32"]);
  assert.equal(own.size, others.size + 1);
  for (const [name, tensor] of others) {
    assert.deepEqual(await bytesOf(scaled, own.get(name)), await bytesOf(plain, tensor), name);
  }
  const { checkpoint, warnings } = await openCheckpointFile(scaled, "out.gguf");
  const { rope_scaling: readBack, rope_theta: theta } = checkpoint.config ?? {};
  assert.deepEqual([structuredClone(readBack), theta], [scaling, 500000]);
  assert.deepEqual(warnings, []);
  assert.equal(checkpoint.tensors.length, (await openCheckpointFile(plain, "out.gguf")).checkpoint.tensors.length);

  await run(scaled, "f16", { name: "set.gguf", split: { maxTensors: 9 } });
  const names: string[] = [];
  for await (const { key } of scaled.list("set-")) names.push(key);
  const counts = await Promise.all(
    names.sort().map(async (name) => (await openGguf(scaled, name)).header.tensors.length),
  );
  assert.equal(counts[0], 10);
});

test("a tied model has no output matrix, and its embedding gets the output's bits", async () => {
  const store = newStore();
  await putLlama(store, { config: { tie_word_embeddings: true } });
  await run(store, "q4_k_s");
  const tensors = await tensorsOf(store);
  assert.equal(tensors.get("output.weight"), undefined);
  assert.equal(tensors.get("token_embd.weight")?.type.name, "Q6_K");
});

const TOKENIZER = {
  added_tokens: [
    { id: 4, content: "<s>", special: true },
    { id: 3, content: "<tool>", special: false },
  ],
  pre_tokenizer: { type: "ByteLevel" },
  model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: [["a", "b"]] },
};

test("a byte-level tokenizer is written with its merges, kinds of tokens and unused rows", async () => {
  const store = newStore();
  await putLlama(store);
  await putText(store, "tokenizer.json", JSON.stringify(TOKENIZER));
  await putText(store, "tokenizer_config.json", JSON.stringify({ add_bos_token: true, chat_template: "{{x}}" }));
  assert.equal((await run(store, "q8_0")).hasTokenizer, true);
  const { metadata } = (await openGguf(store, "out.gguf")).header;
  const valuesOf = (key: string) => {
    const found = metadata.get(`tokenizer.${key}`);
    if (found === undefined) return undefined;
    return found.kind === "array"
      ? found.values.map((item) => ("value" in item ? item.value : undefined))
      : found.value;
  };
  assert.deepEqual(valuesOf("ggml.tokens"), ["a", "b", "ab", "<tool>", "<s>", "[PAD5]"]);
  assert.deepEqual(valuesOf("ggml.token_type"), [1, 1, 1, 4, 3, 5]);
  assert.deepEqual(valuesOf("ggml.merges"), ["a b"]);
  assert.equal(valuesOf("ggml.pre"), "gpt-2");
  assert.equal(valuesOf("ggml.bos_token_id"), 0);
  assert.equal(valuesOf("ggml.eos_token_id"), 1);
  assert.equal(valuesOf("ggml.add_bos_token"), true);
  assert.equal(valuesOf("chat_template"), "{{x}}");
});

test("a tokenizer that has no name in the format is refused, and may be left out", async () => {
  const other = JSON.stringify({ ...TOKENIZER, pre_tokenizer: { type: "ByteLevel", use_regex: false } });
  await refuses({}, "QuantizeTokenizerUnsupported", "q8_0", { "tokenizer.json": other });
  const unigram = JSON.stringify({ ...TOKENIZER, model: { ...TOKENIZER.model, type: "WordPiece" } });
  await refuses({}, "QuantizeTokenizerUnsupported", "q8_0", { "tokenizer.json": unigram });
  await refuses({ config: { vocab_size: 6 } }, "QuantizeTokenizerUnsupported", "q8_0", {
    "tokenizer.json": JSON.stringify({ ...TOKENIZER, added_tokens: [{ id: 6, content: "<x>" }] }),
  });
  await refuses({}, "QuantizeTokenizerUnsupported", "q8_0", { "tokenizer.model": "protobuf" });
  const store = newStore();
  await putLlama(store);
  await putText(store, "tokenizer.json", other);
  assert.equal((await run(store, "q8_0", { tokenizer: false })).hasTokenizer, false);
});

test("what a GGUF file of the family cannot hold is refused before anything is written", async () => {
  const q = "model.layers.0.self_attn.q_proj.weight";
  await refuses({ config: { model_type: "mamba" } }, "QuantizeModelUnsupported");
  await refuses({ config: { hidden_size: undefined } }, "QuantizeModelUnsupported");
  await refuses({ config: { rope_scaling: { rope_type: "yarn" } } }, "QuantizeModelUnsupported");
  await refuses({ config: { num_attention_heads: 6 } }, "QuantizeModelUnsupported");
  await refuses({ without: "model.norm.weight" }, "QuantizeModelUnsupported");
  await refuses({ shapes: { [q]: [256, 128] } }, "QuantizeModelUnsupported");
  await refuses({ shapes: { "model.layers.0.mlp.router.weight": [8, 256] } }, "QuantizeModelUnsupported");
  await refuses({ config: { num_hidden_layers: 1 } }, "QuantizeModelUnsupported");
});

test("NaN, infinity and scales that overflow are refused with the tensor, and no file is left", async () => {
  const name = "model.layers.1.mlp.up_proj.weight";
  await refuses({ first: { [name]: Number.NaN } }, "QuantizeNotFinite");
  await refuses({ first: { [name]: Number.NEGATIVE_INFINITY } }, "QuantizeNotFinite", "f32");
  await refuses({ first: { [name]: 1e10 } }, "QuantizeNotFinite", "q8_0");
  await refuses({ first: { [name]: 1e6 } }, "QuantizeNotFinite", "f16");
});

test("an importance matrix of either form moves the loss to the columns that matter less", async () => {
  const name = "blk.0.attn_output.weight";
  const { encodeGgufHeader } = await import("../../core/formats/gguf/write.ts");
  const float = ggufTypeOf("f32");
  assert.ok(float !== undefined);
  const specs = [
    { name: `${name}.in_sum2`, shape: [1, 256], type: float },
    { name: `${name}.counts`, shape: [1, 1], type: float },
  ];
  const { header, tensors, fileBytes } = encodeGgufHeader(new Map(), specs);
  const file = new Uint8Array(fileBytes);
  file.set(header);
  file.set(new Uint8Array(Float32Array.from(COLUMNS, (value) => 4 * value).buffer), tensors[0]?.offset);
  file.set(new Uint8Array(Float32Array.of(4).buffer), tensors[1]?.offset);
  const outputs: Buffer[] = [];
  for (const matrix of [undefined, imatrixOf({ [name]: COLUMNS }), file]) {
    const store = newStore();
    await putLlama(store);
    if (matrix !== undefined) await writeBytes(store, "imatrix", matrix);
    await run(store, "q4_k_s", matrix === undefined ? {} : { imatrix: { store: store.uri, key: "imatrix" } });
    const tensor = (await tensorsOf(store)).get(name);
    outputs.push(Buffer.from((await floatsOf(store, tensor)).buffer));
  }
  const [plain, older, newer] = outputs;
  assert.ok(plain !== undefined && older !== undefined && newer !== undefined);
  assert.notDeepEqual(plain, older);
  assert.deepEqual(older, newer);
});

test("a matrix of another model, with other values or cut short is refused", async () => {
  const name = "blk.0.attn_q.weight";
  const whole = imatrixOf({ [name]: COLUMNS });
  const wrong: readonly Uint8Array[] = [
    imatrixOf({ "blk.9.attn_q.weight": COLUMNS }),
    imatrixOf({ [name]: COLUMNS.slice(1) }),
    imatrixOf({ [name]: COLUMNS.map(() => -1) }),
    imatrixOf({ [name]: COLUMNS.map(() => Number.NaN) }),
    whole.subarray(0, whole.length - 1),
    whole.subarray(0, 2),
    new Uint8Array(64),
  ];
  const store = newStore();
  await putLlama(store);
  for (const matrix of wrong) {
    await store.delete("imatrix");
    await writeBytes(store, "imatrix", matrix);
    await assert.rejects(run(store, "q4_k_s", { imatrix: { store: store.uri, key: "imatrix" } }), {
      code: "ImatrixInvalid",
    });
    assert.equal(await store.head("out.gguf"), undefined);
  }
});

test("a file that is there already is not replaced", async () => {
  const store = newStore();
  await putLlama(store);
  await putText(store, "out.gguf", "mine");
  await assert.rejects(run(store, "q8_0"), { code: "YardTargetOccupied" });
});

test("of a set of files none is left when one of them fails, and none is written over another", async () => {
  const store = newStore();
  await putLlama(store, { first: { "model.layers.1.mlp.up_proj.weight": Number.NaN } });
  const before = await listKeys(store, "");
  await assert.rejects(run(store, "q8_0", { split: { maxTensors: 5 } }), {
    code: "QuantizeNotFinite",
  });
  assert.deepEqual(await listKeys(store, ""), before);
  await putText(store, "out-00003-of-00005.gguf", "mine");
  await assert.rejects(
    run(store, "q8_0", { split: { maxTensors: 5 } }),
    refusal({ code: "YardTargetOccupied", file: "out-00003-of-00005.gguf" }),
  );
  assert.equal((await listKeys(store, "")).length, before.length + 1);
});

test("a set of files has the losses of the one file, and a bound that is not reached makes one file", async () => {
  const store = newStore();
  await putLlama(store);
  const [whole, parts] = [await run(store, "q4_0"), await run(store, "q4_0", { split: { maxTensors: 1 } })];
  assert.deepEqual([whole.files.length, parts.files.length], [1, 21]);
  assert.deepEqual([parts.losses, parts.snr, parts.schemes], [whole.losses, whole.snr, whole.schemes]);
  await store.delete("out.gguf");
  assert.deepEqual((await run(store, "q4_0", { split: { maxBytes: 1e9 } })).files, ["out.gguf"]);
});

test("every scheme can be asked for, by itself or as the base of a mix", () => {
  const bases = new Set([...MIXES.values()].map(({ base }) => base));
  assert.deepEqual(
    BLOCK_SCHEME_IDS.filter((id) => !bases.has(id)),
    [],
  );
});

test("every mix writes a file that reads back", async () => {
  const store = newStore();
  await putLlama(store);
  for (const id of MIXES.keys()) {
    await store.delete("out.gguf");
    assert.equal((await run(store, id)).tensors, (await tensorsOf(store)).size, id);
  }
});
