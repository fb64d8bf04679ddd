// DeepSpeed checkpoints: what the real engine wrote, damaged copies, and folders that are no whole checkpoint.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import type { FolderReader } from "../../../core/checkpoint.ts";
import { deepspeed } from "../../../core/formats/deepspeed/deepspeed.ts";
import { expertRanks } from "../../../core/formats/deepspeed/experts.ts";
import { deepspeedUniversal } from "../../../core/formats/deepspeed/universal.ts";
import { recogniseFormat } from "../../../core/formats/registry.ts";
import { createDirectoryStore } from "../../../stores/directory.ts";
import { gatherTensor } from "../../../tools/golden/tensors.ts";
import { runGolden } from "../../../tools/golden.ts";
import { dict, int, type Op, ops, readerOf, tensor, text, torchOf, tuple } from "./torch-parts.ts";

const GOLDEN = join(import.meta.dirname, "../../golden/deepspeed");
type Files = Readonly<Record<string, Uint8Array>>;

/** Files of a golden folder, in memory. */
function load(name: string): Record<string, Uint8Array> {
  const root = join(GOLDEN, name);
  const entries = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(
    entries.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path.slice(root.length + 1), readFileSync(path)];
    }),
  );
}

function folderOf(files: Files): FolderReader {
  return {
    files: Object.entries(files)
      .map(([name, bytes]) => ({ name, bytes: bytes.length }))
      .sort((a, b) => (a.name < b.name ? -1 : 1)),
    read: async (name, offset, bytes) => readerOf(files[name] ?? new Uint8Array(0))(offset, bytes),
  };
}

/** The files as torch writes them where it does not know their names: another root of the same length. */
function unnamed(files: Files): Files {
  const root = (stem: string) => "archive".padEnd(stem.length, "_");
  const renamed = (bytes: Uint8Array) =>
    Buffer.from(
      Buffer.from(bytes)
        .toString("latin1")
        .replaceAll(/\w+_states(?=\/)/g, root),
      "latin1",
    );
  return Object.fromEntries(Object.entries(files).map(([name, bytes]) => [name, renamed(bytes)]));
}

const refuses = (code: string, files: Files) => assert.rejects(deepspeed.open(folderOf(files)), { code });

suite("DeepSpeed checkpoints", () => {
  test("consolidate to the bits of the real converter, and are refused for the golden set's reasons", async () => {
    assert.deepEqual(await runGolden(GOLDEN), { passed: 23, failed: [], skipped: [] });
  });

  test("are refused with the code of what is damaged", async () => {
    const codes = {
      bad_missing_model_rank: "DeepspeedRankMissing",
      bad_missing_optimizer_rank: "DeepspeedRankMissing",
      bad_zero3_missing_rank: "DeepspeedRankMissing",
      bad_no_ucinfo: "UniversalPatternsMissing",
      bad_fp32_partition_short: "DeepspeedPartitionSize",
      bad_zero3_flat_short: "DeepspeedPartitionSize",
      bad_fragment_gap: "DeepspeedFragmentCoverage",
      bad_steps_disagree: "DeepspeedStepsDisagree",
      bad_truncated_file: "ZipEndMissing",
    };
    for (const [name, code] of Object.entries(codes)) await refuses(code, load(name));
  });

  test("are refused where files of ranks were exchanged or lie there twice, or one of a layer is missing", async () => {
    const files = load("z2_tp1_pp1_dp3_fp32_padding");
    const rank = (dp: number) => `global_step3/zero_pp_rank_${dp}_mp_rank_00_optim_states.pt`;
    const bytesOf = (name: string) => files[name] ?? assert.fail(name);
    const exchanged = { [rank(0)]: bytesOf(rank(1)), [rank(1)]: bytesOf(rank(0)) };
    await refuses("DeepspeedRankMisplaced", { ...files, ...exchanged });
    await refuses("DeepspeedFragmentCoverage", { ...files, ...unnamed(exchanged) });
    await refuses("CheckpointAmbiguous", { ...files, [rank(1).replace("zero", "bf16_zero")]: bytesOf(rank(1)) });
    const model = "global_step3/mp_rank_00_model_states.pt";
    await refuses("CheckpointAmbiguous", { ...files, [model.replace("mp", "zero_pp_rank_0_mp")]: bytesOf(model) });
    const { [rank(1)]: _, ...others } = files;
    const found = "no optimizer states of data-parallel rank 1 of model-parallel rank 0";
    await assert.rejects(deepspeed.open(folderOf(others)), { code: "DeepspeedRankMissing", found });
    const { "global_step3/layer_02-model_00-model_states.pt": layer, ...stages } = load("z1_tp2_pp2_dp2_bf16_tied");
    assert.ok(layer !== undefined);
    await refuses("DeepspeedRankMissing", stages);
    const { "global_step3/zero_pp_rank_1_mp_rank_00_model_states.pt": second, ...zero3 } =
      load("z3_tp1_pp1_dp2_bf16_frozen");
    assert.ok(second !== undefined);
    await refuses("DeepspeedRankMissing", zero3);
  });

  test("are refused where a rank's file is another's, by what it was saved as or by its checksums", async () => {
    const copy = (files: Files, from: string, to: string): Files => ({
      ...files,
      [to]: files[from] ?? assert.fail(from),
    });
    const zero3 = load("z3_tp1_pp1_dp2_bf16_frozen");
    for (const kind of ["bf16_zero_pp_rank_N_mp_rank_00_optim_states", "zero_pp_rank_N_mp_rank_00_model_states"]) {
      const rank = (dp: number) => `global_step3/${kind.replace("N", String(dp))}.pt`;
      await refuses("DeepspeedRankMisplaced", copy(zero3, rank(0), rank(1)));
      const copied = copy(unnamed(zero3), rank(0), rank(1));
      if (kind.includes("optim")) await refuses("DeepspeedRankMisplaced", copied);
      assert.ok((await deepspeed.open(folderOf(unnamed(zero3)))).conversion?.length);
    }
    const sliced = load("z3_tp2_pp1_dp2_bf16");
    const slice = (mp: number) => `global_step3/bf16_zero_pp_rank_0_mp_rank_0${mp}_optim_states.pt`;
    await refuses("DeepspeedRankMisplaced", copy(sliced, slice(0), slice(1)));
  });

  test("are found by latest, which must name a folder that is there", async () => {
    const files = load("z2_tp1_pp1_dp3_fp32_padding");
    const step = Object.fromEntries(Object.entries(files).filter(([name]) => name.startsWith("global_step3/")));
    const opened = await deepspeed.open(folderOf({ ...step, latest: Buffer.from("global_step3\n") }));
    assert.equal(opened.conversion?.length, 10);
    assert.equal((await deepspeed.open(folderOf(step))).conversion?.length, 10);
    await refuses("DeepspeedStepMissing", { ...step, latest: Buffer.from("global_step999") });
    for (const text of ["../../etc", "/etc", "", "a/b"]) {
      await refuses("DeepspeedPathInvalid", { ...step, latest: Buffer.from(text) });
    }
    const twice = Object.entries(step).map(([name, bytes]) => [name.replace("step3", "step4"), bytes]);
    await refuses("CheckpointAmbiguous", { ...step, ...Object.fromEntries(twice) });
  });

  test("take patterns from a file beside them when they state none", async () => {
    const info = {
      original_vocab_size: 50,
      vocabulary_parameter_patterns: ["model\\.embed", "lm_head"],
      tp_replicated_parameter_patterns: [".*layernorm\\.weight"],
      parameter_to_average_patterns: [".*dense_4h_to_h\\.bias"],
      parameter_with_row_parallelism_patterns: [".*(dense|dense_4h_to_h)\\.weight$"],
      parameter_with_2_sub_params_cat_dim_0: [".*dense_h_to_4h\\.weight"],
    };
    const files = { ...load("bad_no_ucinfo"), "universal_checkpoint_info.json": Buffer.from(JSON.stringify(info)) };
    const opened = await deepspeed.open(folderOf(files));
    const shapeOf = (name: string) => opened.conversion?.find((parameter) => parameter.name === name)?.shape;
    assert.deepEqual(shapeOf("lm_head.weight"), [50, 16]);
    assert.deepEqual(shapeOf("model.layers.0.self_attention.dense.weight"), [16, 16]);
    await refuses("UniversalPatternsInvalid", { ...files, "universal_checkpoint_info.json": Buffer.from("[1") });
    await refuses("DeepspeedUnsupported", {
      ...files,
      "universal_checkpoint_info.json": Buffer.from(JSON.stringify({ ...info, expert_parameter_patterns: ["x"] })),
    });
  });

  test("say where padding of the vocabulary was cut and how ranks hold each parameter", async () => {
    const opened = await deepspeed.open(folderOf(load("z3_tp2_pp1_dp2_bf16")));
    const find = (name: string) => opened.conversion?.find((parameter) => parameter.name === name);
    assert.equal(find("lm_head.weight")?.paddedRows, 64);
    assert.deepEqual(find("model.final_layernorm.weight")?.pattern, { kind: "replicated" });
    assert.deepEqual(find("rotary_inv_freq")?.training, undefined);
    assert.deepEqual(find("model.layers.0.mlp.dense_h_to_4h.weight")?.pattern, {
      kind: "fragment",
      dim: 0,
      parts: [{ length: 24 }, { length: 24 }],
    });
  });

  test("without optimizer states are weights alone, where the weights are in them", async () => {
    const weights = torchOf(
      dict(
        ["module", dict(["w", tensor({ count: 6, size: [2, 3], stride: [3, 1] })])],
        ["param_shapes", ops("](", dict(["w", ops("ctorch\nSize\n", tuple(int(2), int(3)), "\x85R")]), "e")],
      ),
      { 0: new Uint8Array(24) },
    );
    const opened = await deepspeed.open(folderOf({ "mp_rank_00_model_states.pt": weights }));
    assert.deepEqual(
      opened.warnings.map(({ code }) => code),
      ["OptimizerStatesMissing"],
    );
    assert.deepEqual(
      opened.conversion?.map(({ name, training }) => [name, training]),
      [["w", undefined]],
    );
    await refuses("DeepspeedWeightsMissing", { "mp_rank_00_model_states.pt": torchOf(dict(["module", "N"])) });
  });

  test("of experts get the experts' numbers in the whole layer, and each must be there", async () => {
    const files = load("z2_tp1_pp1_dp4_ep2_bf16_experts");
    const { conversion = [], training, warnings } = await deepspeed.open(folderOf(files));
    const experts = conversion.filter(({ name }) => name.startsWith("moe.1.deepspeed_moe.experts."));
    assert.deepEqual([conversion.length, experts.length, training?.groups[1]?.moe], [33, 12, true]);
    assert.ok(experts.every(({ training: own }) => own?.group === 1 && own.position !== undefined));
    assert.deepEqual(warnings, []);
    const expert = "global_step3/layer_1_expert_3_mp_rank_00_model_states.pt";
    const { [expert]: _, ...others } = files;
    await refuses("DeepspeedRankMissing", others);
    const second = files["global_step3/mp_rank_00_model_states.pt"] ?? assert.fail();
    await refuses("DeepspeedRankMissing", unnamed({ ...files, "global_step3/mp_rank_01_model_states.pt": second }));
    // Without optimizer states the experts' own files are all there is.
    const weights = Object.entries(files).filter(([name]) => !name.endsWith("optim_states.pt"));
    const alone = await deepspeed.open(folderOf(Object.fromEntries(weights)));
    const names = (list: typeof conversion) => list.map(({ name }) => name).sort();
    assert.deepEqual(names(alone.conversion ?? []), names(conversion));
  });

  test("of experts that tensor-parallel ranks cut need every part", async () => {
    const files = load("z2_tp2_pp1_dp2_ep2_bf16_experts");
    const isExpert = /layer_\d_expert_(\d)_mp_rank_0(\d)/;
    const keep = (isKept: (expert: number, rank: number) => boolean) =>
      Object.fromEntries(
        Object.entries(files).filter(([name]) => {
          const [, expert, rank] = isExpert.exec(name) ?? [];
          return expert === undefined || isKept(Number(expert), Number(rank));
        }),
      );
    await deepspeed.open(folderOf(keep(() => true)));
    await refuses(
      "DeepspeedRankMissing",
      keep((expert, rank) => expert !== 3 || rank !== 1),
    );
    // As if ranks shared them out: the optimizer's partitions know better.
    await refuses(
      "DeepspeedRankMissing",
      keep((expert, rank) => Math.floor(expert / 2) === rank),
    );
    await refuses(
      "DeepspeedRankMissing",
      keep((_, rank) => rank === 0),
    );
  });

  test("of experts that tensor-parallel ranks share out hold each of them whole", async () => {
    const files = load("z2_tp2_pp1_dp3_ep3_bf16_whole_experts");
    const { conversion = [] } = await deepspeed.open(folderOf(files));
    const experts = conversion.filter(({ name }) => name.includes("deepspeed_experts."));
    assert.equal(experts.length, 9);
    assert.ok(experts.every(({ pattern, training }) => pattern.kind === "unique" && training?.group === 1));
    const { "global_step3/layer_0_expert_1_mp_rank_01_model_states.pt": _, ...others } = files;
    await refuses("DeepspeedRankMissing", others);
    const weights = Object.entries(files).filter(([name]) => !name.endsWith("optim_states.pt"));
    const alone = await deepspeed.open(folderOf(Object.fromEntries(weights)));
    const shapes = (list: typeof conversion) => list.map(({ name, shape }) => `${name} ${shape}`).sort();
    assert.deepEqual(shapes(alone.conversion ?? []), shapes(conversion));
  });

  test("with ZeRO 1 have frozen weights whole, also where a rank's slice of them is empty", async () => {
    const name = "z1_tp2_pp1_dp1_bf16_uneven_frozen";
    const { conversion = [], warnings } = await deepspeed.open(folderOf(load(name)));
    assert.deepEqual(warnings, []);
    const store = createDirectoryStore(join(GOLDEN, name), { durable: false });
    const frozen = conversion.filter(({ name: own, training }) => training === undefined && own !== "scale");
    assert.deepEqual(
      frozen.map(({ name: own, shape }) => `${own} ${shape}`).sort(),
      ["norm.bias 4", "thin_down.bias 4", "thin_down.weight 4,1", "thin_up.bias 1", "thin_up.weight 1,4"].concat([
        "up.bias 3",
        "up.weight 3,4",
      ]),
    );
    for (const parameter of frozen) {
      const bytes = await gatherTensor(store, parameter.name, parameter.shape, parameter);
      // BF16: the upper halves of 1, 2, 3, ... in float32.
      const values = new Float32Array(
        new Uint32Array(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)).map((half) => half << 16)
          .buffer,
      );
      assert.deepEqual(
        [...values],
        Array.from(values, (_, index) => index + 1),
        parameter.name,
      );
    }
  });

  test("number experts by the order in which ranks share them", () => {
    assert.deepEqual(expertRanks([0, 1, 2, 3], 2, false), [
      [0, 2],
      [1, 3],
    ]);
    assert.deepEqual(expertRanks([0, 1, 2, 3], 2, true), [
      [0, 1],
      [2, 3],
    ]);
  });

  test("of experts without ZeRO, of another form, or offloaded are refused by name", async () => {
    const model = torchOf(dict(["module", "N"], ["param_shapes", "]"]));
    const name = "zero_pp_rank_0_mp_rank_00_optim_states.pt";
    const optimizer = (...fields: readonly (readonly [string, Op])[]) => ({
      "mp_rank_00_model_states.pt": model,
      [name]: torchOf(dict(["optimizer_state_dict", dict(...fields)])),
    });
    await refuses("DeepspeedUnsupported", {
      "mp_rank_00_model_states.pt": model,
      "expp_rank_0_mp_rank_00_optim_states.pt": model,
    });
    await refuses("DeepspeedUnsupported", optimizer(["fp32_flat_groups", ops("](", "]", "e")]));
    await refuses("DeepspeedFieldInvalid", optimizer(["single_partition_of_fp32_groups", "N"]));
    await refuses("DeepspeedFieldInvalid", { "mp_rank_00_model_states.pt": model, [name]: torchOf(text("x")) });
    await refuses("DeepspeedFieldInvalid", optimizer(["zero_stage", "K\x09"]));
  });

  test("are told from DeepSpeed's universal folders", async () => {
    const files = folderOf(load("z3_tp1_pp1_dp3_fp32_padding"));
    assert.equal(recogniseFormat(files.files).id, "deepspeed");
    const universal = files.files.filter(({ name }) => name.startsWith("global_step3_universal/"));
    assert.equal(recogniseFormat(universal).id, "deepspeed_universal");
    const opened = await deepspeedUniversal.open({ ...files, files: universal });
    const trained = opened.conversion?.filter(({ training }) => training !== undefined) ?? [];
    const buffers = opened.conversion?.filter(({ training }) => training === undefined) ?? [];
    assert.deepEqual([trained.length, trained[0]?.training?.step], [9, 3]);
    assert.deepEqual(
      buffers.map(({ name }) => name),
      ["rotary_inv_freq"],
    );
  });
});
