// Buffers of a pipeline module lie in the files of its layers, as DeepSpeed's PipelineModule.save_state_dict writes
// them: they are kept, like those of any other model. Without tensor parallelism these files name no rank.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { type Picklable, pyDict, pyList, pyRecord, pySize } from "../../core/formats/pickle/write.ts";
import type { TargetTensor } from "../../core/formats/planned-file.ts";
import { planTorchFile, pyTensor } from "../../core/formats/torch/write.ts";
import { gatherWhole } from "../../core/universal/box.ts";
import { writePlanned } from "../../steps/convert/write-planned.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore } from "./deps.ts";
import { convertInto, namesIn } from "./folders.ts";

const STEP = "global_step7";

function tensor(...values: readonly number[]): Picklable<TargetTensor> {
  const literal = new Uint8Array(Float32Array.from(values).buffer);
  const shape = [values.length];
  return pyTensor({ dtype: "F32", shape, gather: gatherWhole([{ literal, offset: 0, bytes: literal.length }], shape) });
}

async function put(store: ObjectStore, name: string, value: Picklable<TargetTensor>): Promise<void> {
  const key = `${STEP}/${name}.pt`;
  await writePlanned({ store, prefix: "" }, planTorchFile(name, value), { store, key }, AbortSignal.timeout(60_000));
}

/** What one pipeline stage saves of a layer with one weight. */
async function putStage(store: ObjectStore, stage: number, weight: string, buffers: readonly string[]) {
  const mp = `mp_rank_0${stage}`;
  const state = pyDict<TargetTensor>([
    ["step", 7],
    ["exp_avg", tensor(0, 0)],
    ["exp_avg_sq", tensor(0, 0)],
  ]);
  const address = pyRecord("deepspeed.utils.tensor_fragment fragment_address", { numel: 2, start: 0 });
  const base = pyDict<TargetTensor>([
    ["state", pyDict<TargetTensor>([[0, state]])],
    ["param_groups", pyList([pyDict([["params", pyList([0])]])])],
  ]);
  const optimizer = pyDict<TargetTensor>([
    ["zero_stage", 1],
    ["base_optimizer_state", base],
    ["single_partition_of_fp32_groups", pyList([tensor(1, 2)])],
    ["param_slice_mappings", pyList([pyDict([[weight, address]])])],
  ]);
  await put(store, `zero_pp_rank_0_${mp}_optim_states`, pyDict<TargetTensor>([["optimizer_state_dict", optimizer]]));
  const model = pyDict<TargetTensor>([
    ["module", null],
    ["buffer_names", pyList([...buffers])],
    ["param_shapes", pyList([pyDict([[weight, pySize([2])]])])],
  ]);
  await put(store, `${mp}_model_states`, model);
}

async function pipeline(): Promise<ObjectStore> {
  const store = newStore();
  await putStage(store, 0, "1.mlp.weight", ["1.rope.inv_freq", "tied_modules.embed.position_ids"]);
  await putStage(store, 1, "2.mlp.weight", ["2.rope.inv_freq"]);
  for (const [layer, value] of [
    ["layer_01-model_states", 5],
    ["layer_02-model_states", 6],
  ] as const) {
    const members = [
      ["mlp.weight", tensor(1, 2)],
      ["rope.inv_freq", tensor(value, 0.25, 0.125)],
    ] as const;
    await put(store, layer, pyDict<TargetTensor>(members));
  }
  return store;
}

suite("buffers of a pipeline", () => {
  test("are read from the files of their layers", async () => {
    const { conversion = [], warnings, training } = await openCheckpoint(await pipeline(), "");
    const shown = conversion.map(({ name, shape, pattern, training: own }) => [
      name,
      [...shape],
      pattern.kind,
      own?.step,
    ]);
    assert.deepEqual(shown, [
      ["1.mlp.weight", [2], "unique", 7],
      ["2.mlp.weight", [2], "unique", 7],
      ["1.rope.inv_freq", [3], "replicated", undefined],
      ["2.rope.inv_freq", [3], "replicated", undefined],
    ]);
    assert.deepEqual(training?.topology, { tp: 1, pp: 2, dp: 1, zero: 1 });
    const lost = warnings.filter(({ code }) => code === "TensorsIgnored").map(({ found }) => found);
    assert.deepEqual(lost, ["tied_modules.embed.position_ids"]);
  });

  test("come back from a universal checkpoint cut for other stages", async () => {
    const { target: universal, output } = await convertInto(await pipeline(), "universal");
    const topology = { tp: 1, pp: 1, dp: 2, zero: 1 as const };
    const { target: other } = await convertInto(universal, "deepspeed", { topology });
    assert.ok((await namesIn(other)).includes(`${STEP}/layer_01-model_00-model_states.pt`));
    const { output: again } = await convertInto(other, "universal");
    assert.equal(again.contents, output.contents);
    assert.equal(again.tensors, 4);
  });
});
