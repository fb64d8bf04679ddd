// Frozen weights and buffers of training checkpoints, which have no optimizer states. Goal: they come through every
// format that keeps a training state, bit for bit, and what has no place is warned of, never lost in silence.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { readModelState } from "../../core/formats/deepspeed/model.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { listKeys } from "../../steps/records.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { dict, int, ops, tensor, torchOf } from "../core/formats/torch-parts.ts";
import { newStore } from "./deps.ts";
import { convertInto, goldenStore } from "./folders.ts";
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

const FLAT = tensor({ count: 4, size: [4], stride: [1] });
const MOMENTS = dict(["step", int(3)], ["exp_avg", FLAT], ["exp_avg_sq", FLAT]);

/** A rank's optimizer that holds the parameter `w` alone. */
function partition(state: Uint8Array): Uint8Array {
  const address = ops(
    "cdeepspeed.utils.tensor_fragment\nfragment_address\n)\x81",
    dict(["numel", int(4)], ["start", int(0)]),
    "b",
  );
  return dict(
    ["zero_stage", int(1)],
    ["single_partition_of_fp32_groups", ops("](", FLAT, "e")],
    ["param_slice_mappings", ops("](", dict(["w", address]), "e")],
    ["base_optimizer_state", dict(["state", ops("}(", int(0), state, "u")], ["param_groups", "]"])],
  );
}

/** The two files of a single rank whose optimizer holds `w`, of four elements. */
async function putRank(
  store: ObjectStore,
  stage: 1 | 3,
  module: Readonly<Record<string, Uint8Array>>,
  optimizer: Uint8Array,
): Promise<void> {
  const size = ops("ctorch\nSize\n", ops("(", int(4), "t"), "\x85R");
  const shapes = ops("](", dict(["w", size]), "e");
  const model = dict(["module", dict(...Object.entries(module))], ["param_shapes", shapes]);
  const storages = { 0: new Uint8Array(16), 1: new Uint8Array(16).fill(1) };
  const prefix = stage === 3 ? "zero_pp_rank_0_" : "";
  await store.create(`${prefix}mp_rank_00_model_states.pt`, torchOf(model, storages));
  const optimizerFile = torchOf(dict(["optimizer_state_dict", optimizer]), storages);
  await store.create("zero_pp_rank_0_mp_rank_00_optim_states.pt", optimizerFile);
}

suite("weights that the module's dict alone holds", () => {
  test("are read where no list of frozen ones names them, and the same bytes are a tied weight", async () => {
    const store = newStore();
    const frozen = tensor({ key: "1", count: 4, size: [2], stride: [1] });
    await putRank(store, 1, { w: FLAT, frozen, tied: FLAT }, partition(MOMENTS));
    const { conversion = [], warnings } = await openCheckpoint(store, "");
    assert.deepEqual(
      conversion.map(({ name, shape, training, aliases }) => [name, [...shape], training?.step, [...aliases]]),
      [
        ["w", [4], 3, ["tied"]],
        ["frozen", [2], undefined, []],
      ],
    );
    assert.deepEqual(warnings, []);
  });
});

test("a tied weight is in the written module under every name, since trainers load it strictly", async () => {
  const store = newStore();
  await putRank(store, 1, { w: FLAT, tied: FLAT }, partition(MOMENTS));
  for (const zero of [1, 3] as const) {
    const { target } = await convertInto(store, "deepspeed", { topology: { tp: 1, pp: 1, dp: 1, zero } });
    const name = (await listKeys(target, "")).find((each) => each.endsWith("model_states.pt")) ?? assert.fail();
    const content = await readAll(target, name, 1e6);
    const read = async (_: string, offset: number, bytes: number) => content.slice(offset, offset + bytes);
    const state = await readModelState({ files: [], read }, { name, bytes: content.length });
    assert.deepEqual([...(state.module?.keys() ?? [])], ["w", "tied"]);
  }
});

suite("what has no place in a universal checkpoint", () => {
  test("is warned of: states of an optimizer that DeepSpeed's folder holds", async () => {
    const { target } = await convertInto(
      await goldenStore("deepspeed/z2_tp1_pp1_dp3_fp32_padding"),
      "deepspeed-universal",
    );
    const state = (await listKeys(target, "")).find((name) => name.endsWith("/exp_avg.pt")) ?? assert.fail();
    const other = state.replace("exp_avg.pt", "momentum_buffer.pt");
    await target.create(other, await readAll(target, state, 1e6));
    const { warnings } = await openCheckpoint(target, "");
    assert.deepEqual(
      warnings.filter(({ code }) => code === "OptimizerStateIgnored").map(({ found }) => found),
      ["momentum_buffer"],
    );
  });

  test("is warned of: weights of which stage 3 left placeholders", async () => {
    const store = newStore();
    const none = tensor({ count: 4, size: [0], stride: [1] });
    const optimizer = [
      ["fp32_flat_groups", ops("](", FLAT, "e")],
      ["optimizer_state_dict", dict(["state", ops("}(", int(0), MOMENTS, "u")], ["param_groups", "]"])],
    ] as const;
    await putRank(store, 3, { w: none, frozen: none }, dict(["zero_stage", int(3)], ...optimizer));
    const { conversion = [], warnings } = await openCheckpoint(store, "");
    assert.deepEqual(
      conversion.map(({ name }) => name),
      ["w"],
    );
    assert.deepEqual(
      warnings.map(({ code, found }) => [code, found]),
      [["TensorsIgnored", "frozen"]],
    );
  });

  test("is warned of: states of an optimizer in rank files", async () => {
    const store = newStore();
    await putRank(
      store,
      1,
      { w: FLAT },
      partition(dict(["step", int(3)], ["exp_avg", FLAT], ["max_exp_avg_sq", FLAT])),
    );
    const { output } = await convertInto(store, "universal");
    assert.match(output.warnings.join("\n"), /OptimizerStateIgnored: .*found max_exp_avg_sq/);
  });
});
