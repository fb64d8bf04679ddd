// Compressed-tensors folders made in the pass that merges: the bytes that `mergeyard quantize` gives for the merged
// checkpoint, with the inputs read as often as without them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { readSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { planStep } from "../../steps/plan.ts";
import { pullStep } from "../../steps/pull/pull.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { bytesRead, filesOf, makeYard, recipe, run } from "./outputs-yard.ts";
import { runUnits } from "./pipeline.ts";
import type { Change } from "./small-llama.ts";

const KEEP = "allow_unlisted: drop";
const compressed = (scheme: string) => `{ format: compressed-tensors, scheme: ${scheme} }`;

/** Bytes of every tensor of safetensors files, by name, dtype and shape. */
async function tensorsOf(store: ObjectStore, keys: readonly string[]): Promise<Map<string, Buffer>> {
  const tensors = new Map<string, Buffer>();
  for (const key of keys) {
    const file = await readAll(store, key, 1e8);
    const read = async (offset: number, bytes: number) => file.subarray(offset, offset + bytes);
    for (const { name, dtype, shape, ranges } of (await readSafetensorsHeader(read, { name: key, bytes: file.length }))
      .tensors) {
      const [{ offset, bytes } = { offset: 0, bytes: 0 }] = ranges;
      tensors.set(`${name} ${dtype} ${shape}`, Buffer.from(file.subarray(offset, offset + bytes)));
    }
  }
  return tensors;
}

async function folderOf(yard: ObjectStore, prefix: string, names: readonly string[]): Promise<ObjectStore> {
  const folder = newStore();
  for (const name of [...names, "manifest.json"]) {
    await folder.create(name, await readAll(yard, `${prefix}${name}`, 1e8));
  }
  return folder;
}

const textOf = async (store: ObjectStore, key: string) => new TextDecoder().decode(await readAll(store, key, 1e7));

test("a folder of parts has the bytes of quantizing the merged checkpoint, and inputs are read once", async () => {
  const plain = await makeYard();
  const merged = await run(plain.yard, plain.deps, recipe("[{ format: safetensors }]", KEEP));
  const names = merged.manifest.files.map(({ name }) => name);
  const source = await folderOf(plain.yard, merged.prefix, names);
  for (const scheme of ["fp8_dynamic", "fp8_block", "int8_dynamic", "int4_group32_asym", "mxfp4a16"]) {
    const { yard, deps } = await makeYard();
    const end = await run(yard, deps, recipe(`[${compressed(scheme)}]`, KEEP));
    assert.equal(await bytesRead(yard, end), await bytesRead(plain.yard, merged), scheme);
    const shards = filesOf(end, ".safetensors");
    assert.deepEqual(shards, filesOf(merged, ".safetensors"));
    assert.ok(shards.length > 2, "the model is in several files");

    const target = newStore();
    await runStep(
      quantizeFolderStep,
      { source: source.uri, target: target.uri, scheme },
      testDeps(openerOf(source, target)),
    );
    const own = await tensorsOf(target, ["model.safetensors"]);
    const keys = shards.map((name) => `${end.prefix}${name}`);
    const made = await tensorsOf(yard, keys);
    assert.deepEqual([...made.keys()].sort(), [...own.keys()].sort(), scheme);
    for (const [name, bytes] of own) assert.deepEqual(made.get(name), bytes, `${scheme} ${name}`);
    assert.equal(await textOf(yard, `${end.prefix}config.json`), await textOf(target, "config.json"));

    const folder = await folderOf(
      yard,
      end.prefix,
      end.manifest.files.map(({ name }) => name),
    );
    const verified = await runStep(verifyStep, { folder: folder.uri }, testDeps(openerOf(folder)));
    assert.equal(verified.files, end.manifest.files.length);
    const { checkpoint } = await openCheckpoint(folder, "");
    assert.ok(checkpoint.tensors.some(({ packing }) => packing?.parts !== undefined));
  }
});

/** A version of one output, and what quantizing the merged checkpoint into that scheme gives. */
async function compare(output: string, scheme: string, change: Change = {}) {
  const plain = await makeYard(change);
  const merged = await run(plain.yard, plain.deps, recipe("[{ format: safetensors }]", KEEP));
  const source = await folderOf(plain.yard, merged.prefix, filesOf(merged, ""));
  const target = newStore();
  const input = { source: source.uri, target: target.uri, scheme };
  await runStep(quantizeFolderStep, input, testDeps(openerOf(source, target)));
  const { yard, deps } = await makeYard(change);
  const end = await run(yard, deps, recipe(`[${output}]`, KEEP));
  const shards = filesOf(end, ".safetensors");
  assert.ok(shards.length > 2, "the model is in several files");
  const made = await tensorsOf(
    yard,
    shards.map((name) => `${end.prefix}${name}`),
  );
  assert.deepEqual(new Map([...made].sort()), new Map([...(await tensorsOf(target, ["model.safetensors"]))].sort()));
  assert.equal(await textOf(yard, `${end.prefix}config.json`), await textOf(target, "config.json"));
  const read = { own: await bytesRead(yard, end), plain: await bytesRead(plain.yard, merged) };
  return { source, end, yard, read };
}

test("a scheme that measures whole tensors gets what fused ones share, from merging them once more", async () => {
  for (const scheme of ["fp8_tensor", "int8_tensor", "nvfp4a16"]) {
    const { source, read } = await compare(compressed(scheme), scheme);
    const { checkpoint } = await openCheckpoint(source, "");
    const linear = checkpoint.tensors.filter(({ name }) => /layers.*_proj\.weight$/.test(name));
    const bytes = linear.flatMap(({ ranges }) => ranges).reduce((sum, range) => sum + range.bytes, 0);
    assert.equal(read.own - read.plain, 2 * 2 * bytes, "the modules of two models in F32, once more");
  }
});

/** Rows that every scheme's groups fill. */
const WIDE: Change = {
  config: { intermediate_size: 384 },
  shapes: Object.fromEntries(
    [0, 1].flatMap((layer) =>
      Object.entries({ gate: [384, 256], up: [384, 256], down: [256, 384] }).map(([name, shape]) => {
        return [`model.layers.${layer}.mlp.${name}_proj.weight`, shape];
      }),
    ),
  ),
};

test("folders of other tools are made in the pass that merges, with the inputs read once", async () => {
  for (const [format, scheme] of [
    ["gptq", "gptq4_channel"],
    ["awq", "awq4_group128"],
    ["bitsandbytes", "nf4_block64"],
    ["hqq", "hqq4_group64"],
    ["hqq", "hqq3_group64"],
  ] as const) {
    const { read, end, yard } = await compare(`{ format: ${format}, scheme: ${scheme} }`, scheme, WIDE);
    assert.equal(read.own, read.plain, scheme);
    const folder = await folderOf(yard, end.prefix, filesOf(end, ""));
    const { checkpoint } = await openCheckpoint(folder, "");
    assert.ok(checkpoint.tensors.some(({ packing }) => packing?.parts?.container === format));
    const verified = await runStep(verifyStep, { folder: folder.uri }, testDeps(openerOf(folder)));
    assert.equal(verified.files, end.manifest.files.length);
  }
});

test("it lies beside a GGUF file, is found again with it, and is the next merge's input", async () => {
  const { yard, deps, merged } = await makeYard();
  const both = recipe(`[{ format: gguf, scheme: q8_0 }, ${compressed("fp8_dynamic")}]`, KEEP);
  const first = await run(yard, deps, both, 1e9);
  assert.deepEqual(filesOf(first, ".gguf"), ["ab-q8_0.gguf"]);
  assert.deepEqual(filesOf(first, ".safetensors"), ["model.safetensors"]);
  assert.equal(merged.length, 1);
  const second = await run(yard, deps, both.replace("name: small", "name: other"), 1e9);
  assert.equal(merged.length, 1, "nothing is computed again");
  assert.deepEqual(filesOf(second, ".safetensors"), ["model.safetensors"]);
  const again = recipe("[{ format: safetensors }]", KEEP).replace("incoming/b", "artifacts/ab:nightly");
  const next = await run(yard, deps, again, 1e9);
  assert.deepEqual(filesOf(next, ".safetensors"), ["model.safetensors"]);
});

test("several folders lie in one version, each loads by itself, and three formats read the inputs once", async () => {
  const plain = await makeYard();
  const alone = await run(plain.yard, plain.deps, recipe("[{ format: safetensors }]", KEEP));
  const { yard, deps } = await makeYard();
  const folders = `${compressed("fp8_dynamic")}, ${compressed("w8a16")}`;
  const all = `[{ format: safetensors }, { format: gguf, scheme: q8_0 }, ${folders}]`;
  const end = await run(yard, deps, recipe(all, KEEP));
  assert.equal(await bytesRead(yard, end), await bytesRead(plain.yard, alone));
  const names = end.manifest.files.map(({ name }) => name);
  const source = await folderOf(yard, end.prefix, names);
  assert.equal((await runStep(verifyStep, { folder: source.uri }, testDeps(openerOf(source)))).files, names.length);
  const shards = filesOf(alone, ".safetensors");
  for (const scheme of ["fp8_dynamic", "int8_channel"]) {
    const target = newStore();
    const request = { source: source.uri, target: target.uri, scheme };
    await runStep(quantizeFolderStep, request, testDeps(openerOf(source, target)));
    const own = await tensorsOf(target, ["model.safetensors"]);
    const keys = shards.map((name) => `${scheme}/${name}`);
    assert.deepEqual(await tensorsOf(source, keys), new Map([...own].sort()), scheme);
    for (const name of ["config.json", "tokenizer.json"]) {
      assert.equal(await textOf(source, `${scheme}/${name}`), await textOf(target, name), name);
    }
    const { checkpoint } = await openCheckpoint(source, `${scheme}/`);
    assert.ok(checkpoint.tensors.some(({ packing }) => packing?.parts !== undefined));
  }
  // The version itself is the merged checkpoint, with its own digests.
  const { checkpoint } = await openCheckpoint(source, "");
  assert.ok(checkpoint.tensors.every(({ packing, digest }) => packing === undefined && digest !== undefined));

  const pulled = newStore();
  await runStep(
    pullStep,
    { yard: yard.uri, model: "ab:nightly", target: pulled.uri },
    testDeps(openerOf(yard, pulled)),
  );
  assert.equal((await openCheckpoint(pulled, "fp8_dynamic/")).checkpoint.tensors.length, checkpoint.tensors.length);
  for (const place of ["artifacts/ab:nightly", "artifacts/ab:nightly/fp8_dynamic"]) {
    const again = recipe("[{ format: safetensors }]", KEEP)
      .replace("incoming/b", place)
      .replace("model: ab", "model: c");
    await putText(yard, "pipelines/next.yaml", again);
    const pipeline = { store: yard.uri, key: "pipelines/next.yaml" };
    const planned = await runStep(planStep, { yard: yard.uri, pipeline }, deps);
    await runUnits(planned, deps);
  }
  await assert.rejects(
    run(yard, deps, recipe("[{ format: safetensors }]", KEEP).replace("incoming/b", "artifacts/ab:nightly/other")),
    { code: "YardModelMissing" },
  );
});

test("without the merged checkpoint the version's own folder is the first of its folders", async () => {
  const { yard, deps } = await makeYard();
  const end = await run(yard, deps, recipe(`[${compressed("int8_dynamic")}, ${compressed("fp8_dynamic")}]`, KEEP), 1e9);
  assert.deepEqual(filesOf(end, ".safetensors"), ["fp8_dynamic/model.safetensors", "model.safetensors"]);
  const folder = await folderOf(
    yard,
    end.prefix,
    end.manifest.files.map(({ name }) => name),
  );
  for (const [prefix, format] of [
    ["", "int-quantized"],
    ["fp8_dynamic/", "float-quantized"],
  ] as const) {
    const { checkpoint } = await openCheckpoint(folder, prefix);
    const forms = checkpoint.tensors.flatMap(({ packing }) => packing?.parts ?? []);
    assert.ok(forms.some((form) => form.container === "compressed-tensors" && form.format === format));
  }
});

test("what no folder can hold in the same pass stops the run before anything is published", async () => {
  const [fp8, int8] = [compressed("fp8_dynamic"), compressed("int8_dynamic")];
  for (const [text, code, expected, change] of [
    [recipe("[{ format: gptq, scheme: fp8_tensor }]"), "RecipeNotSupported", /gptq4_group128/],
    [recipe("[{ format: exl2, scheme: exl2 }]"), "RecipeNotSupported", /safetensors or gguf/],
    [recipe("[{ format: hqq, scheme: hqq4_group128 }]"), "RecipeNotSupported", /hqq4_group64/],
    [recipe("[{ format: gptq, scheme: gptq4_group128 }]", KEEP), "QuantizeShapeUnsupported", /a multiple of 128/],
    [recipe(`[${fp8}, ${fp8}]`), "RecipeFieldInvalid", /every output once/],
    [recipe("[{ format: compressed-tensors }]"), "RecipeNotSupported", /with a scheme/],
    [recipe(`[${compressed("fp8_dynamik")}]`), "RecipeNotSupported", /fp8_dynamic/],
    [
      recipe(`[${fp8}]`, `non_finite: propagate\n  ${KEEP}`),
      "QuantizeNotFinite",
      /finite numbers/,
      { first: { "model.layers.0.mlp.up_proj.weight": Number.NaN } },
    ],
    [
      recipe(`[${int8}]`, KEEP),
      "QuantizeShapeUnsupported",
      /a multiple of 2 for BF16/,
      { shapes: { "model.layers.0.mlp.up_proj.weight": [287, 255] } },
    ],
  ] as const) {
    const { yard, deps } = await makeYard(change);
    await assert.rejects(run(yard, deps, text, 1e9), refusal({ code, expected }), text);
    for await (const { key } of yard.list("artifacts/")) assert.fail(`${key} is published`);
  }
});
