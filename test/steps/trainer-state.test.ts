// What a trainer saved beside the tensors that a universal checkpoint keeps: warned of by name where it cannot.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Picklable, pyDict, pyList, pyRecord, pySize } from "../../core/formats/pickle/write.ts";
import { planTorchFile } from "../../core/formats/torch/write.ts";
import type { TargetTensor } from "../../core/universal/box.ts";
import { writePlanned } from "../../steps/convert/write-planned.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { newStore } from "./deps.ts";
import { torchFloats } from "./torch-upload.ts";

test("optimizer states and objects that have no place are warned of, plain values are kept", async () => {
  const store = newStore();
  const address = pyRecord("deepspeed.utils.tensor_fragment fragment_address", { numel: 2, start: 0 });
  const model = pyDict<TargetTensor>([
    ["module", pyDict<TargetTensor>([["w", torchFloats(1, 2)]])],
    ["param_shapes", pyList([pyDict([["w", pySize([2])]])])],
    ["iteration", 7],
    ["random_state", torchFloats(3)],
  ]);
  const state = pyDict<TargetTensor>([
    ["step", 7],
    ["exp_avg", torchFloats(0, 0)],
    ["exp_avg_sq", torchFloats(0, 0)],
    ["max_exp_avg_sq", torchFloats(0, 0)],
  ]);
  const group = pyDict([
    ["lr", 0.5],
    ["params", pyList([0])],
  ]);
  const base = pyDict<TargetTensor>([
    ["state", pyDict<TargetTensor>([[0, state]])],
    ["param_groups", pyList([group])],
  ]);
  const own = pyDict<TargetTensor>([
    ["zero_stage", 2],
    ["base_optimizer_state", base],
    ["single_partition_of_fp32_groups", pyList([torchFloats(1, 2)])],
    ["param_slice_mappings", pyList([pyDict([["w", address]])])],
  ]);
  const files: readonly (readonly [string, Picklable<TargetTensor>])[] = [
    ["mp_rank_00_model_states.pt", model],
    ["zero_pp_rank_0_mp_rank_00_optim_states.pt", pyDict<TargetTensor>([["optimizer_state_dict", own]])],
  ];
  for (const [name, value] of files) {
    const key = `global_step7/${name}`;
    await writePlanned({ store, prefix: "" }, planTorchFile(name, value), { store, key }, AbortSignal.timeout(60_000));
  }
  const { training, warnings } = await openCheckpoint(store, "");
  assert.deepEqual(
    warnings.map(({ code, found }) => `${code} ${found}`),
    ["OptimizerStateIgnored max_exp_avg_sq", "TrainerStateIgnored random_state"],
  );
  assert.deepEqual([training?.client, training?.groups], [{ iteration: 7 }, [{ lr: 0.5 }]]);
  assert.deepEqual(training?.topology, { tp: 1, pp: 1, dp: 1, zero: 2 });
});
