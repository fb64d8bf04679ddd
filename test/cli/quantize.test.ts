// `mergeyard quantize` at the command line: what it prints, and how it is misused.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { main } from "../../cli/main.ts";
import { encodeSafetensorsFile, encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { createRecorder } from "./recorder.ts";

const CONFIG = {
  model_type: "llama",
  hidden_size: 32,
  intermediate_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  vocab_size: 4,
  max_position_embeddings: 16,
  rms_norm_eps: 1e-5,
};
const MATRICES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
const INNER = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
const NORMS = ["input_layernorm", "post_attention_layernorm"];

/** Every value is 2.0, unless `numberAt` says otherwise: then BF16 of that. */
function makeModel(folder: string, numberAt: (index: number) => number = () => 2): void {
  const specs = [
    ...["model.embed_tokens", "lm_head"].map((name) => ({ name: `${name}.weight`, shape: [4, 32] })),
    { name: "model.norm.weight", shape: [32] },
    ...[...MATRICES, ...INNER].map((name) => ({ name: `model.layers.0.${name}.weight`, shape: [32, 32] })),
    ...NORMS.map((name) => ({ name: `model.layers.0.${name}.weight`, shape: [32] })),
  ].map((spec) => ({ ...spec, dtype: "BF16" as const }));
  const { header, fileBytes } = encodeSafetensorsHeader(specs);
  const file = new Uint8Array(fileBytes);
  const values = Float32Array.from({ length: fileBytes / 2 }, (_, index) => numberAt(index));
  const halves = new Uint16Array(values.buffer).filter((_, index) => index % 2 === 1);
  file.set(new Uint8Array(halves.buffer));
  file.set(header);
  writeFileSync(path.join(folder, "model.safetensors"), file);
  writeFileSync(path.join(folder, "config.json"), JSON.stringify(CONFIG));
}

test("convert makes a GGUF file of the weights as they are, or of another float", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-convert-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  makeModel(cwd);
  const call = async (...args: readonly string[]) => {
    const terminal = createRecorder({ cwd });
    return { status: await main(args, terminal), ...JSON.parse(terminal.out() || terminal.err()) };
  };
  const made = await call("convert", ".", "--to", "gguf", "--out", "own.gguf", "--json");
  assert.deepEqual([made.status, made.scheme, made.files], [0, "bf16", ["own.gguf"]]);
  assert.equal((await call("quantize", ".", "--scheme", "bf16", "--out", "bf16.gguf", "--json")).status, 0);
  const bytesOf = (name: string) => readFileSync(path.join(cwd, name));
  assert.deepEqual(bytesOf("own.gguf"), bytesOf("bf16.gguf"));
  const wide = await call("convert", ".", "--to", "gguf", "--dtype", "float32", "--out", "wide.gguf", "--json");
  assert.deepEqual([wide.status, wide.schemes], [0, { f32: 12 }]);
  const again = await call("convert", "wide.gguf", "--to", "gguf", "--out", "again.gguf", "--json");
  assert.deepEqual([again.status, again.scheme], [0, "f32"]);
  for (const [flag, value] of Object.entries({ "--tp": "2", "--zero": "1", "--family": "llama" })) {
    const { status, error } = await call("convert", ".", "--to", "gguf", flag, value, "--out", "x.gguf", "--json");
    assert.deepEqual([status, error.code, error.where], [2, "CliUsage", { field: flag }]);
  }
  assert.deepEqual(
    readdirSync(cwd).filter((name) => name.startsWith("x")),
    [],
  );
});

test("quantize writes one file, says what was lost, and inspect reads it", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-quantize-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  makeModel(cwd);
  const terminal = createRecorder({ cwd });
  assert.equal(
    await main(["quantize", ".", "--scheme", "q8_0", "--out", "m.gguf", "--json"], terminal),
    0,
    terminal.err(),
  );
  const result = JSON.parse(terminal.out());
  assert.deepEqual(result.schemes, { q8_0: 9, f32: 3 });
  assert.equal(result.hasTokenizer, false);
  const inspected = createRecorder({ cwd });
  assert.equal(await main(["inspect", "m.gguf", "--json"], inspected), 0, inspected.err());
  const { format, types, metadata } = JSON.parse(inspected.out());
  assert.deepEqual([format, types.Q8_0.count, metadata["llama.block_count"]], ["gguf", 9, 1]);
  const again = createRecorder({ cwd });
  assert.notEqual(await main(["quantize", ".", "--scheme", "q8_0", "--out", "m.gguf", "--json"], again), 0);
  const { code, where } = JSON.parse(again.err()).error;
  const place = `file://${cwd}`;
  assert.deepEqual([code, where, result.target], ["YardTargetOccupied", { store: place, file: "m.gguf" }, place]);
  const words = createRecorder({ cwd });
  assert.equal(await main(["quantize", ".", "--scheme", "f16", "--out", "n.gguf"], words), 0, words.err());
  assert.match(words.out(), /^f16 in n\.gguf: 12 tensors \(9 f16, 3 f32\), .*nothing lost; no tokenizer/);
  assert.deepEqual(readdirSync(cwd).sort(), ["config.json", "m.gguf", "model.safetensors", "n.gguf"]);
});

const WRONG_SPLITS = [
  ["--split-max-size", "4GiB"],
  ["--split-max-size", "0G"],
  ["--split-max-tensors", "0"],
] as const;

test("quantize makes a set of files of at most a size in thousands, or a number of tensors", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-quantize-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  makeModel(cwd);
  const run = async (...more: readonly string[]) => {
    const terminal = createRecorder({ cwd });
    const status = await main(["quantize", ".", "--scheme", "f16", "--out", "m.gguf", ...more], terminal);
    return { status, out: terminal.out() };
  };
  // Seven matrices of 2048 bytes: two are 4096, more than 4 thousand.
  const sized = await run("--split-max-size", "4K");
  assert.match(sized.out, /^f16 in m-00001-of-0000(\d)\.gguf and the \d after it: 12 tensors/);
  assert.equal(readdirSync(cwd).filter((name) => name.endsWith(".gguf")).length, 7);
  const inspected = createRecorder({ cwd });
  assert.equal(await main(["inspect", ".", "--json"], inspected), 0, inspected.err());
  assert.equal((await run("--split-max-tensors", "5")).status, 0);
  assert.equal(readdirSync(cwd).filter((name) => name.endsWith("-of-00003.gguf")).length, 3);
  for (const wrong of WRONG_SPLITS) {
    assert.equal((await run(...wrong)).status, 2, wrong.join(" "));
  }
  assert.equal((await run("--format", "compressed-tensors", "--scheme", "fp8", "--split-max-size", "1G")).status, 2);
});

test("an unknown scheme is a usage error and writes nothing", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-quantize-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  makeModel(cwd);
  const terminal = createRecorder({ cwd });
  assert.equal(await main(["quantize", ".", "--scheme", "q9_z", "--out", "m.gguf", "--json"], terminal), 2);
  assert.equal(JSON.parse(terminal.err()).error.code, "CliUsage");
  for (const [scheme, said] of [
    ["fp8_dynamik", /Did you mean fp8_dynamic\?/],
    ["binary_channel", /No server loads a folder of it/],
  ] as const) {
    const again = createRecorder({ cwd });
    assert.equal(await main(["quantize", ".", "--scheme", scheme, "--out", "m.gguf"], again), 2);
    assert.match(again.err(), said);
  }
  assert.deepEqual(readdirSync(cwd).sort(), ["config.json", "model.safetensors"]);
});

test("llama-quantize's short names are mixes, and a line says what was written", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-quantize-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  makeModel(cwd);
  const terminal = createRecorder({ cwd });
  assert.equal(await main(["quantize", ".", "--scheme", "Q4_K", "--out", "m.gguf", "--no-tokenizer"], terminal), 0);
  assert.match(terminal.out(), /^q4_k_m in m\.gguf: 12 tensors \(/);
});

test("a scheme of parts makes a folder, under the name of a preset too", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-quantize-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  makeModel(cwd);
  const terminal = createRecorder({ cwd });
  assert.equal(await main(["quantize", ".", "--scheme", "FP8_DYNAMIC", "--out", "fp8"], terminal), 0, terminal.err());
  assert.match(terminal.out(), /^fp8_dynamic in fp8: 7 modules quantized; .* dB|nothing lost/);
  assert.deepEqual(readdirSync(path.join(cwd, "fp8")).sort(), ["config.json", "model.safetensors"]);
  const again = createRecorder({ cwd });
  assert.equal(await main(["quantize", ".", "--scheme", "w8a8", "--out", "fp8", "--json"], again), 1);
  assert.equal(JSON.parse(again.err()).error.code, "CliOutputOccupied");
  const nf4 = createRecorder({ cwd });
  const asked = ["--scheme", "nf4_block64", "--format", "bitsandbytes", "--out", "nf4"];
  assert.equal(await main(["quantize", ".", ...asked], nf4), 0, nf4.err());
  const { quantization_config } = JSON.parse(readFileSync(path.join(cwd, "nf4/config.json"), "utf8"));
  assert.deepEqual(
    [quantization_config.quant_method, quantization_config.load_in_4bit, quantization_config.bnb_4bit_quant_type],
    ["bitsandbytes", true, "nf4"],
  );
  const failing = createRecorder({ cwd });
  const group = ["--scheme", "W4A16", "--out", "int4", "--json"];
  assert.equal(await main(["quantize", ".", ...group], failing), 1);
  assert.equal(JSON.parse(failing.err()).error.code, "QuantizeShapeUnsupported");
  assert.ok(readdirSync(cwd).every((name) => !name.includes("int4")));
});

test("a budget makes a folder too, and the plan that it saves says which format it is for", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-quantize-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  makeModel(cwd);
  const planned = createRecorder({ cwd });
  const asked = ["--budget", "12bpw", "--candidates", "int4_group32,int8_channel,unquantized", "--report", "r.html"];
  const saving = ["--out", "planned", "--save-plan", "plan.yaml"];
  assert.equal(await main(["quantize", ".", ...asked, ...saving], planned), 0, planned.err());
  assert.match(
    planned.out(),
    /bits a weight for a budget of 12bpw: the least loss there is[\s\S]*bit plan in planned: /,
  );
  assert.match(readFileSync(path.join(cwd, "r.html"), "utf8"), /Size against loss/);
  const followed = createRecorder({ cwd });
  const following = ["--bit-plan", "plan.yaml", "--out", "followed", "--json"];
  assert.equal(await main(["quantize", ".", ...following], followed), 0, followed.err());
  const made = (folder: string) => readFileSync(path.join(cwd, folder, "model.safetensors"));
  assert.deepEqual(made("followed"), made("planned"));
  const other = createRecorder({ cwd });
  const wrong = ["--budget", "12bpw", "--format", "gptq", "--out", "x", "--json"];
  assert.equal(await main(["quantize", ".", ...wrong], other), 2);
  assert.deepEqual(
    readdirSync(cwd).filter((name) => /^(x|\.)/.test(name)),
    [],
  );
});

test("Hessians of the inputs change what GPTQ stores, and only schemes that use them take them", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-quantize-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  makeModel(cwd, (index) => Math.sin(index * 1.7));
  const specs = [...MATRICES, ...INNER].map((name) => {
    return { name: `model.layers.0.${name}.weight`, dtype: "F32" as const, shape: [32, 32] };
  });
  const inputs = Float32Array.from({ length: 1024 }, (_, at) => (at % 33 === 0 ? 1 + (at % 7) : 0.9));
  mkdirSync(path.join(cwd, "calibration"));
  writeFileSync(
    path.join(cwd, "calibration/h.safetensors"),
    encodeSafetensorsFile(specs, () => inputs),
  );
  const run = async (out: string, ...more: readonly string[]) => {
    const terminal = createRecorder({ cwd });
    const status = await main(["quantize", ".", "--out", out, "--json", ...more], terminal);
    return { status, terminal };
  };
  const plain = await run("plain", "--scheme", "gptq4_channel");
  assert.equal(plain.status, 0, plain.terminal.err());
  const solved = await run("solved", "--scheme", "gptq4_channel", "--hessian", "calibration/h.safetensors");
  assert.equal(solved.status, 0, solved.terminal.err());
  const made = (folder: string) => readFileSync(path.join(cwd, folder, "model.safetensors"));
  assert.notDeepEqual(made("solved"), made("plain"));
  for (const [code, status, ...asked] of [
    ["CliUsage", 2, "--scheme", "fp8_dynamic", "--hessian", "calibration/h.safetensors"],
    ["CliUsage", 2, "--budget", "8bpw", "--format", "compressed-tensors", "--hessian", "calibration/h.safetensors"],
    ["QuantizeHessianInvalid", 1, "--scheme", "gptq4_channel", "--hessian", "model.safetensors"],
  ] as const) {
    const refused = await run("refused", ...asked);
    assert.equal(refused.status, status, asked.join(" "));
    assert.equal(JSON.parse(refused.terminal.err()).error.code, code);
    assert.ok(!readdirSync(cwd).includes("refused"));
  }
});

test("a scheme that the format does not hold is a usage error", async (context) => {
  const cwd = mkdtempSync(path.join(tmpdir(), "mergeyard-quantize-"));
  context.after(() => rmSync(cwd, { recursive: true }));
  const terminal = createRecorder({ cwd });
  const wrong = ["--scheme", "q8_0", "--format", "compressed-tensors", "--out", "x", "--json"];
  assert.equal(await main(["quantize", ".", ...wrong], terminal), 2);
  assert.equal(JSON.parse(terminal.err()).error.code, "CliUsage");
  for (const [scheme, ...option] of [
    ["q8_0", "--ignore", "lm_head"],
    ["fp8_dynamic", "--imatrix", "i.dat"],
    ["fp8_dynamic", "--no-tokenizer"],
    ["q8_0", "--candidates", "q4_k"],
    ["q8_0", "--sensitivity", "mixed"],
    ["q8_0", "--save-plan", "plan.yaml"],
  ]) {
    const other = createRecorder({ cwd });
    assert.equal(await main(["quantize", ".", "--scheme", scheme ?? "", ...option, "--out", "x", "--json"], other), 2);
    assert.equal(JSON.parse(other.err()).error.code, "CliUsage");
  }
});
