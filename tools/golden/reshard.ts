// Golden cases of re-sharding: what each rank of another topology holds must be, bit for bit, what DeepSpeed's own
// loader puts there. Names in the expected file: `tp0.dp1.group0.fp32` for flattened groups, `dp1.NAME.fp32` for
// stage 3. Source of the form: checkpoint reference, section 5.
import { basename, dirname, join } from "node:path";
import { cutGroups, cutParameter, flatState } from "../../core/formats/deepspeed/write.ts";
import { groupsOf } from "../../core/formats/deepspeed/write-model.ts";
import { parametersIn } from "../../core/formats/format.ts";
import type { Topology } from "../../core/formats/target.ts";
import type { TargetTensor } from "../../core/universal/box.ts";
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { failed, PASSED, type Verdict } from "./case.ts";
import { gatherTensor, readTensor } from "./tensors.ts";

type Reshard = {
  readonly target: { readonly tp: number; readonly dp: number; readonly zero: string | number };
  readonly file: string;
};

const STATES = ["fp32", "exp_avg", "exp_avg_sq"];

/** Compares every tensor of the expected file with the rank's own, gathered from the case's source. */
export async function runReshard(folder: string, source: string, { target, file }: Reshard): Promise<Verdict> {
  const store = createDirectoryStore(join(folder, source), { durable: false });
  const opened = await openCheckpoint(store, "");
  const topology: Topology = { tp: target.tp, pp: 1, dp: target.dp, zero: String(target.zero) === "3" ? 3 : 1 };
  const request = {
    source: opened.checkpoint,
    parameters: parametersIn(opened),
    training: opened.training,
    shardBytes: 0,
    topology,
    vocabularyMultiple: undefined,
    computeDtype: undefined,
  };
  const held = new Map<string, TargetTensor>();
  for (let tp = 0; tp < topology.tp; tp += 1) {
    const groups = groupsOf(request.parameters).map((group) => group.map((each) => cutParameter(each, request, tp)));
    // Stage 3 is told of by parameter, so each is a group of its own.
    const split = topology.zero === 3 ? groups.flat().map((parameter) => [parameter]) : groups;
    cutGroups(split, topology).forEach((group, index) => {
      group.partitions.forEach((partition, dp) => {
        const name = topology.zero === 3 ? `dp${dp}.${group.group[0]?.name}` : `tp${tp}.dp${dp}.group${index}`;
        for (const state of STATES) held.set(`${name}.${state}`, flatState(group, partition, state));
      });
    });
  }
  const expectedStore = createDirectoryStore(dirname(join(folder, file)), { durable: false });
  const { checkpoint } = await openCheckpointFile(expectedStore, basename(file));
  if (checkpoint.tensors.length !== held.size) return failed(`${held.size} tensors, not ${checkpoint.tensors.length}`);
  for (const expected of checkpoint.tensors) {
    const own = held.get(expected.name);
    if (own === undefined) return failed(`no ${expected.name}`);
    if (own.shape.join() !== expected.shape.join()) {
      return failed(`${expected.name} is [${own.shape}], not [${expected.shape}]`);
    }
    const bytes = await gatherTensor(store, expected.name, own.shape, own);
    if (Buffer.compare(bytes, (await readTensor(expectedStore, expected)).bytes) !== 0) {
      return failed(`${expected.name}: bytes differ`);
    }
  }
  return PASSED;
}
