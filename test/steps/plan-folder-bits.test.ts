// Planning bits for a folder that vLLM loads, and quantizing by the plan: the files are within every budget, modules
// that servers fuse have one scheme, every module has the bytes that its scheme gives it alone, and plans that cannot
// be followed are refused. Method: the small trained model of the examples, and models made here.
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { renderBitPlan } from "../../core/bit-plan/document.ts";
import { encodeSafetensorsFile, readSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { planBitsStep } from "../../steps/quantize/plan-bits.ts";
import { readBitPlan } from "../../steps/quantize/read-bit-plan.ts";
import { runStep } from "../../steps/step.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore, OpenStore } from "../../stores/store.ts";
import { createMeasureSchemes } from "../../workers/measure-executor.ts";
import { gaussians } from "../core/schemes/gaussians.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { imatrixOf } from "./imatrix.ts";

const FOLDER = path.resolve(import.meta.dirname, "../../examples/models/base");
const BASE = pathToFileURL(FOLDER).href;

function openBase(...stores: readonly ObjectStore[]): OpenStore {
  const open = openerOf(...stores);
  return (uri) =>
    stores.some((store) => store.uri === uri) ? open(uri) : createDirectoryStore(FOLDER, { durable: false });
}

function plan(budget: string, more: Record<string, unknown> = {}, openStore: OpenStore = openBase()) {
  const deps = { ...testDeps(openStore), measureSchemes: createMeasureSchemes(openStore) };
  return runStep(planBitsStep, { source: BASE, format: "compressed-tensors", budget, ...more }, deps);
}

type Plan = Awaited<ReturnType<typeof plan>>;

function schemesOf({ tensors }: Pick<Plan, "tensors">): Record<string, string> {
  return Object.fromEntries(tensors.map(({ tensor, scheme }) => [tensor, scheme]));
}

async function quantize(scheme: string | Readonly<Record<string, string>>, more: Record<string, unknown> = {}) {
  const target = newStore();
  const input = { source: BASE, target: target.uri, scheme, ...more };
  const result = await runStep(quantizeFolderStep, input, testDeps(openBase(target)));
  return { result, target };
}

/** Bytes of every tensor of the folder, and of the files that hold them. */
async function readFolder(store: ObjectStore) {
  const tensors = new Map<string, string>();
  let [fileBytes, dataBytes] = [0, 0];
  for await (const { key, bytes } of store.list("")) {
    if (!key.endsWith(".safetensors")) continue;
    fileBytes += bytes;
    const file = await readAll(store, key, 1e8);
    const read = async (offset: number, length: number) => file.subarray(offset, offset + length);
    for (const entry of (await readSafetensorsHeader(read, { name: key, bytes })).tensors) {
      const [range] = entry.ranges;
      assert.ok(range !== undefined);
      dataBytes += range.bytes;
      tensors.set(entry.name, Buffer.from(file.subarray(range.offset, range.offset + range.bytes)).toString("base64"));
    }
  }
  return { tensors, fileBytes, dataBytes };
}

test("tensors are within every budget of bits, and files within every budget of bytes", async () => {
  for (const [budget, bytesMax, shardBytes] of [
    ["5.2bpw", undefined, 1e9],
    ["6.017bpw", undefined, 1e9],
    ["600000B", 600_000, 1e9],
    ["700000B", 700_000, 100_000],
    ["900.5kB", 900_500, 1e9],
    ["1.1MiB", 1_153_433, 300_000],
  ] as const) {
    const planned = await plan(budget, { shardBytes });
    const { target, result } = await quantize(schemesOf(planned), { shardBytes });
    const { dataBytes, fileBytes } = await readFolder(target);
    assert.equal(dataBytes, planned.bytes, budget);
    assert.equal(fileBytes, result.bytes);
    assert.ok(planned.isOptimal, budget);
    const most = bytesMax ?? Math.floor((Number.parseFloat(budget) * result.elements) / 8);
    const used = bytesMax === undefined ? dataBytes : fileBytes;
    assert.ok(used <= most && used > 0.97 * most, `${budget}: ${used} of ${most}`);
  }
});

test("every module of a plan has the bytes of its scheme alone, or those of the model", async () => {
  const candidates = ["int4_group64", "int8_channel", "fp8_channel", "nvfp4a16", "unquantized"];
  const planned = await plan("8bpw", { candidates });
  const schemes = schemesOf(planned);
  schemes["model.layers.0.self_attn.o_proj.weight"] = "nvfp4a16";
  schemes["model.layers.3.mlp.down_proj.weight"] = "int4_group64";
  for (const name of ["gate", "up"]) schemes[`model.layers.1.mlp.${name}_proj.weight`] = "fp8_tensor";
  const { target, result } = await quantize(schemes);
  const { tensors } = await readFolder(target);
  const source = await readFolder(createDirectoryStore(FOLDER, { durable: false }));
  const used = new Set(Object.values(schemes).filter((scheme) => scheme !== "unquantized"));
  assert.ok(used.size >= 4, [...used].join());
  const alone = new Map<string, ReadonlyMap<string, string>>();
  for (const scheme of used) alone.set(scheme, (await readFolder((await quantize(scheme)).target)).tensors);
  let parts = 0;
  for (const [name, bytes] of tensors) {
    const weight = `${name.slice(0, name.lastIndexOf("."))}.weight`;
    const expected = alone.get(schemes[weight] ?? "")?.get(name) ?? source.tensors.get(name);
    assert.equal(bytes, expected, name);
    if (alone.has(schemes[weight] ?? "")) parts++;
  }
  assert.ok(parts > result.quantized);
  const config = JSON.parse(new TextDecoder().decode(await readAll(target, "config.json", 1e6))).quantization_config;
  assert.equal(config.format, "mixed-precision");
  const targets = Object.values<{ targets: string[]; format: string }>(config.config_groups).flatMap((group) => {
    assert.notEqual(group.format, "mixed-precision");
    return group.targets;
  });
  const listed = [...targets, ...config.ignore.filter((module: string) => module !== "lm_head")];
  assert.deepEqual(listed.map((module) => `${module}.weight`).sort(), Object.keys(schemes).sort());
});

test("modules that servers fuse have one scheme, and a plan loses less than any scheme of its size alone", async () => {
  const uniform = await plan("9bpw", { candidates: ["int4_group32"] });
  const planned = await plan(`${(uniform.bits + 1e-6).toFixed(6)}bpw`);
  assert.ok(planned.bytes <= uniform.bytes && planned.loss < uniform.loss, `${planned.loss} ${uniform.loss}`);
  const schemes = schemesOf(planned);
  for (const layer of [0, 1, 2, 3].map((index) => `model.layers.${index}`)) {
    for (const fused of [
      ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
      ["mlp.gate_proj", "mlp.up_proj"],
    ]) {
      assert.equal(new Set(fused.map((name) => schemes[`${layer}.${name}.weight`])).size, 1, layer);
    }
  }
  for (const [index, point] of planned.frontier.entries()) {
    const previous = planned.frontier[index - 1];
    assert.ok(previous === undefined || (point.bytes > previous.bytes && point.loss < previous.loss));
  }
});

/** A model of these matrices, in F32; one of a row is a vector. */
async function putModel(matrices: ReadonlyMap<string, Float32Array>, columns: number, config: object = {}) {
  const store = newStore();
  const specs = [...matrices].map(([name, { length }]) => {
    return { name, dtype: "F32" as const, shape: length === columns ? [columns] : [length / columns, columns] };
  });
  const file = encodeSafetensorsFile(specs, ({ name }) => matrices.get(name));
  await writeBytes(store, "model.safetensors", file);
  await putText(store, "config.json", JSON.stringify({ model_type: "llama", vocab_size: 6, ...config }));
  return store;
}

test("of FP8 and INT8 each matrix gets the one that loses less: FP8 where rows have outliers", async () => {
  const [even, tailed] = [gaussians(64 * 128, 1), gaussians(64 * 128, 2)];
  for (let row = 0; row < 64; row++) tailed[row * 128] = 60;
  const [o, down] = ["model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.down_proj.weight"];
  const store = await putModel(
    new Map([
      [o, even],
      [down, tailed],
    ]),
    128,
  );
  const candidates = ["fp8_dynamic", "int8_dynamic"];
  const planned = await plan("8.5bpw", { source: store.uri, candidates, sensitivity: "relative" }, openBase(store));
  assert.deepEqual(schemesOf(planned), { [o]: "int8_dynamic", [down]: "fp8_dynamic" });
});

const EXPERTS = "model.layers.0.block_sparse_moe.experts";

test("all experts of a layer have one scheme, and an importance matrix weighs each by its own part", async () => {
  const names = [0, 1, 2].flatMap((expert) => ["w1", "w2", "w3"].map((part) => `${EXPERTS}.${expert}.${part}.weight`));
  const attention = ["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => `model.layers.0.self_attn.${name}.weight`);
  const router = "model.layers.0.block_sparse_moe.gate.weight";
  const norms = ["model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"];
  const matrices = new Map([...names, ...attention].map((name, seed) => [name, gaussians(128 * 128, seed)]));
  for (const name of ["model.embed_tokens.weight", "lm_head.weight"]) matrices.set(name, gaussians(6 * 128, 50));
  matrices.set(router, gaussians(3 * 128, 60));
  for (const name of norms) matrices.set(`${name}.weight`, gaussians(128, 70));
  const sizes = { hidden_size: 128, intermediate_size: 128, num_hidden_layers: 1, num_attention_heads: 2 };
  const others = { max_position_embeddings: 16, rms_norm_eps: 1e-5, num_local_experts: 3, num_experts_per_tok: 2 };
  const store = await putModel(matrices, 128, { ...sizes, ...others, model_type: "mixtral" });
  const importance = new Float32Array(3 * 128).fill(1);
  // The second expert never sees the first half of its inputs.
  importance.fill(0, 128, 192);
  const stacks = { "blk.0.ffn_gate_exps.weight": importance, "blk.0.attn_q.weight": new Float32Array(128).fill(2) };
  const matrix = imatrixOf(stacks);
  await writeBytes(store, "imatrix", matrix);
  const asked = {
    source: store.uri,
    imatrix: { store: store.uri, key: "imatrix" },
    candidates: ["int4_group128", "int8_channel"],
  };
  const planned = await plan("7bpw", asked, openBase(store));
  assert.equal(planned.sensitivity, "importance");
  const schemes = schemesOf(planned);
  assert.equal(new Set(names.map((name) => schemes[name])).size, 1);
  assert.equal(router in schemes, false);
  const short = imatrixOf({ "blk.0.ffn_gate_exps.weight": importance.subarray(128) });
  await store.delete("imatrix");
  await writeBytes(store, "imatrix", short);
  await assert.rejects(plan("7bpw", asked, openBase(store)), { code: "ImatrixInvalid" });
});

test("a plan edited by hand is followed, and one that cannot be is refused by name", async () => {
  const planned = await plan("6bpw");
  const store = newStore();
  const o = "model.layers.3.self_attn.o_proj.weight";
  const text = renderBitPlan("a plan", planned.tensors).replace(new RegExp(`("${o}"): \\w+`), "$1: unquantized");
  await putText(store, "plan.yaml", text);
  const edited = await readBitPlan(store, "plan.yaml", new AbortController().signal);
  const { result } = await quantize(edited);
  assert.equal(result.quantized, 27);
  assert.ok(result.ignore.includes("model.layers.3.self_attn.o_proj"));
  const { [o]: _, ...without } = edited;
  const q = "model.layers.2.self_attn.q_proj.weight";
  for (const [schemes, tensor] of [
    [without, o],
    [{ ...edited, "model.layers.9.self_attn.o_proj.weight": "int8_channel" }, "model.layers.9.self_attn.o_proj.weight"],
    [{ ...edited, [o]: "q4_k" }, o],
    [{ ...edited, [o]: "gptq4_group128" }, o],
    [{ ...edited, [q]: "fp8_block" }, q],
  ] as const) {
    const target = newStore();
    const input = { source: BASE, target: target.uri, scheme: schemes };
    const refused = runStep(quantizeFolderStep, input, testDeps(openBase(target)));
    await assert.rejects(refused, refusal({ code: "BitPlanInvalid", tensor }));
    assert.equal(await target.head("config.json"), undefined);
  }
});

test("all modules left as they are make the model itself, and ignored ones are in no plan", async () => {
  const planned = await plan("16bpw", { candidates: ["unquantized"] });
  const { target, result } = await quantize(schemesOf(planned));
  assert.equal(result.quantized, 0);
  assert.deepEqual(
    (await readFolder(target)).tensors,
    (await readFolder(createDirectoryStore(FOLDER, { durable: false }))).tensors,
  );
  assert.doesNotMatch(new TextDecoder().decode(await readAll(target, "config.json", 1e6)), /quantization_config/);
  const fewer = await plan("12bpw", { ignore: ["re:.*self_attn"] });
  assert.ok(fewer.tensors.length > 0 && fewer.tensors.every(({ tensor }) => !tensor.includes("self_attn")));
});

test("budgets and candidates that cannot be are refused", async () => {
  await assert.rejects(plan("4bpw"), refusal({ code: "BitPlanInvalid", field: "budget" }));
  await assert.rejects(plan("500kB"), refusal({ code: "BitPlanInvalid", field: "budget" }));
  await assert.rejects(
    plan("8bpw", { candidates: ["q8_0"] }),
    refusal({ code: "BitPlanInvalid", field: "candidates" }),
  );
  const store = await putModel(new Map([["model.layers.0.mlp.down_proj.weight", gaussians(6 * 96, 1)]]), 96);
  const asked = { source: store.uri, candidates: ["int4_group128"] };
  const tensor = "model.layers.0.mlp.down_proj.weight";
  await assert.rejects(plan("8bpw", asked, openBase(store)), refusal({ code: "BitPlanInvalid", tensor }));
});
