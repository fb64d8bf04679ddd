// Buffers and frozen weights of a pipeline module lie in the files of its layers, as DeepSpeed's
// PipelineModule.save_state_dict writes them: they are kept, like those of any other model, tied modules' too. Without
// tensor parallelism these files name no rank.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { type Picklable, pyDict, pyList, pyRecord, pySize } from "../../core/formats/pickle/write.ts";
import { planTorchFile } from "../../core/formats/torch/write.ts";
import type { TargetTensor } from "../../core/universal/box.ts";
import { writePlanned } from "../../steps/convert/write-planned.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { listKeys } from "../../steps/records.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore } from "./deps.ts";
import { convertInto } from "./folders.ts";
import { torchFloats } from "./torch-upload.ts";

const STEP = "global_step7";

async function put(store: ObjectStore, name: string, value: Picklable<TargetTensor>): Promise<void> {
  const key = `${STEP}/${name}.pt`;
  await writePlanned({ store, prefix: "" }, planTorchFile(name, value), { store, key }, AbortSignal.timeout(60_000));
}

/** What one pipeline stage saves of a layer with one weight. */
async function putStage(store: ObjectStore, stage: number, weight: string, buffers: readonly string[]) {
  const mp = `mp_rank_0${stage}`;
  const state = pyDict<TargetTensor>([
    ["step", 7],
    ["exp_avg", torchFloats(0, 0)],
    ["exp_avg_sq", torchFloats(0, 0)],
  ]);
  const address = pyRecord("deepspeed.utils.tensor_fragment fragment_address", { numel: 2, start: 0 });
  const base = pyDict<TargetTensor>([
    ["state", pyDict<TargetTensor>([[0, state]])],
    ["param_groups", pyList([pyDict([["params", pyList([0])]])])],
  ]);
  const optimizer = pyDict<TargetTensor>([
    ["zero_stage", 1],
    ["base_optimizer_state", base],
    ["single_partition_of_fp32_groups", pyList([torchFloats(1, 2)])],
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

/** The file of a layer, by local names. */
async function putLayer(store: ObjectStore, layer: number, members: Readonly<Record<string, readonly number[]>>) {
  const value = pyDict(Object.entries(members).map(([name, values]) => [name, torchFloats(...values)] as const));
  await put(store, `layer_0${layer}-model_states`, value);
}

async function pipeline(): Promise<ObjectStore> {
  const store = newStore();
  await putStage(store, 0, "1.mlp.weight", ["1.rope.inv_freq", "tied_modules.embed.position_ids"]);
  await putStage(store, 1, "2.mlp.weight", ["2.rope.inv_freq"]);
  await putLayer(store, 1, { "mlp.weight": [1, 2], "rope.inv_freq": [5, 0.25, 0.125] });
  await putLayer(store, 2, { "mlp.weight": [1, 2], "rope.inv_freq": [6, 0.25, 0.125] });
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
    assert.ok((await listKeys(other, "")).includes(`${STEP}/layer_01-model_00-model_states.pt`));
    const { output: again } = await convertInto(other, "universal");
    assert.equal(again.contents, output.contents);
    assert.equal(again.tensors, 4);
  });

  test("of tied modules are read from any layer that is one, and agree", async () => {
    const store = newStore();
    await putStage(store, 0, "tied_modules.embed.weight", ["tied_modules.embed.position_ids"]);
    await putStage(store, 1, "2.mlp.weight", ["tied_modules.embed.position_ids", "2.rope.inv_freq"]);
    await putLayer(store, 0, { weight: [1, 2], position_ids: [0, 1, 2] });
    await putLayer(store, 2, { "mlp.weight": [1, 2], "rope.inv_freq": [6] });
    await putLayer(store, 3, { weight: [1, 2], position_ids: [0, 1, 2] });
    const { conversion = [], warnings } = await openCheckpoint(store, "");
    assert.deepEqual(
      conversion.map(({ name, shape }) => [name, [...shape]]),
      [
        ["tied_modules.embed.weight", [2]],
        ["2.mlp.weight", [2]],
        ["tied_modules.embed.position_ids", [3]],
        ["2.rope.inv_freq", [1]],
      ],
    );
    assert.deepEqual(warnings, []);
  });

  test("of two tied modules with the same members are warned of: nothing says which is which", async () => {
    const store = newStore();
    await putStage(store, 0, "tied_modules.a.weight", ["tied_modules.a.ids", "tied_modules.b.ids"]);
    await putStage(store, 1, "tied_modules.b.weight", ["tied_modules.b.ids"]);
    await putLayer(store, 0, { weight: [1, 2], ids: [1] });
    await putLayer(store, 3, { weight: [1, 2], ids: [2] });
    const { conversion = [], warnings } = await openCheckpoint(store, "");
    assert.equal(conversion.length, 2);
    assert.deepEqual(
      warnings.map(({ code, found }) => [code, found]),
      [["TensorsIgnored", "tied_modules.a.ids, tied_modules.b.ids"]],
    );
  });
});

suite("weights of a pipeline that no optimizer holds", () => {
  test("are read from the files of their layers", async () => {
    const store = await pipeline();
    await putLayer(store, 3, { weight: [7, 8, 9] });
    const { conversion = [] } = await openCheckpoint(store, "");
    const [frozen] = conversion.filter(({ name }) => name === "3.weight");
    assert.deepEqual([frozen?.shape, frozen?.training], [[3], undefined]);
  });

  test("are all there is where optimizer states are missing", async () => {
    const store = await pipeline();
    for (const stage of [0, 1]) await store.delete(`${STEP}/zero_pp_rank_0_mp_rank_0${stage}_optim_states.pt`);
    const { conversion = [], warnings } = await openCheckpoint(store, "");
    assert.deepEqual(
      conversion.map(({ name }) => name),
      ["1.mlp.weight", "2.mlp.weight", "1.rope.inv_freq", "2.rope.inv_freq"],
    );
    assert.ok(warnings.some(({ code }) => code === "OptimizerStatesMissing"));
  });
});
