// Goal: an adapter that is extracted and merged again gives the fine-tuned model back, and what cannot be combined is
// refused with its reason. Method: small models and adapters in files, through the command line.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, describe, test } from "node:test";
import { parseManifest } from "../../core/artifact/manifest.ts";
import { plainNumbers } from "../random-numbers.ts";
import { createModelsFolder } from "./model-files.ts";

const { cwd, run, read, write, remove } = createModelsFolder("mergeyard-lora-");
after(remove);

const SHAPES: Readonly<Record<string, readonly number[]>> = {
  "model.embed_tokens.weight": [7, 6],
  "model.layers.0.q_proj.weight": [8, 6],
  "model.layers.0.q_proj.bias": [8],
  "model.layers.0.conv.weight": [4, 3, 2, 2],
  "model.layers.0.norm.weight": [6],
  "model.layers.1.q_proj.weight": [8, 6],
};

function writeModel(folder: string, change: (name: string, index: number) => number): void {
  const tensors = Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape], at) => {
      const count = shape.reduce((product, length) => product * length, 1);
      return [name, { shape, values: plainNumbers(count, at + 1).map((value, i) => value + change(name, i)) }];
    }),
  );
  write(folder, "model.safetensors", tensors, { "config.json": { model_type: "x", vocab_size: 7 } });
}

/** An adapter of one module, [5, 4], whose factors are numbers of a seed. */
function writeAdapter(folder: string, rank: number, seed: number, more: Record<string, unknown> = {}): void {
  const tensors = {
    "base_model.model.m.lora_A.weight": { shape: [rank, 4], values: plainNumbers(4 * rank, seed) },
    "base_model.model.m.lora_B.weight": { shape: [5, rank], values: plainNumbers(5 * rank, seed + 1) },
  };
  const config = { peft_type: "LORA", r: rank, lora_alpha: 2 * rank, base_model_name_or_path: "b", ...more };
  write(folder, "adapter_model.safetensors", tensors, { "adapter_config.json": config });
}

function fieldsOf({ code, where, found, expected }: Record<string, unknown>, place: string): readonly unknown[] {
  return [code, Object(where)[place], found, expected];
}

function assertClose(got: readonly number[] | undefined, expected: readonly number[] | undefined): void {
  assert.equal(got?.length, expected?.length);
  got?.forEach((value, i) => {
    assert.ok(Math.abs(value - (expected?.[i] ?? 0)) < 1e-5, `${i}: ${value}, not ${expected?.[i]}`);
  });
}

/** scale B A of module m. */
async function change(folder: string): Promise<number[]> {
  const tensors = await read(folder);
  const [a, b] = ["A", "B"].map((side) => tensors[`base_model.model.m.lora_${side}.weight`]);
  const { r, lora_alpha: alpha } = JSON.parse(readFileSync(path.join(cwd, folder, "adapter_config.json"), "utf8"));
  const rank = a?.shape[0] ?? 0;
  return Array.from({ length: 20 }, (_, at) => {
    let sum = 0;
    for (let k = 0; k < rank; k++) {
      sum += (b?.values[Math.floor(at / 4) * rank + k] ?? 0) * (a?.values[k * 4 + (at % 4)] ?? 0);
    }
    return (alpha / r) * sum;
  });
}

describe("lora extract", () => {
  test("of a whole change, merged again, is the fine-tuned model", async () => {
    writeModel("base", () => 0);
    writeModel("tuned", (name, i) => (name.includes("layers.1") ? 0 : Math.sin(i + name.length) / 8));
    const extracted = await run("lora", "extract", "tuned", "--base", "base", "--out", "adapter");
    assert.deepEqual([extracted.modules, extracted.whole, extracted.rank], [2, 2, 6]);
    assert.ok(Math.abs(Number(extracted.kept) - 1) < 1e-6);
    writeFileSync(path.join(cwd, "apply.yaml"), "merge_method: passthrough\nmodels: [{model: base+adapter}]\n");
    const merged = await run("merge", "apply.yaml", "--out", "merged");
    assert.equal(merged.status, undefined, JSON.stringify(merged));
    const [got, expected] = [await read("merged"), await read("tuned")];
    for (const name of Object.keys(SHAPES)) assertClose(got[name]?.values, expected[name]?.values);
    const config = JSON.parse(readFileSync(path.join(cwd, "adapter/adapter_config.json"), "utf8"));
    assert.deepEqual(config.target_modules, ["conv", "q_proj"]);
    assert.deepEqual(config.rank_pattern, { "model.layers.0.conv": 4 });
    assert.deepEqual(config.modules_to_save, ["model.embed_tokens", "model.layers.0.norm"]);
  });

  test("embeddings as factors, few ranks, and tensors left out by name or kind", async () => {
    writeModel("b1", () => 0);
    writeModel("t1", (_, i) => Math.cos(i * i) / 4);
    const all = ["lora", "extract", "t1", "--base", "b1"];
    const embed = await run(...all, "--out", "a1", "--embed-lora", "--skip-undecomposable", "--rank", "2");
    assert.deepEqual([embed.modules, embed.whole, embed.rank], [4, 0, 2]);
    assert.ok(Number(embed.kept) < 0.99 && Number(embed.kept) > 0.3);
    const adapter = await read("a1");
    assert.deepEqual(adapter["base_model.model.model.embed_tokens.lora_embedding_A"]?.shape, [2, 7]);
    assert.deepEqual(adapter["base_model.model.model.layers.0.conv.lora_A.weight"]?.shape, [2, 3, 2, 2]);
    const some = await run(...all, "--out", "a2", "--include", "q_proj", "--exclude", "layers\\.1|bias");
    assert.deepEqual([some.modules, some.whole], [1, 0]);
    const turned = await run(...all, "--out", "a3", "--include", "1.q_proj", "--fan-in-fan-out");
    assert.equal(turned.modules, 1);
    const name = "base_model.model.model.layers.1.q_proj.lora_A.weight";
    assert.deepEqual((await read("a3"))[name]?.shape, [6, 8]);
  });

  test("the head that a model ties to its embedding is in the adapter, whole or as factors", async () => {
    const config = { "config.json": { architectures: ["GPT2LMHeadModel"], model_type: "gpt2", vocab_size: 7 } };
    const shapes = {
      "transformer.wte.weight": [7, 3],
      "transformer.wpe.weight": [4, 3],
      "transformer.h.0.fc.weight": [3, 3],
    };
    for (const [folder, change] of [
      ["tb", 0],
      ["tt", 1],
    ] as const) {
      const tensors = Object.entries(shapes).map(([name, shape], at) => {
        const values = plainNumbers((shape[0] ?? 0) * 3, at + 1).map((value, i) => value + change * Math.sin(i * i));
        return [name, { shape, values }] as const;
      });
      write(folder, "model.safetensors", Object.fromEntries(tensors), config);
    }
    const tuned = await read("tt");
    const extract = ["lora", "extract", "tt", "--base", "tb", "--out"];
    for (const [adapter, options, whole] of [
      ["ta", [], ["lm_head", "transformer.wpe", "transformer.wte"]],
      ["te", ["--embed-lora"], null],
    ] as const) {
      await run(...extract, adapter, ...options);
      const written = JSON.parse(readFileSync(path.join(cwd, adapter, "adapter_config.json"), "utf8"));
      assert.deepEqual(written.modules_to_save, whole);
      if (whole === null) assert.deepEqual(written.target_modules, ["fc", "lm_head", "wpe", "wte"]);
      writeFileSync(path.join(cwd, `${adapter}.yaml`), `merge_method: passthrough\nmodels: [{model: tb+${adapter}}]\n`);
      const { code } = await run("merge", `${adapter}.yaml`, "--out", `${adapter}-merged`);
      assert.equal(code, undefined);
      const merged = await read(`${adapter}-merged`);
      for (const name of Object.keys(shapes)) assertClose(merged[name]?.values, tuned[name]?.values);
      assertClose(merged["lm_head.weight"]?.values, tuned["transformer.wte.weight"]?.values);
    }
  });

  test("embeddings are whole beside changed biases, which PEFT takes no factors of embeddings with", async () => {
    writeModel("bb", () => 0);
    writeModel("bt", (_, i) => Math.sin(i) / 4);
    const extract = ["lora", "extract", "bt", "--base", "bb", "--embed-lora", "--out"];
    const { whole } = await run(...extract, "ba");
    assert.equal(whole, 2, "the embedding and the norm");
    assert.equal((await run(...extract, "bs", "--skip-undecomposable")).whole, 0);
  });

  test("nothing changed, a tensor that the base lacks, and another shape are refused", async () => {
    writeModel("b2", () => 0);
    const same = await run("lora", "extract", "b2", "--base", "b2", "--out", "none");
    assert.deepEqual([same.status, same.code], [1, "PlanNothingToMerge"]);
    const config = { "config.json": {} };
    write("b3", "model.safetensors", { "x.weight": { shape: [2, 2], values: [1, 2, 3, 4] } }, config);
    write("t3", "model.safetensors", { "x.weight": { shape: [2, 1], values: [1, 2] } }, config);
    const shapes = await run("lora", "extract", "t3", "--base", "b3", "--out", "none");
    assert.deepEqual(fieldsOf(shapes, "tensor"), ["PlanShapeMismatch", "x.weight", "[2, 1]", "[2, 2]"]);
    const missing = await run("lora", "extract", "b2", "--base", "b3", "--out", "none");
    assert.deepEqual(fieldsOf(missing, "tensor").slice(0, 3), [
      "PlanTensorMissing",
      Object.keys(SHAPES)[0],
      "no such tensor in the base",
    ]);
    assert.equal((await run("lora", "extract", "t3", "--base", "b3", "--out", "n", "--rank", "0")).code, "CliUsage");
  });
});

describe("lora merge", () => {
  test("cat and svd give the weighted sum of the changes, whatever the ranks", async () => {
    writeAdapter("one", 2, 3);
    writeAdapter("two", 3, 5);
    const [one, two] = [await change("one"), await change("two")];
    const sum = one.map((value, i) => value - 0.5 * (two[i] ?? 0));
    const both = ["lora", "merge", "one", "two", "--weights", "1,-0.5"];
    const cat = await run(...both, "--out", "cat");
    assert.deepEqual([cat.modules, cat.rank], [1, 5]);
    assertClose(await change("cat"), sum);
    assert.equal((await run(...both, "--combination", "svd", "--rank", "4", "--out", "svd")).rank, 4);
    assertClose(await change("svd"), sum);
    assert.equal((await run(...both, "--combination", "ties_svd", "--rank", "9", "--out", "ties-svd")).rank, 4);
  });

  test("layers that PEFT saves as they are beside their factors are no tensors of two adapters", async () => {
    for (const [folder, seed] of [
      ["l1", 1],
      ["l2", 3],
    ] as const) {
      writeAdapter(folder, 2, seed);
      const layer = { "base_model.model.m.base_layer.weight": { shape: [5, 4], values: plainNumbers(20, 9) } };
      const config = JSON.parse(readFileSync(path.join(cwd, folder, "adapter_config.json"), "utf8"));
      const tensors = { ...(await read(folder)), ...layer };
      write(folder, "adapter_model.safetensors", tensors, { "adapter_config.json": config });
    }
    const { whole, modules } = await run("lora", "merge", "l1", "l2", "--out", "layered");
    assert.deepEqual([whole, modules], [0, 1]);
    assert.deepEqual(Object.keys(await read("layered")).sort(), [
      "base_model.model.m.lora_A.weight",
      "base_model.model.m.lora_B.weight",
    ]);
    const [first, second] = [await change("l1"), await change("l2")];
    assertClose(
      await change("layered"),
      first.map((value, i) => value + (second[i] ?? 0)),
    );
  });

  test("options that a combination does not use are refused", async () => {
    writeAdapter("idle", 2, 3);
    for (const [combination, option, value] of [
      ["cat", "--rank", "4"],
      ["ties", "--rank", "2"],
      ["linear", "--clamp", "0.9"],
      ["cat", "--density", "0.5"],
      ["svd", "--density", "0.5"],
    ] as const) {
      const refused = await run("lora", "merge", "idle", "--combination", combination, option, value, "--out", "n");
      assert.deepEqual([refused.code, refused.where], ["CliUsage", { field: option }], combination);
    }
  });

  test("factor by factor has cross terms, needs one rank, and is what it says of one adapter", async () => {
    writeAdapter("x", 2, 7);
    writeAdapter("y", 2, 9);
    writeAdapter("z", 3, 11);
    await run("lora", "merge", "x", "--weights", "3", "--combination", "ties", "--out", "alone");
    assertClose(
      await change("alone"),
      (await change("x")).map((value) => 3 * value),
    );
    const unequal = await run("lora", "merge", "x", "z", "--combination", "linear", "--out", "n");
    assert.deepEqual([unequal.code, unequal.found, unequal.expected], ["PlanAdaptersDiffer", "rank 3", "rank 2"]);
    const random = (out: string, seed: string) =>
      run("lora", "merge", "x", "y", "--combination", "dare_linear", "--density", "0.5", "--seed", seed, "--out", out);
    await Promise.all([random("d1", "1"), random("d2", "1"), random("d3", "2")]);
    assert.deepEqual(await change("d1"), await change("d2"));
    assert.notDeepEqual(await change("d1"), await change("d3"));
  });

  test("random masks do not depend on where the adapters lie", async () => {
    const made = [];
    for (const place of ["here", "there"]) {
      writeAdapter(`${place}/x`, 2, 1);
      writeAdapter(`${place}/y`, 2, 5);
      const args = ["--combination", "dare_linear", "--density", "0.5", "--out", `${place}/out`];
      made.push((await run("lora", "merge", `${place}/x`, `${place}/y`, ...args)).version);
    }
    assert.ok(made[0] !== undefined);
    assert.equal(made[1], made[0]);
  });

  test("the manifest states the digest of every adapter and model, configs included", async () => {
    writeModel("b4", () => 0);
    writeModel("t4", (_, i) => Math.sin(i) / 8);
    writeAdapter("g", 2, 1);
    writeAdapter("h", 2, 1, { lora_alpha: 7 });
    await run("lora", "extract", "t4", "--base", "b4", "--out", "extracted");
    await run("lora", "merge", "g", "h", "g", "--out", "combined");
    const inputs = ["extracted", "combined"].map((folder) => {
      return parseManifest(readFileSync(path.join(cwd, folder, "manifest.json")))?.inputs ?? [];
    });
    assert.deepEqual(
      inputs.map((own) => own.map(({ model }) => model)),
      [
        ["t4", "b4"],
        ["g", "h", "g"],
      ],
    );
    const digests = inputs.flat().map(({ digest }) => digest ?? "none");
    for (const digest of digests) assert.match(digest, /^sha256:/);
    assert.equal(new Set(digests).size, 4);
    assert.equal(digests[2], digests[4]);
  });

  test("clamp bounds both factors by a quantile of their values", async () => {
    writeAdapter("c", 2, 13);
    writeAdapter("e", 2, 15);
    await run("lora", "merge", "c", "e", "--combination", "svd", "--clamp", "0.8", "--out", "clamped");
    const tensors = await read("clamped");
    const all = Object.values(tensors).flatMap(({ values }) => values);
    const bound = Math.max(...all.map(Math.abs));
    assert.ok(all.filter((value) => Math.abs(value) === bound).length >= 0.2 * all.length);
  });

  test("adapters of other models, with whole tensors twice, or with biases, are refused", async () => {
    writeAdapter("p", 2, 17);
    writeAdapter("q", 2, 19, { fan_in_fan_out: true });
    const field = await run("lora", "merge", "p", "q", "--out", "n");
    assert.deepEqual(fieldsOf(field, "field"), [
      "PlanAdaptersDiffer",
      "fan_in_fan_out",
      "true",
      "the same of all adapters",
    ]);
    const config = { "adapter_config.json": { peft_type: "LORA", r: 1, lora_alpha: 1 } };
    const factors = (columns: number) => ({
      "base_model.model.m.lora_A.weight": { shape: [1, columns], values: plainNumbers(columns, 1) },
      "base_model.model.m.lora_B.weight": { shape: [5, 1], values: plainNumbers(5, 1) },
    });
    write("wide", "adapter_model.safetensors", factors(9), config);
    const wide = await run("lora", "merge", "p", "wide", "--out", "n");
    assert.deepEqual([wide.code, wide.found], ["PlanAdaptersDiffer", "an update of [5, 9]"]);
    const norm = { "base_model.model.norm.weight": { shape: [2], values: [1, 2] } };
    for (const folder of ["w1", "w2"]) write(folder, "adapter_model.safetensors", { ...factors(4), ...norm }, config);
    const twice = await run("lora", "merge", "w1", "w2", "--out", "n");
    assert.deepEqual(fieldsOf(twice, "tensor").slice(0, 3), [
      "PlanAdaptersDiffer",
      "base_model.model.norm.weight",
      "a tensor that two adapters hold whole",
    ]);
    assert.equal((await run("lora", "merge", "p", "w1", "--out", "whole")).whole, 1);
    const bias = { "base_model.model.m.lora_B.bias": { shape: [5], values: plainNumbers(5, 2) } };
    write("biased", "adapter_model.safetensors", { ...factors(4), ...bias }, config);
    const biased = await run("lora", "merge", "biased", "--out", "n");
    assert.deepEqual(fieldsOf(biased, "tensor"), [
      "PlanAdapterNotSupported",
      "base_model.model.m.lora_B.bias",
      "an update of a bias",
      "factors of weights only",
    ]);
    writeAdapter("parameters", 2, 21, { target_parameters: ["experts.down_proj"] });
    const parameters = await run("lora", "merge", "p", "parameters", "--out", "n");
    assert.deepEqual(fieldsOf(parameters, "field").slice(0, 2), ["PlanAdapterNotSupported", "target_parameters"]);
    assert.equal((await run("lora", "merge", "p", "--weights", "1,2", "--out", "n")).code, "CliUsage");
  });
});
