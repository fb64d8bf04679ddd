// Several artifacts of one merge: quantized files come out of the same pass, with the bytes that quantizing the merged
// checkpoint would give, and the inputs are read as often as without them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { type Manifest, parseManifest } from "../../core/artifact/manifest.ts";
import { MergeyardError } from "../../core/error.ts";
import { receiptSchema } from "../../core/plan/receipt.ts";
import { checkStep } from "../../steps/check.ts";
import { openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { openGguf } from "../../steps/open-gguf.ts";
import { planStep } from "../../steps/plan.ts";
import { publishStep } from "../../steps/publish.ts";
import { quantizeStep } from "../../steps/quantize.ts";
import type { PlanOutput } from "../../steps/schemas.ts";
import { runStep, type UnitDeps } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { initYard } from "../../steps/yard.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { runUnits } from "./pipeline.ts";
import { type Change, putLlama } from "./small-llama.ts";

const TOKENIZER = {
  added_tokens: [{ id: 0, content: "<s>", special: true }],
  pre_tokenizer: { type: "ByteLevel", use_regex: true },
  model: { type: "BPE", vocab: { a: 1, b: 2, ab: 3 }, merges: ["a b"] },
};

const recipe = (outputs: string, more = "") => `name: small
models: { one: incoming/a, two: incoming/b }
merge:
  merge_method: linear
  models:
    - { model: one, parameters: { weight: 0.25 } }
    - { model: two, parameters: { weight: 0.75 } }
  dtype: bfloat16
  ${more}
outputs: ${outputs}
publish: { model: ab, channel: nightly }
`;

const BOTH = "[{ format: safetensors }, { format: gguf, scheme: q8_0 }, { format: gguf, scheme: q4_0 }]";

async function makeYard(change: Change = {}): Promise<{ yard: ObjectStore; merged: string[]; deps: UnitDeps }> {
  const yard = newStore();
  await initYard(yard);
  for (const [model, norm] of [
    ["a", 0.5],
    ["b", 0.25],
  ] as const) {
    await putLlama(yard, { first: { "model.norm.weight": norm }, ...change }, `incoming/${model}/1/`);
    await putText(yard, `incoming/${model}/1/tokenizer.json`, JSON.stringify(TOKENIZER));
  }
  const merged: string[] = [];
  const openStore = openerOf(yard);
  const executeMerge = createInThreadExecutor(openStore, ({ unit }) => void merged.push(unit.file));
  return { yard, merged, deps: testDeps(openStore, { executeMerge }) };
}

type End = { readonly planned: PlanOutput; readonly prefix: string; readonly manifest: Manifest };

async function run(yard: ObjectStore, deps: UnitDeps, text: string, shardBytes = 400_000): Promise<End> {
  await putText(yard, "pipelines/small.yaml", text);
  const pipeline = { store: yard.uri, key: "pipelines/small.yaml" };
  const planned = await runStep(planStep, { yard: yard.uri, pipeline, shardBytes }, deps);
  await runUnits(planned, deps);
  const ref = { yard: planned.yard, run: planned.run };
  await runStep(checkStep, ref, deps);
  const result = await runStep(publishStep, { ...ref, plannedMs: planned.plannedMs }, deps);
  const prefix = layout.version("ab", result.version ?? "");
  const manifest = parseManifest(await readAll(yard, `${prefix}manifest.json`, 1e7));
  assert.ok(manifest !== undefined);
  return { planned, prefix, manifest };
}

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

async function bytesRead(yard: ObjectStore, { planned }: End): Promise<number> {
  const { index = 0, units = 0 } = planned.stages.at(-1) ?? {};
  let sum = 0;
  for (let unit = 0; unit < units; unit++) {
    const bytes = await readAll(yard, layout.receipt(planned.run, index, unit), 1e7);
    sum += receiptSchema.parse(JSON.parse(new TextDecoder().decode(bytes))).bytesRead;
  }
  return sum;
}

const filesOf = ({ manifest }: End, ending: string) =>
  manifest.files.map(({ name }) => name).filter((name) => name.endsWith(ending));

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

test("what cannot be in a quantized file stops the run before anything is published", async () => {
  const refusals: readonly (readonly [string, Change, string])[] = [
    [recipe(BOTH, "allow_unlisted: drop"), { config: { model_type: "mamba" } }, "QuantizeModelUnsupported"],
    [recipe("[{ format: gguf }]"), {}, "RecipeNotSupported"],
    [recipe("[{ format: safetensors, scheme: q8_0 }]"), {}, "RecipeNotSupported"],
    [recipe("[{ format: gguf, scheme: q4_k_x }]"), {}, "RecipeNotSupported"],
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
    await assert.rejects(run(yard, deps, text, 1e9), (error) => {
      assert.ok(error instanceof MergeyardError, String(error));
      assert.equal(error.code, code, text);
      return true;
    });
    for await (const { key } of yard.list("artifacts/")) assert.fail(`${key} is published`);
  }
});
