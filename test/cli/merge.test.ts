// `mergeyard merge` through the command line, in this process, on the example models with the real engine.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import path from "node:path";
import test, { after } from "node:test";
import { main } from "../../cli/main.ts";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { planDigest } from "../../steps/checkpoint-digest.ts";
import { openPlace } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createMergeExecutor } from "../../workers/merge-executor.ts";
import { createRecorder } from "./recorder.ts";

const EXAMPLES = path.resolve(import.meta.dirname, "../../examples");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-merge-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

type Outcome = { status: number; result: Record<string, unknown>; error: Record<string, unknown> | undefined };

async function merge(args: readonly string[], cwd: string = EXAMPLES): Promise<Outcome> {
  const terminal = createRecorder({ cwd });
  const status = await main(["merge", ...args, "--json"], terminal);
  const result = status === 0 ? JSON.parse(terminal.out()) : {};
  return { status, result, error: status === 0 ? undefined : JSON.parse(terminal.err()).error };
}

function recipeFile(name: string, text: string): string {
  const file = path.join(scratch, `${name}.yaml`);
  writeFileSync(file, text);
  return file;
}

/** Bytes of one tensor of a safetensors file, read without any of our own code. */
function readTensor(file: string, name: string): Uint16Array {
  const bytes = readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const [start, end] = JSON.parse(bytes.toString("utf8", 8, 8 + headerBytes))[name].data_offsets;
  return new Uint16Array(new Uint8Array(bytes.subarray(8 + headerBytes + start, 8 + headerBytes + end)).buffer);
}

function fromBf16(bits: number): number {
  return new Float32Array(new Uint32Array([bits << 16]).buffer)[0] ?? Number.NaN;
}

function toBf16(value: number): number {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0] ?? 0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

function residue(folder: string): string[] {
  return readdirSync(folder).filter((name) => name.includes(".partial-"));
}

/** Every example but the pipeline, whose models are uploads: test/cli/demo.test.ts runs that. */
const EXAMPLE_RECIPES = readdirSync(EXAMPLES).filter((name) => name.endsWith(".yaml") && name !== "pipeline.yaml");

for (const example of EXAMPLE_RECIPES) {
  test(`the example recipe ${example} merges into a folder that describes itself`, async () => {
    const out = path.join(scratch, `example-${example}`);
    const { status, result, error } = await merge([example, "--out", out]);
    assert.equal(status, 0, JSON.stringify(error));
    const manifest = parseManifest(readFileSync(path.join(out, "manifest.json")));
    const listed = manifest?.files.map(({ name, bytes }) => [name, bytes]);
    const there = readdirSync(out)
      .filter((name) => name !== "manifest.json")
      .sort()
      .map((name) => [name, readFileSync(path.join(out, name)).length]);
    assert.deepEqual(listed, there);
    assert.equal(result.files, there.length + 1);
    assert.ok(listed?.some(([name]) => name === "config.json"));
  });
}

test("an average of two BF16 models is the float32 average, rounded once", async () => {
  const out = path.join(scratch, "average");
  assert.equal((await merge(["linear.yaml", "--out", out])).status, 0);
  const name = "model.layers.2.mlp.down_proj.weight";
  const [a, b] = ["shakespeare", "python"].map((model) =>
    readTensor(path.join(EXAMPLES, "models", model, "model.safetensors"), name),
  );
  const merged = readTensor(path.join(out, "model.safetensors"), name);
  assert.equal(merged.length, 128 * 384);
  merged.forEach((bits, index) => {
    const sum = Math.fround(fromBf16(a?.[index] ?? 0) + fromBf16(b?.[index] ?? 0));
    assert.equal(bits, toBf16(Math.fround(sum / 2)), `element ${index}`);
  });
});

test("a GGUF file is named as a model and merged with another one as the values that it holds", async () => {
  const terminal = createRecorder({ cwd: scratch });
  const base = path.join(EXAMPLES, "models/base");
  const call = (...args: readonly string[]) => main(args, terminal);
  assert.equal(await call("quantize", base, "--scheme", "q8_0", "--no-tokenizer", "--out", "base.gguf"), 0);
  assert.equal(await call("convert", "base.gguf", "--to", "safetensors", "--out", "base-back"), 0);
  const merged: Buffer[] = [];
  for (const model of ["./base.gguf", "./base-back"]) {
    const text = `merge_method: linear
models:
  - { model: ${model}, parameters: { weight: 0.5 } }
  - { model: ${EXAMPLES}/models/python, parameters: { weight: 0.5 } }
dtype: bfloat16
`;
    const out = path.join(scratch, path.basename(model, ".gguf"), "merged");
    mkdirSync(path.dirname(out), { recursive: true });
    const { status, result, error } = await merge([recipeFile("gguf", text), "--out", out], scratch);
    assert.equal(status, 0, JSON.stringify(error));
    merged.push(readFileSync(path.join(out, "model.safetensors")));
    assert.ok(Number(result.bytesRead) > 0);
  }
  assert.deepEqual(merged[0], merged[1]);
});

test("outputs named on the command line are made in the same pass, the same on one thread or three", async () => {
  const versions: unknown[] = [];
  for (const threads of ["1", "3"]) {
    const out = path.join(scratch, `outputs-${threads}`);
    const base = path.join(EXAMPLES, "models/base");
    const text = `name: small
merge:
  merge_method: linear
  models: [{ model: ${base}, parameters: { weight: 1 } }]
outputs: [{ format: gguf, scheme: q4_k_m, tokenizer: false }]
`;
    const { status, result, error } = await merge([recipeFile("outputs", text), "--out", out, "--threads", threads]);
    assert.equal(status, 0, JSON.stringify(error));
    assert.ok(!readdirSync(out).includes("model.safetensors"));
    assert.deepEqual(result.derived, [
      { file: "small-q4_k_m.gguf", bytes: readFileSync(path.join(out, "small-q4_k_m.gguf")).length },
    ]);
    versions.push(result.version);
  }
  assert.equal(versions[0], versions[1]);
  const asked = ["linear.yaml", "--out", path.join(scratch, "asked"), "--output", "gguf:q9"];
  assert.equal((await merge(asked)).error?.code, "RecipeNotSupported");
});

test("outputs that lose more by quantizing than the merge changed are named", async () => {
  const [base, python] = ["base", "python"].map((name) => path.join(EXAMPLES, "models", name));
  const text = `name: small
merge:
  merge_method: task_arithmetic
  base_model: ${base}
  models: [{ model: ${python}, parameters: { weight: 1 } }]
outputs: [{ format: gguf, scheme: q2_k, tokenizer: false }, { format: gguf, scheme: f32, tokenizer: false }]
`;
  const recipe = recipeFile("hidden", text);
  const { result } = await merge([recipe, "--out", path.join(scratch, "hidden")]);
  assert.ok(Array.isArray(result.warnings));
  const lines = result.warnings.filter((line) => /loses more by quantizing/.test(String(line)));
  assert.equal(lines.length, 1, JSON.stringify(result.warnings));
  assert.match(String(lines[0]), /^gguf q2_k /);
});

test("a compressed-tensors folder of the same pass is the same on one thread or three, or less memory", async () => {
  const versions = new Set<unknown>();
  for (const args of [
    ["--threads", "1"],
    ["--threads", "3"],
    ["--threads", "2", "--memory", "200MiB"],
  ]) {
    const out = path.join(scratch, `compressed${args.join("")}`);
    const asked = ["linear.yaml", "--out", out, "--output", "compressed-tensors:fp8_dynamic", ...args];
    const { status, result, error } = await merge(asked);
    assert.equal(status, 0, JSON.stringify(error));
    const config = JSON.parse(readFileSync(path.join(out, "config.json"), "utf8"));
    assert.equal(config.quantization_config.quant_method, "compressed-tensors");
    assert.deepEqual(result.derived, [
      { file: "model.safetensors", bytes: readFileSync(path.join(out, "model.safetensors")).length },
    ]);
    versions.add(result.version);
  }
  assert.equal(versions.size, 1);
});

test("the model card states the digests of inputs, and the version is the same wherever they lie", async () => {
  const [version, foreign, moved] = ["version", "foreign", "moved"].map((name) => path.join(scratch, `card-${name}`));
  const merged = await merge(["linear.yaml", "--out", version ?? ""]);
  const inputs = path.join(scratch, "card-inputs");
  cpSync(path.join(EXAMPLES, "models/python"), path.join(inputs, "python"), { recursive: true });
  cpSync(version ?? "", path.join(inputs, "average"), { recursive: true });
  const text = `merge_method: linear
models:
  - { model: average, parameters: { weight: 1 } }
  - { model: python, parameters: { weight: 1 } }
`;
  const recipe = recipeFile("card", text);
  const first = await merge([recipe, "--out", foreign ?? ""], inputs);
  assert.equal(first.status, 0, JSON.stringify(first.error));
  const card = readFileSync(path.join(foreign ?? "", "README.md"), "utf8");
  assert.doesNotMatch(card, /<!--/);
  assert.match(card, new RegExp(`\\| average \\| sha256:${String(merged.result.version)}[0-9a-f]+ \\|`));
  assert.match(card, /\| python \| sha256:[0-9a-f]{64} \|/);

  cpSync(inputs, `${inputs}-copy`, { recursive: true });
  const second = await merge([recipe, "--out", moved ?? ""], `${inputs}-copy`);
  assert.equal(second.result.version, first.result.version);
});

test("the digests of inputs are those that a yard knows the same checkpoints by", async () => {
  const cwd = path.join(scratch, "digested");
  mkdirSync(cwd);
  const run = async (...args: readonly string[]) => {
    const terminal = createRecorder({ cwd });
    assert.equal(await main([...args], terminal), 0, terminal.err());
  };
  const recipe = { merge_method: "linear", models: ["base", "python"].map((model) => ({ model })) };
  const merging = { ...recipe, parameters: { weight: 1 } };
  writeFileSync(path.join(cwd, "recipe.yaml"), JSON.stringify(merging));
  const publish = { model: "both", channel: "latest" };
  writeFileSync(path.join(cwd, "pipeline.yaml"), JSON.stringify({ name: "both", merge: merging, publish }));
  await run("init", "yard");
  const place = (model: string) => path.join(EXAMPLES, "models", model);
  for (const model of ["base", "python"]) await run("push", place(model), model, "--yard", "yard");
  await run("run", "pipeline.yaml", "--yard", "yard");
  await run("pull", "both", "pulled", "--yard", "yard");
  const names = ["base", "python"].flatMap((model) => ["--model", `${model}=${place(model)}`]);
  await run("merge", "recipe.yaml", "--out", "merged", ...names);
  const inputsOf = (folder: string) => parseManifest(readFileSync(path.join(cwd, folder, "manifest.json")))?.inputs;
  assert.deepEqual(inputsOf("merged"), inputsOf("pulled"));
  const card = readFileSync(path.join(cwd, "merged/README.md"), "utf8");
  for (const { digest } of inputsOf("merged") ?? []) assert.ok(card.includes(`| ${digest} |`), card);
});

test("digests of inputs do not depend on what a merge reads of them, and may be left out", async () => {
  const recipes = {
    all: "merge_method: linear\nmodels: [{ model: base }, { model: python }]\nparameters: { weight: 1 }\n",
    twice:
      "merge_method: ties\nbase_model: base\nmodels: [{ model: python }]\nparameters: { weight: 1, density: 0.5 }\n",
    stored: "merge_method: karcher\nmodels: [{ model: base }, { model: python }]\n",
    copied: "merge_method: passthrough\nslices: [{ sources: [{ model: python, layer_range: [0, 1] }] }]\n",
    repeated: `merge_method: passthrough
slices:
  - { sources: [{ model: python, layer_range: [0, 2] }] }
  - { sources: [{ model: python, layer_range: [1, 2] }] }
`,
  };
  const names = ["base", "python"].flatMap((model) => ["--model", `${model}=${path.join(EXAMPLES, "models", model)}`]);
  const digests = new Set<string | null | undefined>();
  for (const [name, text] of Object.entries(recipes)) {
    const out = path.join(scratch, `digests-${name}`);
    const threads = name === "all" ? "1" : "2";
    const { status, error } = await merge([recipeFile(name, text), "--out", out, "--threads", threads, ...names]);
    assert.equal(status, 0, JSON.stringify(error));
    const inputs = parseManifest(readFileSync(path.join(out, "manifest.json")))?.inputs;
    digests.add(inputs?.find(({ model }) => model === "python")?.digest);
  }
  assert.equal(digests.size, 1);
  assert.match(String([...digests]), /^sha256:/);

  const out = path.join(scratch, "digests-none");
  await merge([recipeFile("none", recipes.all), "--out", out, "--no-digest-inputs", ...names]);
  const inputs = parseManifest(readFileSync(path.join(out, "manifest.json")))?.inputs;
  assert.deepEqual(
    inputs?.map(({ digest }) => digest),
    [null, null],
  );
  assert.match(readFileSync(path.join(out, "README.md"), "utf8"), /\| python \| not digested \|/);
});

test("files of a format that a yard converts are digested too, and must not change meanwhile", async () => {
  const folder = path.join(scratch, "torch-model");
  const terminal = createRecorder({ cwd: EXAMPLES });
  assert.equal(await main(["convert", "models/python", "--to", "torch", "--out", folder], terminal), 0, terminal.err());
  const place = { store: createDirectoryStore(folder, { durable: false }), prefix: "" };
  const executor = createMergeExecutor(createStoreOpener({}));
  const { signal } = terminal;
  const digestOf = async (from: typeof place, opened: Awaited<ReturnType<typeof openPlace>>) => {
    const { ranges, digest } = planDigest(from, opened, [], signal);
    return digest(await executor.digest(ranges, { threads: 2, signal }));
  };
  const opened = await openPlace(place);
  const digest = await digestOf(place, opened);
  cpSync(folder, `${folder}-copy`, { recursive: true });
  const copy = { ...place, store: createDirectoryStore(`${folder}-copy`, { durable: false }) };
  assert.equal(await digestOf(copy, await openPlace(copy)), digest);
  appendFileSync(path.join(folder, "config.json"), "\n");
  await assert.rejects(digestOf(place, opened), { code: "YardSourceChanged" });
  assert.notEqual(await digestOf(place, await openPlace(place)), digest);
  await executor.close();
});

test("threads and memory never change a byte", async () => {
  const digests = new Set<unknown>();
  for (const args of [
    ["--threads", "1"],
    ["--threads", "3"],
    ["--threads", "2", "--memory", "200MiB"],
  ]) {
    const out = path.join(scratch, `threads-${args.join("")}`);
    const { status, result } = await merge(["task-arithmetic.yaml", "--out", out, ...args]);
    assert.equal(status, 0);
    digests.add(result.version);
  }
  assert.equal(digests.size, 1);
});

test("what is in the output folder is never lost", async () => {
  const out = path.join(scratch, "occupied");
  mkdirSync(out);
  assert.equal((await merge(["linear.yaml", "--out", out])).status, 0, "an empty folder is fine");
  const again = await merge(["linear.yaml", "--out", out]);
  assert.deepEqual([again.status, again.error?.code], [1, "CliOutputOccupied"]);
  assert.equal((await merge(["slerp.yaml", "--out", out, "--force"])).status, 0);
  assert.match(readFileSync(path.join(out, "manifest.json"), "utf8"), /"method": ?"slerp"/);

  writeFileSync(path.join(out, "notes.txt"), "mine");
  const foreign = await merge(["linear.yaml", "--out", out, "--force"]);
  assert.deepEqual([foreign.status, foreign.error?.code, foreign.error?.found], [1, "CliOutputOccupied", "notes.txt"]);
  assert.equal(readFileSync(path.join(out, "notes.txt"), "utf8"), "mine");

  const folders = path.join(scratch, "occupied-folders");
  const both = ["--output", "safetensors", "--output", "compressed-tensors:fp8_dynamic"];
  assert.equal((await merge(["linear.yaml", "--out", folders, ...both])).status, 0);
  assert.equal(
    (await merge(["slerp.yaml", "--out", folders, ...both, "--force"])).status,
    0,
    "its folders are its own",
  );
  writeFileSync(path.join(folders, "fp8_dynamic/notes.txt"), "mine");
  const nested = await merge(["linear.yaml", "--out", folders, "--force"]);
  assert.deepEqual([nested.error?.code, nested.error?.found], ["CliOutputOccupied", "fp8_dynamic/notes.txt"]);

  const file = path.join(scratch, "a-file");
  writeFileSync(file, "");
  assert.equal((await merge(["linear.yaml", "--out", file, "--force"])).error?.code, "CliOutputOccupied");
});

test("a name on the command line wins over the file, and the current folder is the last resort", async () => {
  const folder = path.join(scratch, "lookup");
  cpSync(path.join(EXAMPLES, "models/python"), path.join(folder, "cwd/one"), { recursive: true });
  const text = (models: string) => `name: lookup
merge:
  merge_method: linear
  models:
    - { model: one, parameters: { weight: 1 } }
${models}`;
  const inputs = async (recipe: string, args: readonly string[]) => {
    const out = path.join(scratch, `lookup-${recipe}-${args.length}`);
    const outcome = await merge(
      [recipeFile(recipe, text(RECIPES[recipe] ?? "")), "--out", out, ...args],
      path.join(folder, "cwd"),
    );
    assert.equal(outcome.status, 0, JSON.stringify(outcome.error));
    return readTensor(path.join(out, "model.safetensors"), "lm_head.weight");
  };
  const RECIPES: Record<string, string> = {
    bare: "",
    named: `models: { one: ${path.join(EXAMPLES, "models/shakespeare")} }\n`,
  };
  const original = (model: string) =>
    readTensor(path.join(EXAMPLES, "models", model, "model.safetensors"), "lm_head.weight");
  assert.deepEqual(await inputs("bare", []), original("python"), "the current folder is the last resort");
  assert.deepEqual(await inputs("named", []), original("shakespeare"), "models: of the file");
  const given = ["--model", `one=${path.join(EXAMPLES, "models/python")}`];
  assert.deepEqual(await inputs("named", given), original("python"), "the command line wins");
});

test("bad input is one error with its code and place, and leaves nothing behind", async () => {
  const head = "merge_method: linear\nmodels:\n  - model: ";
  const shakespeare = path.join(EXAMPLES, "models/shakespeare");
  const cases: [string, string, string][] = [
    ["missing-model", `${head}nowhere\n    parameters: { weight: 1 }\n`, "YardModelMissing"],
    ["unknown-method", `merge_method: liner\nmodels:\n  - model: ${shakespeare}\n`, "RecipeMethodUnknown"],
    ["misspelt-key", `${head}${shakespeare}\n    paramters: { weight: 1 }\n`, "RecipeUnknownKey"],
    ["no-yaml", "merge_method: [", "RecipeSyntax"],
  ];
  for (const [name, text, code] of cases) {
    const folder = path.join(scratch, `bad-${name}`);
    mkdirSync(folder);
    const { status, error } = await merge([recipeFile(name, text), "--out", path.join(folder, "out")]);
    assert.deepEqual([status, error?.code], [1, code], name);
    assert.deepEqual(readdirSync(folder), [], name);
    if (code === "YardModelMissing") {
      assert.deepEqual(error?.where, { file: `${name}.yaml`, field: "models[0].model", line: 3, model: "nowhere" });
    }
  }
  const absent = await merge(["no-such.yaml", "--out", path.join(scratch, "never")]);
  assert.deepEqual([absent.status, absent.error?.code], [1, "CliSourceMissing"]);
});

test("NaN in a tensor fails the merge, names the tensor, and leaves no folder", async () => {
  const folder = path.join(scratch, "nan");
  cpSync(path.join(EXAMPLES, "models/python"), path.join(folder, "model"), { recursive: true });
  const file = path.join(folder, "model/model.safetensors");
  const bytes = readFileSync(file);
  bytes.writeUInt16LE(0x7fc0, bytes.length - 2);
  writeFileSync(file, bytes);
  const text = `merge_method: linear\nmodels:\n  - { model: ${folder}/model, parameters: { weight: 1 } }\n`;
  const { status, error } = await merge([recipeFile("nan", text), "--out", path.join(folder, "out")]);
  assert.deepEqual([status, error?.code], [1, "EngineNonFinite"]);
  assert.deepEqual(readdirSync(folder), ["model"]);
});

test("an interrupted merge exits with 130 and leaves nothing behind", async () => {
  const folder = path.join(scratch, "interrupted");
  mkdirSync(folder);
  const terminal = createRecorder({ cwd: EXAMPLES });
  const running = main(["merge", "linear.yaml", "--out", path.join(folder, "out"), "--json"], terminal);
  // Goal: interrupt while the engine works. Method: as soon as the folder that is being filled is there.
  while (residue(folder).length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  terminal.interrupt();
  assert.equal(await running, 130);
  assert.equal(JSON.parse(terminal.err()).error.code, "CliInterrupted");
  assert.deepEqual(readdirSync(folder), []);
});

test("what a killed merge left beside the output is swept by the next, a running one's is not", async () => {
  const folder = path.join(scratch, "swept");
  const dead = spawnSync(process.execPath, ["-e", ""]).pid;
  const [left, filled] = [dead, process.pid].map((pid) => `.out.partial-${hostname()}-${pid}-0`);
  for (const name of [left, filled]) mkdirSync(path.join(folder, name ?? ""), { recursive: true });
  assert.equal((await merge(["linear.yaml", "--out", path.join(folder, "out")])).status, 0);
  assert.deepEqual(residue(folder), [filled]);
});

test("an output elsewhere than on this machine is a usage error", async () => {
  const { status, error } = await merge(["linear.yaml", "--out", "s3://bucket/prefix"]);
  assert.deepEqual([status, error?.code], [2, "CliUsage"]);
});

test("the output is cut into files of the asked size, and is the same model", async () => {
  const [whole, cut] = ["whole", "cut"].map((name) => path.join(scratch, `shards-${name}`));
  assert.equal((await merge(["linear.yaml", "--out", whole ?? ""])).status, 0);
  assert.equal((await merge(["linear.yaml", "--out", cut ?? "", "--shard-size", "600K"])).status, 0);
  const names = readdirSync(cut ?? "").filter((name) => name.endsWith(".safetensors"));
  assert.deepEqual(names, [
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
  ]);
  const tensorsOf = (folder = "") =>
    parseManifest(readFileSync(path.join(folder, "manifest.json")))?.files.flatMap((file) =>
      "tensors" in file ? file.tensors.map(({ name, digest }) => `${name} ${digest}`) : [],
    );
  assert.deepEqual(tensorsOf(cut)?.sort(), tensorsOf(whole)?.sort());
});

test("an option of mergekit-yaml or mergekit-multi is refused with what to do instead", async () => {
  const hints: unknown[] = [];
  const yaml = ["--allow-crimes", "--cuda", "--out-shard-size=5B", "--random-seed=3", "--lora-merge-cache=x", "-v"];
  const known = [...yaml, "--no-lazy-unpickle", "--intermediate-dir=x", "--out-path=x"];
  for (const option of [...known, "--nope"]) {
    const { status, error } = await merge(["linear.yaml", "--out", "x", option]);
    assert.deepEqual([status, error?.code], [2, "CliUsage"], option);
    hints.push(error?.hint);
  }
  assert.equal(new Set(hints).size, known.length + 1);
});

test("options that cannot be read are usage errors before anything is opened", async () => {
  const bad = [
    ["--threads", "0"],
    ["--threads", "many"],
    ["--memory", "1KiB"],
    ["--shard-size", "many"],
    ["--memory", "lots"],
    ["--model", "name"],
    ["--model", "a=b", "--model", "a=c"],
  ];
  for (const args of bad) {
    const { status, error } = await merge(["no-such.yaml", "--out", "x", ...args]);
    assert.deepEqual([status, error?.code], [2, "CliUsage"], args.join(" "));
  }
});
