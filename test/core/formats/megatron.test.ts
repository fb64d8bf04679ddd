// Megatron-LM's torch_dist, read from the small checkpoint in test/golden/megatron, which torch's own classes describe
// (make.py there), and from damaged copies of it.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { splitStacks } from "../../../core/formats/megatron/tensors.ts";
import { recogniseFormat } from "../../../core/formats/registry.ts";
import { gatherWhole } from "../../../core/universal/box.ts";
import { openCheckpoint, openCheckpointFile } from "../../../steps/open-checkpoint.ts";
import type { ObjectStore } from "../../../stores/store.ts";
import { newStore } from "../../steps/deps.ts";
import { convertInto } from "../../steps/folders.ts";

const GOLDEN = join(import.meta.dirname, "../../golden/megatron");
const STEP = "iter_0000005/";

/** The checkpoint with some files replaced, or left out where the text is undefined. */
async function put(changes: Readonly<Record<string, string | undefined>> = {}): Promise<ObjectStore> {
  const store = newStore();
  for (const entry of readdirSync(GOLDEN, { recursive: true, withFileTypes: true })) {
    const name = join(entry.parentPath, entry.name).slice(GOLDEN.length + 1);
    if (!entry.isFile() || /^expected|\.py$/.test(name) || Object.hasOwn(changes, name)) continue;
    await store.create(name, readFileSync(join(GOLDEN, name)));
  }
  for (const [name, text] of Object.entries(changes)) {
    if (text !== undefined) await store.create(name, Buffer.from(text));
  }
  return store;
}

/** Tensors of a safetensors file by name: shape and bytes. */
async function tensorsOf(store: ObjectStore, file: string): Promise<ReadonlyMap<string, string>> {
  const { checkpoint } = await openCheckpointFile(store, file);
  const shown = new Map<string, string>();
  for (const { name, dtype, shape, ranges } of checkpoint.tensors) {
    const into = new Uint8Array(ranges[0]?.bytes ?? 0);
    await store.readInto(file, ranges[0]?.offset ?? 0, into);
    shown.set(name, `${dtype} [${shape}] ${Buffer.from(into).toString("hex")}`);
  }
  return new Map([...shown].sort());
}

async function expectedOf(state: string): Promise<ReadonlyMap<string, string>> {
  const store = newStore();
  await store.create("x.safetensors", readFileSync(join(GOLDEN, `expected_${state}.safetensors`)));
  return tensorsOf(store, "x.safetensors");
}

suite("Megatron's torch_dist", () => {
  test("gives layers apart, master weights and moments, bit for bit", async () => {
    const { target, output } = await convertInto(await put(), "universal");
    assert.deepEqual(await tensorsOf(target, "model.safetensors"), await expectedOf("fp32"));
    assert.deepEqual(await tensorsOf(target, "exp_avg.safetensors"), await expectedOf("exp_avg"));
    assert.deepEqual(await tensorsOf(target, "exp_avg_sq.safetensors"), await expectedOf("exp_avg_sq"));
    const text = output.warnings.join("\n");
    assert.match(text, /OptimizerStateIgnored: .*optimizer\.distributed\.dp_group_idx_0/);
    assert.match(text, /TrainerStateIgnored: .*_extra_state\/shard_0_2/);
    assert.match(text, /VocabularyPaddingKept/);
    const { described = [] } = await openCheckpoint(target, "");
    assert.deepEqual(new Set(described.map(({ training }) => training?.step)), new Set([5]));
  });

  test("says how ranks cut each parameter, experts and norms fused into layers included", async () => {
    const source = await put();
    const { conversion = [], family, warnings } = await openCheckpoint(source, "");
    const patternOf = (name: string) => conversion.find((parameter) => parameter.name === name)?.pattern;
    const column = { kind: "fragment", dim: 0 };
    const gateUp = { kind: "fragment", dim: 0, parts: [{ length: 4 }, { length: 4 }] };
    assert.deepEqual(patternOf("embedding.word_embeddings.weight"), column);
    assert.deepEqual(patternOf("decoder.layers.1.self_attention.linear_qkv.weight"), column);
    assert.deepEqual(patternOf("decoder.layers.1.self_attention.linear_proj.weight"), { kind: "fragment", dim: 1 });
    const norm = "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight";
    assert.deepEqual(patternOf(norm), { kind: "replicated" });
    assert.deepEqual(patternOf("decoder.layers.0.mlp.experts.experts.1.linear_fc1.weight"), gateUp);
    assert.deepEqual(patternOf("decoder.layers.0.mlp.router.weight"), { kind: "replicated" });
    // Nothing beside it says whether gate and up are joined in it.
    const alone = "mtp.layers.0.transformer_layer.mlp.experts.experts.0.linear_fc1.weight";
    assert.deepEqual(patternOf(alone), { kind: "unique" });
    const told = warnings.find(({ code }) => code === "FamilyPatterns")?.found;
    assert.deepEqual([family, told], ["megatron-core", "family megatron-core, for 18 of 19 parameters"]);
  });

  test("is opened at its step's folder too, without states, whose step nothing tells", async () => {
    const store = newStore();
    for (const name of readdirSync(join(GOLDEN, STEP))) {
      await store.create(name, readFileSync(join(GOLDEN, STEP, name)));
    }
    const { checkpoint, conversion = [], warnings } = await openCheckpoint(store, "");
    assert.equal(checkpoint.format, "megatron");
    const norm = conversion.find(({ name }) => name === "decoder.final_layernorm.weight");
    assert.deepEqual([norm?.dtype, norm?.training], ["BF16", undefined]);
    assert.ok(warnings.some(({ code }) => code === "OptimizerStatesMissing"));
  });

  test("is refused by name where it is another backend, another step, or nothing that fits", async () => {
    const refuses = async (code: string, changes: Readonly<Record<string, string | undefined>>) =>
      assert.rejects(openCheckpoint(await put(changes), ""), { code });
    await refuses("DcpUnsupported", { [`${STEP}metadata.json`]: '{"sharded_backend":"zarr"}' });
    await refuses("DcpMetadataInvalid", { [`${STEP}metadata.json`]: "{}" });
    await refuses("DcpMetadataInvalid", { [`${STEP}metadata.json`]: "{" });
    await refuses("DcpFileMissing", { "latest_checkpointed_iteration.txt": "6" });
    await refuses("DcpPathInvalid", { "latest_checkpointed_iteration.txt": "../5" });
    await refuses("DcpFileMissing", { [`${STEP}__1_0.distcp`]: undefined });
    await refuses("CheckpointAmbiguous", {
      "latest_checkpointed_iteration.txt": undefined,
      "iter_0000006/metadata.json": "{}",
      "iter_0000006/.metadata": "",
    });
    await refuses("CheckpointFormatUnsupported", {
      [`${STEP}.metadata`]: undefined,
      [`${STEP}mp_rank_00/model_optim_rng.pt`]: "x",
    });
    const files = [{ name: "iter_0000005/mp_rank_00_000/model_optim_rng.pt", bytes: 1 }];
    assert.throws(() => recogniseFormat(files), { code: "CheckpointFormatUnsupported" });
  });

  test("does not make a list of layers that nothing holds", () => {
    const shape = [2 ** 40, 0];
    const stack = {
      name: "decoder.layers.mlp.weight",
      dtype: "F32" as const,
      shape,
      gather: gatherWhole([], shape),
      pattern: { kind: "unique" as const },
      paddedRows: undefined,
      aliases: [],
      training: undefined,
    };
    assert.throws(() => splitStacks([stack]), { code: "DcpMetadataInvalid" });
  });
});
