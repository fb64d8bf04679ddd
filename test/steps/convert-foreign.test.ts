// Converting checkpoints of other formats: by hand into a folder, and as the units of a pipeline's run.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { parseUniversal } from "../../core/artifact/universal.ts";
import { checkReadable } from "../../core/universal/conversion.ts";
import { convertStep } from "../../steps/convert/convert.ts";
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { runStep } from "../../steps/step.ts";
import { readAll, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { dict, tensor, torchOf } from "../core/formats/torch-parts.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { convertInto, putGolden } from "./folders.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, plan, recipe, runPipeline } from "./pipeline.ts";
import { putTorch } from "./torch-upload.ts";

const GOLDEN = join(import.meta.dirname, "../golden");

/** Tensors by name as hexadecimal text. */
async function tensorsOf(store: ObjectStore, file?: string): Promise<ReadonlyMap<string, string>> {
  const { checkpoint } = await (file === undefined ? openCheckpoint(store, "") : openCheckpointFile(store, file));
  const tensors = new Map<string, string>();
  for (const { name, dtype, shape, ranges } of checkpoint.tensors) {
    const pieces = await Promise.all(
      ranges.map(async (range) => {
        const into = new Uint8Array(range.bytes);
        await store.readInto(range.file, range.offset, into);
        return Buffer.from(into).toString("hex");
      }),
    );
    tensors.set(`${name} ${dtype} ${shape}`, pieces.join(""));
  }
  return tensors;
}

async function expectedOf(folder: string, file: string): Promise<ReadonlyMap<string, string>> {
  const store = newStore();
  const bytes = readFileSync(join(GOLDEN, folder, file));
  await writeBytes(store, "expected.safetensors", bytes);
  return tensorsOf(store, "expected.safetensors");
}

/** Keeps what the expected file names: buffers have no optimizer states. */
function narrow(all: ReadonlyMap<string, string>, wanted: ReadonlyMap<string, string>) {
  return new Map([...wanted.keys()].map((key) => [key, all.get(key)]));
}

async function convert(source: ObjectStore, to: "universal" | "safetensors"): Promise<ObjectStore> {
  return (await convertInto(source, to)).target;
}

suite("converting a training checkpoint", () => {
  const CASE = "deepspeed/z1_tp2_pp2_dp2_bf16_tied";

  test("gives parameters, moments, step and how ranks cut them, bit for bit", async () => {
    const source = newStore();
    await putGolden(source, CASE);
    const target = await convert(source, "universal");
    const universal = parseUniversal(await readAll(target, "universal.json", 1e7));
    const weights = await expectedOf(CASE, "expected/fp32.safetensors");
    assert.deepEqual(narrow(await tensorsOf(target), weights), weights);
    for (const state of ["exp_avg", "exp_avg_sq"] as const) {
      assert.deepEqual(
        await tensorsOf(target, `${state}.safetensors`),
        await expectedOf(CASE, `expected/${state}.safetensors`),
      );
    }
    const embedding = universal.parameters.find(({ name }) => name.endsWith("word_embeddings.weight"));
    assert.deepEqual(embedding?.vocabulary, { paddedRows: 64 });
    assert.deepEqual(embedding.states?.step, 3);
    assert.deepEqual(embedding.states.exp_avg?.file, "exp_avg.safetensors");
    const norm = universal.parameters.find(({ name }) => name === "4.weight");
    assert.deepEqual(norm?.pattern, { kind: "replicated" });
    assert.equal(universal.source.format, "deepspeed");
    assert.ok(universal.source.files.some(({ name }) => name === "global_step3/mp_rank_03_model_states.pt"));
  });

  test("to a safetensors folder keeps the weights alone, the same from the universal checkpoint", async () => {
    const source = newStore();
    await putGolden(source, CASE);
    const direct = await tensorsOf(await convert(source, "safetensors"));
    const around = await tensorsOf(await convert(await convert(source, "universal"), "safetensors"));
    assert.deepEqual(direct, around);
    assert.equal(direct.size, 18);
  });

  test("refuses replicas that differ, and leaves nothing that could be taken for a checkpoint", async () => {
    const source = newStore();
    await putGolden(source, "deepspeed/bad_replicated_differs");
    const target = newStore();
    const deps = testDeps(openerOf(source, target));
    const input = { source: source.uri, target: target.uri, to: "universal" };
    await assert.rejects(runStep(convertStep, input, deps), { code: "UniversalReplicasDisagree" });
    for await (const { key } of target.list("")) assert.fail(key);
  });

  test("is needed before ranks' copies can be merged", async () => {
    const source = newStore();
    await putGolden(source, CASE);
    const { checkpoint } = await openCheckpoint(source, "");
    assert.throws(() => checkReadable(checkpoint), { code: "CheckpointNeedsConversion" });
    const converted = await openCheckpoint(await convert(source, "universal"), "");
    assert.doesNotThrow(() => checkReadable(converted.checkpoint));
  });
});

suite("converting other formats", () => {
  test("joins the chunks of a distributed checkpoint", async () => {
    for (const [folder, expected] of [
      ["sharded", "expected.safetensors"],
      ["hf_sharded", "expected_hf.safetensors"],
    ] as const) {
      const source = newStore();
      await putGolden(source, `dcp/${folder}`);
      assert.deepEqual(await tensorsOf(await convert(source, "universal")), await expectedOf("dcp", expected));
    }
  });

  test("writes tied weights of a torch file once and names the other an alias", async () => {
    const source = newStore();
    const shared = tensor({ count: 6, size: [2, 3], stride: [3, 1] });
    const bytes = torchOf(
      dict(["embed", shared], ["head", shared], ["row", tensor({ count: 6, size: [3], stride: [1] })]),
      {
        0: new Uint8Array(24).fill(1),
      },
    );
    await writeBytes(source, "pytorch_model.bin", bytes);
    const target = await convert(source, "universal");
    const universal = parseUniversal(await readAll(target, "universal.json", 1e6));
    assert.deepEqual(
      universal.parameters.map(({ name, aliases }) => [name, aliases]),
      [
        ["embed", ["head"]],
        ["row", undefined],
      ],
    );
  });
});

suite("a pipeline over uploads of other formats", () => {
  async function setUp() {
    const yard = newStore();
    await makeYard(yard);
    await putTorch(yard, "incoming/a/1/", "incoming/c/1/");
    await putText(yard, "pipelines/torch.yaml", recipe(0.5).replace("one: incoming/a", "one: incoming/c"));
    const openStore = openerOf(yard);
    return { yard, deps: testDeps(openStore, { executeMerge: createInThreadExecutor(openStore, () => {}) }) };
  }

  test("converts them in the run and merges to the same tensors", async () => {
    const { yard, deps } = await setUp();
    const first = await runPipeline(yard, deps);
    const second = await runPipeline(yard, deps, "pipelines/torch.yaml");
    assert.equal(second.result?.outcome, "published");
    const open = async (version: string | undefined | null) => {
      const { checkpoint } = await openCheckpoint(yard, `artifacts/ab/${version}/`);
      return checkpoint.tensors.map(({ name, digest }) => [name, digest]);
    };
    assert.deepEqual(await open(second.result?.version), await open(first.result?.version));
  });

  test("finds the universal checkpoint again when another recipe asks for the upload", async () => {
    const { yard, deps } = await setUp();
    await runPipeline(yard, deps, "pipelines/torch.yaml");
    await putText(yard, "pipelines/torch.yaml", recipe(0.25).replace("one: incoming/a", "one: incoming/c"));
    const again = await plan(yard, deps, "pipelines/torch.yaml");
    assert.deepEqual(
      again.stages.map(({ name }) => name),
      ["merge"],
    );
  });

  test("converts a training checkpoint whose merge keeps its padding cut", async () => {
    const { yard, deps } = await setUp();
    await putGolden(yard, "deepspeed/z3_tp2_pp1_dp2_bf16", "incoming/d/1/");
    await yard.create("incoming/d/1/_COMPLETE", new Uint8Array(0));
    await putText(
      yard,
      "pipelines/trained.yaml",
      [
        "name: trained",
        "models: { d: incoming/d }",
        "merge: { merge_method: passthrough, models: [{ model: d }] }",
        "publish: { model: d, channel: nightly }",
      ].join("\n"),
    );
    const { result } = await runPipeline(yard, deps, "pipelines/trained.yaml");
    const { checkpoint } = await openCheckpoint(yard, `artifacts/d/${result?.version}/`);
    assert.deepEqual(checkpoint.tensors.find(({ name }) => name === "lm_head.weight")?.shape, [50, 16]);
    assert.equal(checkpoint.tensors.length, 18);
  });
});
