// Writing checkpoints in other formats: what is written reads back as what it was written from.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { parseUniversal } from "../../core/artifact/universal.ts";
import { TARGETS } from "../../core/formats/targets.ts";
import { CONVERSION_TARGETS } from "../../steps/convert/convert.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { listKeys } from "../../steps/records.ts";
import { readAll } from "../../stores/objects.ts";
import { convertInto, goldenStore } from "./folders.ts";

const CASES = ["z1_tp2_pp2_dp2_bf16_tied", "z2_tp1_pp1_dp3_fp32_padding", "z3_tp2_pp1_dp2_bf16", "bf16opt_tp1_pp1_dp2"];

test("every target of the schema is registered, and the other way round", () => {
  assert.deepEqual([...TARGETS.keys()].sort(), CONVERSION_TARGETS.slice(2).sort());
});

suite("a training checkpoint", () => {
  for (const name of CASES) {
    test(`${name} comes back from every format that keeps optimizer states`, async () => {
      const source = await goldenStore(`deepspeed/${name}`);
      const { target: universal, output } = await convertInto(source, "universal");
      assert.match(output.contents ?? "", /^sha256:/);
      for (const to of ["dcp", "deepspeed-universal"] as const) {
        const { target } = await convertInto(universal, to);
        assert.equal((await convertInto(target, "universal")).output.contents, output.contents, to);
        const { target: direct, output: written } = await convertInto(source, to);
        const again = (await convertInto(direct, "universal")).output;
        // The model-state files are copied as they are: they lack the buffers of pipeline layers, which is said.
        const left = written.warnings.find((warning) => warning.startsWith("TensorsIgnored"));
        if (left === undefined) assert.equal(again.contents, output.contents, `${to} directly`);
        else assert.deepEqual([to, again.tensors], ["deepspeed-universal", output.tensors - 2]);
      }
    });
  }

  test("keeps what the trainer saved beside the tensors, and says what it cannot", async () => {
    const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
    const { target, output: written } = await convertInto(source, "universal");
    const { training, parameters } = parseUniversal(await readAll(target, "universal.json", 1e7));
    assert.equal(training?.weights, "BF16");
    assert.deepEqual(
      training.groups.map(({ weight_decay: decay }) => decay),
      [0.01, 0],
    );
    assert.equal(training.client.global_steps, 3);
    assert.deepEqual(
      parameters.flatMap(({ name, states }) => (states?.group === 1 ? [`${states.position} ${name}`] : [])).sort(),
      [
        "0 2.input_layernorm.weight",
        "1 2.post_attention_layernorm.weight",
        "2 2.mlp.dense_4h_to_h.bias",
        "3 3.input_layernorm.weight",
        "4 3.post_attention_layernorm.weight",
        "5 3.mlp.dense_4h_to_h.bias",
        "6 4.weight",
      ],
    );
    const { target: folder } = await convertInto(target, "deepspeed-universal", {
      topology: { tp: 2, pp: 1, dp: 2, zero: 3 },
    });
    const names = await listKeys(folder, "");
    assert.equal(names.filter((name) => /zero_pp_rank_[01]_mp_rank_0[01]_model_states/.test(name)).length, 4);
    const again = await openCheckpoint(folder, "");
    const { client: before, optimizer, topology: _ranks, ...others } = training;
    const { client: after, optimizer: common, ...same } = again.training ?? assert.fail("no training state");
    assert.deepEqual(same, others);
    // A static scaler is what DeepSpeed makes by itself: without it the file holds plain values alone.
    const { loss_scaler: _, ...plain } = optimizer;
    assert.deepEqual(common, plain);
    assert.deepEqual(
      parameters.filter(({ states }) => states === undefined).map(({ name, pattern }) => [name, pattern.kind]),
      [
        ["2.inv_freq", "replicated"],
        ["3.inv_freq", "replicated"],
      ],
    );
    assert.doesNotMatch(written.warnings.join("\n"), /TensorsIgnored/);
    const ranks = {
      buffer_names: ["2.inv_freq", "3.inv_freq"],
      dp_world_size: 2,
      mp_world_size: 2,
      checkpoint_parallel_dimensions: { pp_degree: 1, tp_degree: 2 },
    };
    assert.deepEqual(after, { ...before, ...ranks });
  });

  test("copies the model-state files of its source into DeepSpeed's universal folder", async () => {
    const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
    const { target } = await convertInto(source, "deepspeed-universal");
    for (const rank of ["00", "01", "02", "03"]) {
      const name = `mp_rank_${rank}_model_states.pt`;
      const copy = await readAll(target, `global_step3_universal/${name}`, 1e7);
      assert.deepEqual(copy, await readAll(source, `global_step3/${name}`, 1e7));
    }
    assert.equal(Buffer.from(await readAll(target, "latest_universal", 100)).toString(), "global_step3_universal");
  });
});

suite("a training checkpoint on another topology", () => {
  const TARGETS = [
    { tp: 1, pp: 1, dp: 4, zero: 1 },
    { tp: 2, pp: 1, dp: 3, zero: 2 },
    { tp: 2, pp: 1, dp: 2, zero: 3 },
    { tp: 1, pp: 2, dp: 2, zero: 2 },
    { tp: 2, pp: 2, dp: 1, zero: 1 },
  ] as const;
  for (const topology of TARGETS) {
    test(`holds the same: tp ${topology.tp}, pp ${topology.pp}, dp ${topology.dp}, ZeRO ${topology.zero}`, async () => {
      const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
      const { target: universal, output } = await convertInto(source, "universal");
      for (const from of [source, universal]) {
        const { target } = await convertInto(from, "deepspeed", { topology });
        const names = await listKeys(target, "");
        const partitions = names.filter((name) => /bf16_zero_pp_rank_\d+_mp_rank_\d\d_optim_states\.pt$/.test(name));
        assert.equal(partitions.length, topology.tp * topology.pp * topology.dp);
        assert.equal((await convertInto(target, "universal")).output.contents, output.contents);
        // DeepSpeed's loader of stage 3 takes its scaler from the file; the others make a static one by themselves.
        const { training } = await openCheckpoint(target, "");
        const scaler = topology.zero === 3 ? { class: "LossScaler", cur_scale: 1, dynamic: false } : undefined;
        assert.deepEqual(training?.optimizer.loss_scaler, scaler);
      }
    });
  }

  test("is refused where nothing says how its ranks cut it", async () => {
    const source = await goldenStore("deepspeed/z2_tp1_pp1_dp3_fp32_padding");
    const { target } = await convertInto(source, "universal");
    const document = parseUniversal(await readAll(target, "universal.json", 1e7));
    assert.ok(document.parameters.length > 0);
    const topology = { tp: 2, pp: 1, dp: 1, zero: 1 } as const;
    await assert.rejects(convertInto(target, "deepspeed", { topology }), { code: "UniversalShapeMismatch" });
  });

  test("says in a universal folder of DeepSpeed which tensors are a vocabulary, padded or not", async () => {
    const source = await goldenStore("deepspeed/z2_tp1_pp1_dp3_fp32_padding");
    const { target } = await convertInto(source, "deepspeed-universal");
    for (const from of [source, target]) {
      const { conversion = [] } = await openCheckpoint(from, "");
      const padded = conversion.flatMap(({ name, paddedRows }) =>
        paddedRows === undefined ? [] : [[name, paddedRows]],
      );
      assert.deepEqual(padded.sort(), [
        ["lm_head.weight", 11],
        ["model.embed.word_embeddings.weight", 11],
      ]);
    }
  });

  test("pads the vocabulary as asked", async () => {
    const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
    const topology = { tp: 2, pp: 1, dp: 1, zero: 1 } as const;
    const { target } = await convertInto(source, "deepspeed", { topology, vocabularyMultiple: 64 });
    const { conversion = [] } = await openCheckpoint(target, "");
    assert.equal(conversion.find(({ paddedRows }) => paddedRows !== undefined)?.paddedRows, 128);
  });
});

suite("weights alone", () => {
  test("come back from torch and distributed files under their names", async () => {
    const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
    const { target: folder } = await convertInto(source, "safetensors");
    const { output } = await convertInto(folder, "universal");
    for (const to of ["torch", "dcp"] as const) {
      const { target } = await convertInto(folder, to);
      assert.equal((await convertInto(target, "universal")).output.contents, output.contents, to);
    }
  });

  test("are refused where the format keeps optimizer states, and nothing is written", async () => {
    const source = await goldenStore("deepspeed/z1_tp2_pp2_dp2_bf16_tied");
    const { target: folder } = await convertInto(source, "safetensors");
    await assert.rejects(convertInto(folder, "deepspeed-universal"), { code: "ConvertStatesMissing" });
  });
});
