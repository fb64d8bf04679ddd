// Goal: what `lora extract` writes is what PEFT asks of an adapter, under transformers 4 and 5: names, ranks, whole
// modules. Method: small models in files, through the command line; each adapter is merged again, too.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { plainNumbers } from "../random-numbers.ts";
import { createModelsFolder } from "./model-files.ts";

const { cwd, run, read, write, remove } = createModelsFolder("mergeyard-lora-names-");
after(remove);

function assertClose(got: readonly number[] | undefined, expected: readonly number[] | undefined): void {
  assert.equal(got?.length, expected?.length);
  got?.forEach((value, i) => {
    assert.ok(Math.abs(value - (expected?.[i] ?? 0)) < 1e-5, `${i}: ${value}, not ${expected?.[i]}`);
  });
}

test("experts and their router have one rank, and all of a layer have factors when one has", async () => {
  const layer = "model.layers.0.mlp";
  const shapes: Readonly<Record<string, readonly [number, number]>> = {
    [`${layer}.gate.weight`]: [2, 8],
    "model.layers.0.self_attn.q_proj.weight": [8, 8],
    ...Object.fromEntries(
      [0, 1].flatMap((expert) => [
        [`${layer}.experts.${expert}.gate_proj.weight`, [5, 8]],
        [`${layer}.experts.${expert}.up_proj.weight`, [5, 8]],
        [`${layer}.experts.${expert}.down_proj.weight`, [8, 5]],
      ]),
    ),
  };
  const changed = [
    `${layer}.gate.weight`,
    `${layer}.experts.1.up_proj.weight`,
    "model.layers.0.self_attn.q_proj.weight",
  ];
  const model = (share: number) =>
    Object.fromEntries(
      Object.entries(shapes).map(([name, shape], at) => {
        const own = changed.includes(name) ? plainNumbers(shape[0] * shape[1], at + 50) : [];
        const values = plainNumbers(shape[0] * shape[1], at + 1).map((value, i) => value + share * (own[i] ?? 0));
        return [name, { shape, values }];
      }),
    );
  const config = { "config.json": { architectures: ["Qwen3MoeForCausalLM"], model_type: "qwen3_moe" } };
  write("moe", "model.safetensors", model(0), config);
  write("moe-tuned", "model.safetensors", model(1), config);
  await run("lora", "extract", "moe-tuned", "--base", "moe", "--out", "moe-adapter");
  const adapter = await read("moe-adapter");
  const shapesOf = (module: string) =>
    ["A", "B"].map((side) => adapter[`base_model.model.${module}.lora_${side}.weight`]?.shape);
  for (const [module, outputs] of [
    [`${layer}.gate`, 2],
    [`${layer}.experts.0.gate_proj`, 5],
    [`${layer}.experts.0.up_proj`, 5],
    [`${layer}.experts.1.gate_proj`, 5],
    [`${layer}.experts.1.up_proj`, 5],
    ["model.layers.0.self_attn.q_proj", 8],
  ] as const) {
    assert.deepEqual(shapesOf(module), [
      [8, 8],
      [outputs, 8],
    ]);
  }
  assert.equal(Object.keys(adapter).length, 12, "no expert's down_proj changed");
  const written = JSON.parse(readFileSync(path.join(cwd, "moe-adapter", "adapter_config.json"), "utf8"));
  assert.deepEqual([written.r, written.lora_alpha, written.rank_pattern, written.alpha_pattern], [8, 8, {}, {}]);
  writeFileSync(path.join(cwd, "moe.yaml"), "merge_method: passthrough\nmodels: [{model: moe+moe-adapter}]\n");
  await run("merge", "moe.yaml", "--out", "moe-merged");
  const merged = await read("moe-merged");
  for (const [name, { values }] of Object.entries(model(1))) assertClose(merged[name]?.values, values);
});

test("a module that is kept whole has all its tensors, and no factors inside of it", async () => {
  const shapes = {
    "h.0.ln.weight": [4],
    "h.0.ln.bias": [4],
    "h.1.ln.weight": [4],
    "h.1.ln.bias": [4],
    "h.1.mamba.D": [4],
    "h.1.mamba.norm.weight": [4],
    "h.1.mamba.in_proj.weight": [6, 4],
    "h.1.fc.weight": [6, 4],
  };
  const changed = [
    "h.0.ln.weight",
    "h.1.mamba.D",
    "h.1.mamba.norm.weight",
    "h.1.mamba.in_proj.weight",
    "h.1.fc.weight",
  ];
  const model = (share: number) =>
    Object.fromEntries(
      Object.entries(shapes).map(([name, shape], at) => {
        const own = plainNumbers(24, at + 60);
        const values = plainNumbers(
          shape.reduce((product, length) => product * length, 1),
          at + 1,
        );
        return [
          name,
          { shape, values: values.map((x, i) => x + (changed.includes(name) ? share * (own[i] ?? 0) : 0)) },
        ];
      }),
    );
  for (const [folder, share] of [
    ["wb", 0],
    ["wt", 1],
  ] as const) {
    write(folder, "model.safetensors", model(share), { "config.json": { model_type: "x" } });
  }
  const { modules, whole } = await run("lora", "extract", "wt", "--base", "wb", "--out", "wa");
  assert.deepEqual([modules, whole], [1, 3]);
  assert.deepEqual(
    Object.keys(await read("wa"))
      .map((name) => name.replace("base_model.model.", ""))
      .sort(),
    [
      "h.0.ln.bias",
      "h.0.ln.weight",
      "h.1.fc.lora_A.weight",
      "h.1.fc.lora_B.weight",
      "h.1.mamba.D",
      "h.1.mamba.in_proj.weight",
      "h.1.mamba.norm.weight",
    ],
  );
  const written = JSON.parse(readFileSync(path.join(cwd, "wa", "adapter_config.json"), "utf8"));
  assert.deepEqual([written.target_modules, written.modules_to_save], [["fc"], ["h.0.ln", "h.1.mamba"]]);
  writeFileSync(path.join(cwd, "w.yaml"), "merge_method: passthrough\nmodels: [{model: wb+wa}]\n");
  await run("merge", "w.yaml", "--out", "wm");
  const merged = await read("wm");
  for (const [name, { values }] of Object.entries(model(1))) assertClose(merged[name]?.values, values);
});

test("models that checkpoints name otherwise have the names that transformers gives their modules", async () => {
  for (const [architecture, names] of [
    [
      "LlavaForConditionalGeneration",
      {
        "language_model.model.layers.0.q_proj": "model.language_model.layers.0.q_proj",
        "language_model.lm_head": "lm_head",
        "vision_tower.layers.0.q_proj": "model.vision_tower.layers.0.q_proj",
        "multi_modal_projector.linear_1": "model.multi_modal_projector.linear_1",
      },
    ],
    [
      "Qwen2VLForConditionalGeneration",
      {
        "model.layers.0.q_proj": "model.language_model.layers.0.q_proj",
        lm_head: "lm_head",
        "visual.blocks.0.qkv": "model.visual.blocks.0.qkv",
      },
    ],
    ["GPT2LMHeadModel", { "h.0.mlp.c_fc": "transformer.h.0.mlp.c_fc" }],
    ["OPTForCausalLM", { "decoder.layers.0.fc1": "model.decoder.layers.0.fc1" }],
  ] as const) {
    const model = (share: number) =>
      Object.fromEntries(
        Object.keys(names).map((name, at) => {
          const own = plainNumbers(12, at + 70);
          const values = plainNumbers(12, at + 1).map((x, i) => x + share * (own[i] ?? 0));
          return [`${name}.weight`, { shape: [4, 3], values }];
        }),
      );
    const config = { "config.json": { architectures: [architecture], model_type: "x", vocab_size: 4 } };
    write(`${architecture}-b`, "model.safetensors", model(0), config);
    write(`${architecture}-t`, "model.safetensors", model(1), config);
    const out = `${architecture}-a`;
    await run("lora", "extract", `${architecture}-t`, "--base", `${architecture}-b`, "--out", out, "--rank", "2");
    const found = Object.keys(await read(out)).map(
      (name) => /^base_model\.model\.(.*?)(?:\.lora_[AB])?\.weight$/.exec(name)?.[1],
    );
    assert.deepEqual([...new Set(found)].sort(), Object.values<string>(names).sort());
    await run("lora", "extract", `${architecture}-t`, "--base", `${architecture}-b`, "--out", `${out}4`);
    writeFileSync(
      path.join(cwd, "vl.yaml"),
      `merge_method: passthrough\nmodels: [{model: ${architecture}-b+${out}4}]\n`,
    );
    await run("merge", "vl.yaml", "--out", `${architecture}-m`);
    const merged = await read(`${architecture}-m`);
    for (const [name, { values }] of Object.entries(model(1))) assertClose(merged[name]?.values, values);
  }
});

test("the head of a GPT-NeoX has the names of transformers 4 and 5, and is merged once", async () => {
  const config = { "config.json": { architectures: ["GPTNeoXForCausalLM"], model_type: "gpt_neox", vocab_size: 5 } };
  const model = (head: number) => ({
    "gpt_neox.embed_in.weight": { shape: [5, 3], values: plainNumbers(15, 1) },
    "embed_out.weight": { shape: [5, 3], values: plainNumbers(15, 2).map((value, i) => value + head * (i % 3)) },
  });
  write("neox", "model.safetensors", model(0), config);
  write("neox-tuned", "model.safetensors", model(1), config);
  const names = ["embed_out", "lm_head"];
  for (const [more, parts] of [
    [[], ["weight"]],
    [["--embed-lora"], ["lora_A.weight", "lora_B.weight"]],
  ] as const) {
    const out = `neox-${parts.length}`;
    await run("lora", "extract", "neox-tuned", "--base", "neox", "--out", out, ...more);
    const adapter = await read(out);
    const expected = names.flatMap((name) => parts.map((part) => `base_model.model.${name}.${part}`));
    assert.deepEqual(Object.keys(adapter).sort(), expected);
    const written = JSON.parse(readFileSync(path.join(cwd, out, "adapter_config.json"), "utf8"));
    assert.deepEqual(written[more.length === 0 ? "modules_to_save" : "target_modules"], names);
    writeFileSync(path.join(cwd, "neox.yaml"), `merge_method: passthrough\nmodels: [{model: neox+${out}}]\n`);
    await run("merge", "neox.yaml", "--out", `${out}-merged`);
    const merged = await read(`${out}-merged`);
    assert.deepEqual(Object.keys(merged).sort(), ["embed_out.weight", "gpt_neox.embed_in.weight"]);
    assertClose(merged["embed_out.weight"]?.values, model(1)["embed_out.weight"].values);
  }
});
