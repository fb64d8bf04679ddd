// What `mergeyard inspect` says of every kind of checkpoint that the golden sets, the examples and our own writers
// give: kind, topology and stages, parameters, padding, tied weights, problems. The last test asks for every format.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, suite, test } from "node:test";
import { main } from "../../cli/main.ts";
import { FORMATS } from "../../core/formats/registry.ts";
import { createRecorder } from "./recorder.ts";

const GOLDEN = path.resolve(import.meta.dirname, "../golden");
const MODELS = path.resolve(import.meta.dirname, "../../examples/models");
const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-inspect-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

const seen = new Set<string>();

/** Lines between the source and the tables, without the names of problems' files. */
async function inspect(source: string): Promise<readonly string[]> {
  const [text, data] = [createRecorder({ cwd: GOLDEN }), createRecorder({ cwd: GOLDEN })];
  assert.equal(await main(["inspect", source, "--json"], data), 0, data.err());
  assert.equal(await main(["inspect", source], text), 0, text.err());
  seen.add(JSON.parse(data.out()).format);
  const [, ...lines] = text.out().split("\n");
  return lines.slice(0, lines.indexOf("")).map((line) => line.trim().replace(/: .*; (found )?/, ": "));
}

async function write(...args: readonly string[]): Promise<string> {
  const out = path.join(scratch, `made-${args.join("-").replace(/[^A-Za-z0-9]+/g, "_")}`);
  const target = args[0] === "quantize" ? `${out}.gguf` : out;
  const terminal = createRecorder({ cwd: GOLDEN });
  assert.equal(await main([...args, "--out", target], terminal), 0, terminal.err());
  return target;
}

const TRAINED = "deepspeed/z1_tp2_pp2_dp2_bf16_tied";
const PADDING = "padding cut   tied_modules.embed.word_embeddings.weight from 64 to 50 rows";

const CASES: Readonly<Record<string, readonly string[]>> = {
  [TRAINED]: [
    "format        deepspeed, 20 files, 146 kB",
    "architecture  not stated",
    "tensors       18, 4 760 elements",
    "saved by      tp 2, pp 2, dp 2, ZeRO 1; BF16 weights, 2 optimizer groups",
    "training      step 3; fp32, exp_avg, exp_avg_sq",
    "ranks hold    averaged 2, fragment 9, replicated 7",
    PADDING,
    "beside them   no other files",
    "problems      none",
  ],
  "deepspeed/z2_tp1_pp1_dp3_fp32_padding": [
    "format        deepspeed, 4 files, 31.7 kB",
    "architecture  not stated",
    "tensors       10, 864 elements",
    "saved by      tp 1, pp 1, dp 3, ZeRO 2; F32 weights, 2 optimizer groups",
    "training      step 3; fp32, exp_avg, exp_avg_sq",
    "ranks hold    fragment 6, replicated 4",
    "beside them   no other files",
    "problems      none",
  ],
  "deepspeed/z3_tp2_pp1_dp2_bf16": [
    "format        deepspeed, 8 files, 132 kB",
    "architecture  not stated",
    "tensors       18, 5 556 elements",
    "saved by      tp 2, pp 1, dp 2, ZeRO 3; BF16 weights, 2 optimizer groups",
    "training      step 3; fp32, exp_avg, exp_avg_sq",
    "ranks hold    averaged 2, fragment 10, replicated 6",
    "padding cut   model.embed.word_embeddings.weight from 64 to 50 rows; lm_head.weight from 64 to 50 rows",
    "beside them   no other files",
    "problems      none",
  ],
  "deepspeed/z2_tp1_pp1_dp3_fp32_padding/global_step3_universal": [
    "format        deepspeed_universal, 38 files, 46.1 kB",
    "architecture  not stated",
    "tensors       10, 864 elements",
    "saved by      F32 weights, 2 optimizer groups",
    "training      step 3; fp32, exp_avg, exp_avg_sq",
    "ranks hold    fragment 6, replicated 4",
    "beside them   no other files",
    "problems      none",
  ],
  "dcp/sharded": [
    "format        dcp, 5 files, 22.9 kB",
    "architecture  not stated",
    "tensors       9, 188 elements",
    "beside them   no other files",
    "problems      1",
    "TrainerStateIgnored: step, lr_scheduler",
  ],
  "dcp/hf_sharded": [
    "format        dcp, 4 files, 3.28 kB",
    "architecture  not stated",
    "tensors       8, 140 elements",
    "beside them   no other files",
    "problems      none",
  ],
  "torch/valid/training_state.pt": [
    "format        torch, 1 file, 6.79 kB",
    "architecture  not stated",
    "tensors       3, 44 elements",
    "tied          lm_head.weight = model.embed_tokens.weight",
    "beside them   no other files",
    "problems      1",
    "TensorsIgnored: 20 tensors",
  ],
  "torch/valid/sharded": [
    "format        torch, 2 files, 2.28 kB",
    "architecture  not stated",
    "tensors       3, 45 elements",
    "beside them   pytorch_model.bin.index.json",
    "problems      none",
  ],
  [path.join(MODELS, "base")]: [
    "format        safetensors, 2 files, 1.71 MB",
    "architecture  LlamaForCausalLM",
    "tensors       39, 853 120 elements",
    "beside them   config.json, model.safetensors.index.json, tokenizer.json",
    "problems      none",
  ],
};

suite("inspect", () => {
  for (const [source, expected] of Object.entries(CASES)) {
    test(`explains ${path.basename(source)}`, async () => assert.deepEqual(await inspect(source), expected));
  }

  test("says the same of a training checkpoint in the formats that keep all of it", async () => {
    const universal = await inspect(await write("convert", TRAINED, "--to", "universal"));
    assert.deepEqual(universal.slice(1), CASES[TRAINED]?.slice(1));
    const ranks = ["--tp", "2", "--pp", "2", "--dp", "2", "--zero", "2"];
    const deepspeed = await inspect(await write("convert", TRAINED, "--to", "deepspeed", ...ranks));
    assert.deepEqual(deepspeed.slice(2, 7), [
      "tensors       18, 4 760 elements",
      "saved by      tp 2, pp 2, dp 2, ZeRO 2; BF16 weights, 2 optimizer groups",
      ...(CASES[TRAINED]?.slice(4, 7) ?? []),
    ]);
    const dcp = await inspect(await write("convert", TRAINED, "--to", "dcp"));
    assert.ok(dcp.includes("training      step 3; fp32, exp_avg, exp_avg_sq"), dcp.join("\n"));
  });

  test("explains a job of Megatron's", async () => {
    const job = path.join(scratch, "job");
    cpSync(path.join(GOLDEN, "megatron"), job, { recursive: true, filter: (name) => !/expected|make/.test(name) });
    assert.deepEqual(await inspect(job), [
      "format        megatron, 3 files, 528 kB",
      "architecture  not stated",
      "tensors       19, 380 elements",
      "training      step 5; fp32, exp_avg, exp_avg_sq",
      "ranks hold    fragment 13, replicated 5, unique 1",
      "beside them   no other files",
      "problems      4",
      "TrainerStateIgnored: decoder.layers.mlp._extra_state/shard_0_2, decoder.layers.mlp._extra_state/shard_1_2",
      "OptimizerStateIgnored: optimizer.distributed.dp_group_idx_0.gbuf_idx_0.bucket_idx_0.exp_avg",
      "VocabularyPaddingKept: expected the tokenizer's own size",
      "FamilyPatterns: family megatron-core, for 18 of 19 parameters",
    ]);
  });

  test("explains a GGUF file in its own words", async () => {
    const file = await write("quantize", path.join(MODELS, "base"), "--scheme", "q8_0", "--no-tokenizer");
    const lines = await inspect(file);
    assert.match(lines.join("\n"), /^format +gguf/m);
  });

  test("refuses what is damaged with the code of the damage", async () => {
    const codes = {
      "deepspeed/bad_missing_optimizer_rank": "DeepspeedRankMissing",
      "deepspeed/bad_steps_disagree": "DeepspeedStepsDisagree",
      "deepspeed/bad_no_ucinfo": "UniversalPatternsMissing",
      "dcp/bad_hole": "DcpChunksInvalid",
      "dcp/bad_no_metadata": "DcpMetadataMissing",
    };
    for (const [source, code] of Object.entries(codes)) {
      const terminal = createRecorder({ cwd: GOLDEN });
      assert.equal(await main(["inspect", source, "--json"], terminal), 1, source);
      assert.equal(JSON.parse(terminal.err()).error.code, code, source);
    }
  });

  test("is tried on every format there is", () => {
    assert.deepEqual([...seen].sort(), FORMATS.map(({ id }) => id).sort());
  });
});
