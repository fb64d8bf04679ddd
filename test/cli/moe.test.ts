// Mixtures of experts against mergekit-moe: the files under test/golden/moe are what it made.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { main } from "../../cli/main.ts";
import { createRecorder } from "./recorder.ts";

const GOLDEN = path.resolve(import.meta.dirname, "../golden/moe");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-moe-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

type Tensor = { readonly dtype: string; readonly shape: readonly number[]; readonly bytes: Buffer };

/** Tensors of a safetensors file, read without any of our own code. */
function readTensors(file: string): Map<string, Tensor> {
  const bytes = readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const { __metadata__: _, ...header } = JSON.parse(bytes.toString("utf8", 8, 8 + headerBytes));
  return new Map(
    Object.entries<{ dtype: string; shape: number[]; data_offsets: [number, number] }>(header).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [start, end],
        },
      ]) => [name, { dtype, shape, bytes: bytes.subarray(8 + headerBytes + start, 8 + headerBytes + end) }],
    ),
  );
}

/** The reference writes Mixtral and Qwen3 as transformers 5 holds them: a layer's experts as one tensor. */
function unfuse(tensors: ReadonlyMap<string, Tensor>): ReadonlyMap<string, Tensor> {
  const cut = ({ dtype, shape, bytes }: Tensor, parts: number): Tensor[] =>
    Array.from({ length: parts }, (_, part) => {
      const size = bytes.length / parts;
      return { dtype, shape, bytes: bytes.subarray(part * size, (part + 1) * size) };
    });
  return new Map(
    [...tensors].flatMap(([name, tensor]) => {
      const [, prefix, part] = /^(.*experts\.)(gate_up_proj|down_proj)$/.exec(name) ?? [];
      if (prefix === undefined || part === undefined) return [[name, tensor] as const];
      return cut(tensor, tensor.shape[0] ?? 0).flatMap((expert, index) => {
        const [gate = expert, up = expert] = cut(expert, 2);
        const parts = part === "down_proj" ? { down_proj: expert } : { gate_proj: gate, up_proj: up };
        return Object.entries(parts).map(([own, value]) => [`${prefix}${index}.${own}.weight`, value] as const);
      });
    }),
  );
}

/** Our names of Mixtral are those of its own checkpoints. */
const MIXTRAL_PARTS: Readonly<Record<string, string>> = { w1: "gate_proj", w2: "down_proj", w3: "up_proj" };
const commonName = (name: string) =>
  name
    .replace(".block_sparse_moe.", ".mlp.")
    .replace(/\.(w[123])\.weight$/, (_, part) => `.${MIXTRAL_PARTS[part]}.weight`);

async function merge(name: string, text: string, ...more: readonly string[]) {
  const file = path.join(scratch, `${name}.yaml`);
  writeFileSync(file, text);
  const out = path.join(scratch, name);
  const terminal = createRecorder({ cwd: GOLDEN });
  assert.equal(await main(["merge", file, "--out", out, "--json", ...more], terminal), 0, terminal.err());
  return { out, result: JSON.parse(terminal.out()) };
}

const CASES = readdirSync(GOLDEN).flatMap((name) => (name.endsWith(".yaml") ? [path.basename(name, ".yaml")] : []));
const isRouter = (name: string) => /gate\.weight$/.test(name);

for (const name of CASES) {
  test(`${name}: the experts that mergekit-moe makes, bit for bit, the rest of the base, its config`, async () => {
    const { out } = await merge(name, readFileSync(path.join(GOLDEN, `${name}.yaml`), "utf8"));
    const made = readTensors(path.join(out, "model.safetensors"));
    const ours = new Map([...made].map(([own, tensor]) => [commonName(own), tensor]));
    const reference = JSON.parse(readFileSync(path.join(GOLDEN, `${name}.json`), "utf8"));
    const theirs = unfuse(readTensors(path.join(GOLDEN, `${name}.safetensors`)));
    const kept = reference.tensors.filter((own: string) => !/\.mlp\.|\.bias$/.test(own));
    assert.deepEqual([...ours.keys()].sort(), [...kept, ...theirs.keys()].sort());
    for (const [own, expected] of theirs) {
      const found = ours.get(own);
      assert.equal(found?.dtype, expected.dtype, own);
      if (isRouter(own)) checkNear(found, expected, own);
      else assert.ok(found.bytes.equals(expected.bytes), own);
    }
    checkConfig(JSON.parse(readFileSync(path.join(out, "config.json"), "utf8")), reference.config);
  });
}

/** Equal but for what sums in another order round to: a unit in the last place of the dtype. */
function checkNear(ours: Tensor, theirs: Tensor, name: string): void {
  const [found, expected] = [valuesOf(ours), valuesOf(theirs)];
  const unit = { BF16: 2 ** -8, F16: 2 ** -11, F32: 2 ** -22 }[ours.dtype] ?? 0;
  const wrong = expected.findIndex(
    (value, index) => Math.abs(value - (found[index] ?? 0)) > unit * Math.abs(value) + 1e-7,
  );
  assert.equal(wrong, -1, `${name}: ${found[wrong]} is not ${expected[wrong]}`);
}

/** Keys by which transformers says what any config means that does not have them, or that it adds to every one. */
const DEFAULTS = new RegExp(
  "^(router_|output_)|^(return_dict|id2label|label2id|problem_type|is_encoder_decoder|chunk_size_feed_forward|" +
    "mlp_only_layers|max_window_layers|qkv_bias|layer_types|_name_or_path|dtype|torch_dtype)$",
);

function checkConfig(ours: Record<string, unknown>, theirs: Record<string, unknown>): void {
  assert.equal(ours.dtype, theirs.dtype ?? theirs.torch_dtype);
  for (const [key, value] of Object.entries(theirs)) {
    // transformers 5 calls the experts of Qwen3-MoE by another name than its own first version; it reads both.
    const own = key === "num_local_experts" && theirs.model_type === "qwen3_moe" ? "num_experts" : key;
    if (!DEFAULTS.test(key)) assert.deepEqual(ours[own], value, key);
  }
}

type HiddenCase = { recipe: string; gate_mode: string; gates: Record<string, number[]> };
const HIDDEN: readonly HiddenCase[] = JSON.parse(readFileSync(path.join(GOLDEN, "hidden.json"), "utf8"));

for (const { recipe, gate_mode: mode, gates } of HIDDEN) {
  test(`${recipe} with ${mode}: gates from the hidden states that mergekit-moe's model has`, async () => {
    const text = readFileSync(path.join(GOLDEN, `${recipe}.yaml`), "utf8").replace(/^dtype: .*\n/m, "");
    const { out } = await merge(`${recipe}-${mode}`, `${text.replace("cheap_embed", mode)}dtype: float32\n`);
    const made = readTensors(path.join(out, "model.safetensors"));
    const ours = new Map([...made].map(([name, tensor]) => [commonName(name), tensor]));
    assert.equal(Object.keys(gates).length, [...ours.keys()].filter(isRouter).length);
    for (const [name, expected] of Object.entries(gates)) {
      const found = ours.get(name);
      assert.ok(found?.dtype === "F32" && expected.length * 4 === found.bytes.length, name);
      valuesOf(found).forEach((value, index) => {
        assert.ok(Math.abs(value - (expected[index] ?? 0)) < 2e-6, `${name}: ${value} is not ${expected[index]}`);
      });
    }
  });
}

test("a pipeline in a yard makes what a merge makes, gates from hidden states in a stage of their own", async () => {
  const recipe = readFileSync(path.join(GOLDEN, "qwen2.yaml"), "utf8").replace("cheap_embed", "hidden");
  const yard = path.join(scratch, "yard");
  const file = path.join(scratch, "pipeline.yaml");
  writeFileSync(file, `name: mixture\nmerge:\n${recipe.replaceAll(/^(?=.)/gm, "  ")}publish: {model: mixture}\n`);
  const terminal = createRecorder({ cwd: GOLDEN });
  assert.equal(await main(["init", yard], terminal), 0, terminal.err());
  assert.equal(await main(["run", file, "--yard", yard], terminal), 0, terminal.err());
  const [version = ""] = readdirSync(path.join(yard, "artifacts/mixture"));
  const { out } = await merge("mixture", readFileSync(file, "utf8"));
  const folders = [path.join(yard, "artifacts/mixture", version), out];
  const [ran, merged] = folders.map((folder) => readFileSync(path.join(folder, "model.safetensors")));
  assert.ok(ran !== undefined && merged?.equals(ran));
});

test("a weight of the base that is no number fails the pass over it, although no expert has it", async () => {
  const models = path.join(scratch, "broken");
  cpSync(path.join(GOLDEN, "models"), models, { recursive: true });
  const file = path.join(models, "qwen3-base/model.safetensors");
  const weight = readTensors(file).get("model.layers.0.mlp.up_proj.weight")?.bytes ?? Buffer.of();
  const whole = readFileSync(file);
  const at = whole.indexOf(weight);
  whole.writeUInt16LE(0x7fc0, at + 10);
  writeFileSync(file, whole);
  const recipe = path.join(scratch, "broken.yaml");
  writeFileSync(recipe, readFileSync(path.join(GOLDEN, "qwen3.yaml"), "utf8").replace("cheap_embed", "hidden"));
  const terminal = createRecorder({ cwd: scratch });
  const base = `models/qwen3-base=${models}/qwen3-base`;
  const others = ["a", "b"].map((role) => `models/qwen3-${role}=${models}/qwen3-${role}`);
  const named = [base, ...others].flatMap((name) => ["--model", name]);
  const out = path.join(scratch, "broken-out");
  assert.equal(await main(["merge", recipe, "--out", out, "--json", ...named], terminal), 1);
  const { code, where } = JSON.parse(terminal.err()).error;
  assert.deepEqual([code, where.tensor], ["EngineNonFinite", "model.layers.0.mlp.up_proj.weight"]);
});

test("random gates are a function of seed, tensor and element: any threads, shards, and once more", async () => {
  const recipe = readFileSync(path.join(GOLDEN, "qwen2.yaml"), "utf8").replace("cheap_embed", "random");
  const tensors: ReadonlyMap<string, Buffer>[] = [];
  const variants = [[], ["--threads", "3"], ["--shard-size", "2000"]];
  for (const [index, more] of variants.entries()) {
    const { out } = await merge(`again-${index}`, recipe, ...more);
    const files = readdirSync(out).filter((name) => name.endsWith(".safetensors"));
    assert.equal(files.length > 1, index === 2);
    const read = files.flatMap((name) => [...readTensors(path.join(out, name))]);
    tensors.push(new Map(read.map(([name, { bytes }]) => [name, bytes])));
  }
  const [first, ...others] = tensors.map((own) => [...own].sort(([a], [b]) => (a < b ? -1 : 1)));
  for (const other of others) assert.deepEqual(other, first);
  const gates = [...(tensors[0] ?? [])].filter(([name]) => isRouter(name)).map(([, bytes]) => bytes.toString("hex"));
  assert.equal(gates.length, 4);
  assert.equal(new Set(gates.map((gate) => gate.slice(0, 32))).size, 4);
  const seeded = await merge("seeded", `${recipe}random_seed: 7\n`);
  const [name = ""] = [...(tensors[0]?.keys() ?? [])].filter(isRouter);
  const gate = readTensors(path.join(seeded.out, "model.safetensors")).get(name);
  assert.ok(gate !== undefined && !gate.bytes.equals(tensors[0]?.get(name) ?? Buffer.of()));
});

test("a merge's result is an expert of the next document, and noise tells experts of one model apart", async () => {
  const recipe = `name: average
merge_method: linear
models: [{model: models/llama-base}, {model: models/llama-base@copy}]
parameters: {weight: 0.5}
---
base_model: models/llama-base
gate_mode: uniform_random
experts:
  - {source_model: average, noise_scale: 0.01}
  - {source_model: average, noise_scale: 0.01}
`;
  const base = path.join(GOLDEN, "models/llama-base");
  const { out, result } = await merge("noise", recipe, "--model", `models/llama-base@copy=${base}`);
  const made = readTensors(path.join(out, "model.safetensors"));
  const dense = readTensors(path.join(base, "model.safetensors")).get("model.layers.1.mlp.up_proj.weight");
  const differences = [0, 1].map((expert) => {
    const own = made.get(`model.layers.1.block_sparse_moe.experts.${expert}.w3.weight`);
    assert.ok(own !== undefined && dense !== undefined);
    const before = valuesOf(dense);
    return valuesOf(own).map((value, index) => value - (before[index] ?? 0));
  });
  const deviation = Math.sqrt(differences.flat().reduce((sum, value) => sum + value * value, 0) / (2 * 96));
  assert.ok(deviation > 0.008 && deviation < 0.012, String(deviation));
  assert.notDeepEqual(differences[0], differences[1]);
  const gate = made.get("model.layers.0.block_sparse_moe.gate.weight");
  const bound = Math.sqrt(1 / 8);
  const gates = gate === undefined ? [] : valuesOf(gate);
  assert.ok(gates.length === 16 && gates.every((value) => Math.abs(value) <= bound) && new Set(gates).size > 12);
  assert.deepEqual(result.warnings, []);
});

function valuesOf({ dtype, bytes }: Tensor): readonly number[] {
  if (dtype === "F32") return Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
  const halves = Array.from({ length: bytes.length / 2 }, (_, i) => bytes.readUInt16LE(2 * i));
  return halves.map(dtype === "F16" ? fromF16 : fromBf16);
}

function fromF16(bits: number): number {
  return new Float16Array(Uint16Array.of(bits).buffer)[0] ?? 0;
}

function fromBf16(bits: number): number {
  return new Float32Array(Uint32Array.of(bits << 16).buffer)[0] ?? 0;
}
