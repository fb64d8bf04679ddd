// Several artifacts of one merge: quantized files come out of the same pass, with the bytes that quantizing the merged
// checkpoint would give, and the inputs are read as often as without them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { openGguf } from "../../steps/open-gguf.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { newStore, openerOf, testDeps } from "./deps.ts";
import { imatrixOf } from "./imatrix.ts";
import { bytesRead, type End, filesOf, makeYard, recipe, run } from "./outputs-yard.ts";
import type { Change } from "./small-llama.ts";

const VOCABULARY = { "model.embed_tokens.weight": [320, 256], "lm_head.weight": [320, 256] };
const BOTH = "[{ format: safetensors }, { format: gguf, scheme: q8_0 }, { format: gguf, scheme: q4_0 }]";

/** Bytes of every tensor of GGUF files, by name and type. */
async function tensorsOf(store: ObjectStore, keys: readonly string[]): Promise<Map<string, Buffer>> {
  const tensors = new Map<string, Buffer>();
  for (const key of keys) {
    const { header } = await openGguf(store, key);
    for (const { name, type, offset, bytes } of header.tensors) {
      const into = new Uint8Array(bytes);
      await store.readInto(key, offset, into);
      tensors.set(`${name} ${type.name}`, Buffer.from(into));
    }
  }
  return tensors;
}

test("artifacts of one pass have the bytes of quantizing the merged checkpoint, and inputs are read once", async () => {
  const { yard, deps } = await makeYard();
  const end = await run(yard, deps, recipe(BOTH, "allow_unlisted: drop"));
  const shards = filesOf(end, ".safetensors");
  assert.ok(shards.length > 2, "the model is in several files");
  for (const scheme of ["q8_0", "q4_0"]) {
    const split = filesOf(end, ".gguf").filter((name) => name.startsWith(`ab-${scheme}-0`));
    assert.equal(split.length, shards.length);
    const target = newStore();
    const version = newStore();
    for (const { name } of end.manifest.files) {
      if (!name.endsWith(".gguf")) await version.create(name, await readAll(yard, `${end.prefix}${name}`, 1e8));
    }
    const openStore = openerOf(version, target);
    const quantizing = { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
    const request = { source: version.uri, target: target.uri, name: "own.gguf", scheme };
    await runStep(quantizeStep, request, quantizing);
    const own = await tensorsOf(target, ["own.gguf"]);
    const made = await tensorsOf(
      yard,
      split.map((name) => `${end.prefix}${name}`),
    );
    assert.deepEqual([...made.keys()].sort(), [...own.keys()].sort());
    for (const [name, bytes] of own) assert.deepEqual(made.get(name), bytes, name);
    // All that the single file says of the model and its tokenizer, the first file of the set says too.
    const [first = ""] = split;
    const { metadata } = (await openGguf(yard, `${end.prefix}${first}`)).header;
    for (const [key, value] of (await openGguf(target, "own.gguf")).header.metadata) {
      assert.deepEqual(metadata.get(key), value, key);
    }
    assert.deepEqual(metadata.get("split.count"), { kind: "u16", value: split.length });
    assert.deepEqual(metadata.get("split.tensors.count"), { kind: "i32", value: own.size });
  }
  const plain = await makeYard();
  const alone = await run(plain.yard, plain.deps, recipe("[{ format: safetensors }]", "allow_unlisted: drop"));
  assert.equal(await bytesRead(yard, end), await bytesRead(plain.yard, alone));
  const verified = await runStep(
    verifyStep,
    { folder: `${yard.uri}` },
    testDeps(() => prefixed(yard, end)),
  );
  assert.equal(verified.files, end.manifest.files.length);
});

/** The version's folder as a store of its own. */
function prefixed(yard: ObjectStore, { prefix }: End): ObjectStore {
  return {
    ...yard,
    head: (key, options) => yard.head(`${prefix}${key}`, options),
    get: (key, limit, options) => yard.get(`${prefix}${key}`, limit, options),
    readInto: (key, offset, into, options) => yard.readInto(`${prefix}${key}`, offset, into, options),
  };
}

test("Llama 3's scaling and a SentencePiece tokenizer go into the first file of a set", async () => {
  const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  const { yard, deps } = await makeYard({
    config: { vocab_size: 320, rope_scaling: { rope_type: "llama3", ...scaling } },
    shapes: VOCABULARY,
  });
  const model = readFileSync(join(import.meta.dirname, "../golden/sentencepiece/tokenizer.model"));
  for (const upload of ["a", "b"]) await yard.create(`incoming/${upload}/1/tokenizer.model`, new Uint8Array(model));
  const end = await run(yard, deps, recipe("[{ format: gguf, scheme: q8_0 }]", "allow_unlisted: drop"));
  const files = filesOf(end, ".gguf");
  assert.ok(files.length > 1);
  const headers = await Promise.all(files.map(async (name) => (await openGguf(yard, `${end.prefix}${name}`)).header));
  const holding = headers.map(({ tensors }) => tensors.filter(({ name }) => name === "rope_freqs.weight").length);
  assert.deepEqual(holding, [1, ...files.slice(1).map(() => 0)]);
  const total = headers.reduce((sum, { tensors }) => sum + tensors.length, 0);
  assert.deepEqual(headers[0]?.metadata.get("split.tensors.count"), { kind: "i32", value: total });
  assert.deepEqual(headers[0]?.metadata.get("tokenizer.ggml.model"), { kind: "string", value: "llama" });
});

test("only a GGUF file is published when nothing else is asked for, and it is the next merge's input", async () => {
  const { yard, deps } = await makeYard();
  const end = await run(yard, deps, recipe("[{ format: gguf, scheme: q8_0 }]", "allow_unlisted: drop"), 1e9);
  assert.deepEqual(filesOf(end, ".gguf"), ["ab-q8_0.gguf"]);
  assert.deepEqual([...filesOf(end, ".safetensors"), ...filesOf(end, ".index.json")], []);
  const { checkpoint } = await openCheckpointFile(yard, `${end.prefix}ab-q8_0.gguf`);
  assert.ok(checkpoint.tensors.some(({ packing }) => packing?.interleavedHeads !== undefined));
  const again = recipe("[{ format: safetensors }]", "allow_unlisted: drop").replace(
    "incoming/b",
    "artifacts/ab:nightly",
  );
  const next = await run(yard, deps, again, 1e9);
  assert.deepEqual(filesOf(next, ".safetensors"), ["model.safetensors"]);
  assert.ok(
    next.manifest.inputs.every(({ digest }) => digest !== null),
    "a published file is known by its digest",
  );
});

test("a set of GGUF files in a version is one model again, and refused when one of them is gone", async () => {
  const { yard, deps } = await makeYard();
  const end = await run(yard, deps, recipe("[{ format: gguf, scheme: f32 }]", "allow_unlisted: drop"));
  const files = filesOf(end, ".gguf");
  assert.ok(files.length > 2);
  const plain = await makeYard();
  const merged = await run(plain.yard, plain.deps, recipe("[{ format: safetensors }]", "allow_unlisted: drop"), 1e9);
  const { checkpoint: whole } = await openCheckpoint(plain.yard, merged.prefix);
  const { checkpoint } = await openCheckpoint(yard, end.prefix);
  const stored = whole.tensors.filter(({ name }) => !name.endsWith("inv_freq"));
  const named = ({ tensors }: { tensors: readonly { name: string; shape: readonly number[] }[] }) =>
    tensors.map(({ name, shape }) => `${name} ${shape}`).sort();
  assert.deepEqual(named(checkpoint), named({ tensors: stored }));
  const again = recipe("[{ format: safetensors }]", "allow_unlisted: drop");
  const next = await run(yard, deps, again.replace("incoming/b", "artifacts/ab:nightly"), 1e9);
  assert.deepEqual(filesOf(next, ".safetensors"), ["model.safetensors"]);
  await yard.delete(`${end.prefix}${files[1]}`);
  await assert.rejects(openCheckpoint(yard, end.prefix), { code: "GgufSplitIncomplete" });
});

test("a unit that was made before is found with all its files, and made again when one of them is gone", async () => {
  const { yard, deps, merged } = await makeYard();
  const first = await run(yard, deps, recipe(BOTH, "allow_unlisted: drop"), 1e9);
  assert.equal(merged.length, 1);
  const renamed = (name: string) => recipe(BOTH, "allow_unlisted: drop").replace("name: small", `name: ${name}`);
  const second = await run(yard, deps, renamed("other"), 1e9);
  assert.equal(merged.length, 1, "nothing is computed again");
  assert.deepEqual(filesOf(second, ".gguf"), filesOf(first, ".gguf"));
  for (const { prefix } of [first, second]) await yard.delete(`${prefix}ab-q4_0.gguf`);
  await run(yard, deps, renamed("third"), 1e9);
  assert.equal(merged.length, 2);
});

test("an importance matrix gives the bytes of quantizing with it, and another one is another run", async () => {
  const { yard, deps, merged } = await makeYard();
  const name = "blk.0.attn_output.weight";
  const put = async (heavy: number): Promise<void> => {
    const matrix = imatrixOf({
      [name]: Array.from({ length: 256 }, (_, column) => (column % 2 === heavy ? 100 : 0.01)),
    });
    await yard.delete("matrices/small.imatrix");
    await writeBytes(yard, "matrices/small.imatrix", matrix);
  };
  await put(0);
  const outputs = "[{ format: safetensors }, { format: gguf, scheme: q4_0, imatrix: matrices/small.imatrix }]";
  const text = recipe(outputs, "allow_unlisted: drop");
  const end = await run(yard, deps, text, 1e9);
  const [version, target] = [newStore(), newStore()];
  for (const { name: file } of end.manifest.files) {
    if (!file.endsWith(".gguf")) await version.create(file, await readAll(yard, `${end.prefix}${file}`, 1e8));
  }
  await version.create("imatrix", await readAll(yard, "matrices/small.imatrix", 1e6));
  const openStore = openerOf(version, target);
  const quantizing = { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
  for (const imatrix of [undefined, { store: version.uri, key: "imatrix" }]) {
    const file = imatrix === undefined ? "plain.gguf" : "own.gguf";
    const request = { source: version.uri, target: target.uri, name: file, scheme: "q4_0" };
    await runStep(quantizeStep, { ...request, ...(imatrix && { imatrix }) }, quantizing);
  }
  const made = await tensorsOf(yard, [`${end.prefix}ab-q4_0.gguf`]);
  assert.deepEqual(made, await tensorsOf(target, ["own.gguf"]));
  assert.notDeepEqual(made, await tensorsOf(target, ["plain.gguf"]));
  const before = merged.length;
  await put(1);
  const next = await run(yard, deps, text, 1e9);
  assert.ok(merged.length > before, "what the file holds is part of the content key");
  assert.notEqual(next.prefix, end.prefix);
});

test("what cannot be in a quantized file stops the run before anything is published", async () => {
  const refusals: readonly (readonly [string, Change, string])[] = [
    [recipe(BOTH, "allow_unlisted: drop"), { config: { model_type: "mamba" } }, "QuantizeModelUnsupported"],
    [recipe("[{ format: gguf }]"), {}, "RecipeNotSupported"],
    [recipe("[{ format: safetensors, scheme: q8_0 }]"), {}, "RecipeNotSupported"],
    [recipe("[{ format: gguf, scheme: q4_k_x }]"), {}, "RecipeNotSupported"],
    [recipe("[{ format: safetensors, imatrix: a.imatrix }]"), {}, "RecipeNotSupported"],
    [recipe("[{ format: gguf, scheme: q8_0, imatrix: none.imatrix }]"), {}, "CheckpointFileMissing"],
    [recipe("[{ format: onnx, scheme: q8_0 }]"), {}, "RecipeNotSupported"],
    [recipe("[{ format: safetensors }, { format: safetensors }]"), {}, "RecipeFieldInvalid"],
    [
      recipe(BOTH, "non_finite: propagate\n  allow_unlisted: drop"),
      { first: { "model.norm.weight": Number.NaN } },
      "QuantizeNotFinite",
    ],
  ];
  for (const [text, change, code] of refusals) {
    const { yard, deps } = await makeYard(change);
    await assert.rejects(run(yard, deps, text, 1e9), { code }, text);
    for await (const { key } of yard.list("artifacts/")) assert.fail(`${key} is published`);
  }
});
