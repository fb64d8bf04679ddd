// Frozen weights and buffers of training checkpoints, which have no optimizer states. Goal: they come through every
// format that keeps a training state, bit for bit, and what has no place is warned of, never lost in silence.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { readAll } from "../../stores/objects.ts";
import { dict, int, ops, tensor, torchOf } from "../core/formats/torch-parts.ts";
import { newStore } from "./deps.ts";
import { convertInto, goldenStore, namesIn } from "./folders.ts";
import { type ModelParameter, putTraining } from "./training-model.ts";

const MODEL: readonly ModelParameter[] = [
  { name: "embed.weight", shape: [6, 4], pattern: { kind: "fragment", dim: 0 } },
  { name: "layers.0.up.weight", shape: [4, 4], pattern: { kind: "fragment", dim: 0 } },
  {
    name: "layers.0.down.weight",
    shape: [3, 4],
    pattern: { kind: "fragment", dim: 1 },
    dtype: "BF16",
    isTrained: false,
  },
  { name: "layers.0.norm.weight", shape: [5], pattern: { kind: "replicated" }, dtype: "F16", isTrained: false },
  { name: "layers.1.up.weight", shape: [4, 4], pattern: { kind: "fragment", dim: 0 } },
  { name: "layers.1.frequencies", shape: [2], pattern: { kind: "replicated" }, isTrained: false },
];
const CLIENT = {
  buffer_names: ["layers.1.frequencies"],
  universal_checkpoint_info: {
    tp_replicated_parameter_patterns: [".*norm\\."],
    parameter_with_row_parallelism_patterns: [".*down\\."],
  },
};

suite("weights without optimizer states", () => {
  for (const [tp, pp, dp] of [
    [1, 1, 1],
    [2, 1, 2],
    [1, 2, 3],
    [2, 2, 1],
  ] as const) {
    for (const zero of [1, 2, 3] as const) {
      test(`come back from tp ${tp}, pp ${pp}, dp ${dp}, ZeRO ${zero}`, async () => {
        const source = await putTraining(MODEL, CLIENT);
        const { output } = await convertInto(source, "universal");
        const topology = { tp, pp, dp, zero };
        const { target } = await convertInto(source, "deepspeed", { topology });
        assert.equal((await convertInto(target, "universal")).output.contents, output.contents);
        // Through DeepSpeed's own folder: its model states are copied, made, and made from what was copied.
        for (const from of [target, source]) {
          const { target: folder } = await convertInto(from, "deepspeed-universal", { topology });
          assert.equal((await convertInto(folder, "universal")).output.contents, output.contents);
        }
      });
    }
  }
});

suite("what has no place in a universal checkpoint", () => {
  test("is warned of: states of an optimizer that DeepSpeed's folder holds", async () => {
    const { target } = await convertInto(
      await goldenStore("deepspeed/z2_tp1_pp1_dp3_fp32_padding"),
      "deepspeed-universal",
    );
    const state = (await namesIn(target)).find((name) => name.endsWith("/exp_avg.pt")) ?? assert.fail();
    const other = state.replace("exp_avg.pt", "momentum_buffer.pt");
    await target.create(other, await readAll(target, state, 1e6));
    const { warnings } = await openCheckpoint(target, "");
    assert.deepEqual(
      warnings.filter(({ code }) => code === "OptimizerStateIgnored").map(({ found }) => found),
      ["momentum_buffer"],
    );
  });

  test("is warned of: states of an optimizer in rank files", async () => {
    const store = newStore();
    const flat = tensor({ count: 4, size: [4], stride: [1] });
    const group = dict(["step", int(3)], ["exp_avg", flat], ["max_exp_avg_sq", flat]);
    const address = ops(
      "cdeepspeed.utils.tensor_fragment\nfragment_address\n)\x81",
      dict(["numel", int(4)], ["start", int(0)]),
      "b",
    );
    const optimizer = dict(
      ["zero_stage", int(1)],
      ["single_partition_of_fp32_groups", ops("](", flat, "e")],
      ["param_slice_mappings", ops("](", dict(["w", address]), "e")],
      ["base_optimizer_state", dict(["state", ops("}(", int(0), group, "u")], ["param_groups", "]"])],
    );
    const size = ops("ctorch\nSize\n", ops("(", int(4), "t"), "\x85R");
    const model = dict(["module", dict(["w", flat])], ["param_shapes", ops("](", dict(["w", size]), "e")]);
    await store.create("mp_rank_00_model_states.pt", torchOf(model, { 0: new Uint8Array(16) }));
    await store.create(
      "zero_pp_rank_0_mp_rank_00_optim_states.pt",
      torchOf(dict(["optimizer_state_dict", optimizer]), { 0: new Uint8Array(16) }),
    );
    const { output } = await convertInto(store, "universal");
    assert.match(output.warnings.join("\n"), /OptimizerStateIgnored: .*found max_exp_avg_sq/);
  });
});
