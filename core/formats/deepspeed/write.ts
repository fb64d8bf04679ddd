// Plans the rank files of a DeepSpeed training checkpoint for any number of tensor-parallel, pipeline and data-parallel
// ranks and ZeRO 1, 2 or 3, from any source with optimizer states: no trainer is loaded, no tensor is read before its
// bytes are written. `latest` comes last.
// Source: reference checkpoint-formats.md sections 3 and 5.
import { elementCount, type Shape } from "../../tensor.ts";
import { convertTensor, type TargetTensor } from "../../universal/box.ts";
import { STATE_NAMES } from "../../universal/conversion.ts";
import { areGroupsKnown, type TrainedOne } from "../../universal/optimizer-groups.ts";
import { cutEach, cutFlattened, flatTensor, type Partition, sliceForRank } from "../../universal/partition.ts";
import type { TrainingState } from "../../universal/training-state.ts";
import { picklableOf } from "../pickle/json.ts";
import { type Picklable, pyDict, pyList, pyRecord } from "../pickle/write.ts";
import { type PlannedFile, plainPlannedFile } from "../planned-file.ts";
import type { PlannedFolder, TargetFormat, TargetRequest, Topology } from "../target.ts";
import { planTorchFile, pyTensor, scalarTensor, type TorchValue } from "../torch/write.ts";
import { computeIn } from "./compute-dtype.ts";
import {
  groupsOf,
  groupValues,
  modelStateValue,
  moduleValue,
  type NamedTensor,
  optimizerCommon,
  planModelStates,
  stepFolder,
  stepOf,
} from "./write-model.ts";
import { placeholderOf, planOthers, rowsOf } from "./write-others.ts";
import { planStages, type StageParameters } from "./write-stages.ts";

export const deepspeedTarget = Object.freeze({
  id: "deepspeed",
  title: "DeepSpeed training checkpoint (ZeRO 1, 2, 3)",
  isSharded: true,
  takesDtype: "compute",
  plan: planDeepspeed,
} satisfies TargetFormat);

/** States of one rank's slice of a parameter, by name: fp32 and the moments. */
export type RankParameter = {
  readonly name: string;
  readonly shape: Shape;
  readonly step: number;
  readonly states: ReadonlyMap<string, TargetTensor>;
};

function planDeepspeed(asked: TargetRequest): PlannedFolder {
  const training = computeIn(asked.training, asked.computeDtype);
  const request = { ...asked, training };
  const { topology } = request;
  const groups = groupsOf(request.parameters);
  const step = stepOf(groups.flat());
  const folder = stepFolder(training, step);
  const stages = planStages(request.parameters, groups, topology.pp);
  const files = stages.flatMap((stage, pp) =>
    Array.from({ length: topology.tp }, (_, tp) => planRank({ request, folder, step, stage, pp, tp })).flat(),
  );
  return { files, last: plainPlannedFile("latest", folder), warnings: warnOfOrder(groups, training) };
}

/** The loader copies flat buffers as they are, and takes the file's hyper-parameters. */
function warnOfOrder(groups: readonly (readonly TrainedOne[])[], training: TrainingState | undefined) {
  if (areGroupsKnown(groups, training)) return [];
  return [{ code: "OptimizerGroupsUnknown" as const, where: {} }];
}

type Rank = {
  readonly request: TargetRequest;
  readonly folder: string;
  readonly step: number;
  readonly stage: StageParameters;
  readonly pp: number;
  readonly tp: number;
};

/** Files of one model-parallel rank: its model state, its layers where it has such, its data-parallel partitions. */
function planRank(rank: Rank): readonly PlannedFile[] {
  const { request, folder, stage, pp, tp } = rank;
  const { topology, training } = request;
  const mp = pp * topology.tp + tp;
  const groups = stage.groups.map((group) => group.map((parameter) => cutParameter(parameter, request, tp)));
  const optimizer = planOptimizer(groups, topology, training);
  const prefix = training?.weights === "BF16" ? "bf16_" : "";
  return [
    ...planModelFiles(rank, groups, mp),
    ...optimizer.map((value, dp) =>
      planTorchFile(`${folder}/${prefix}zero_pp_rank_${dp}_mp_rank_${padded(mp)}_optim_states.pt`, value),
    ),
  ];
}

function padded(value: number): string {
  return String(value).padStart(2, "0");
}

/** The part of a parameter and its states that a tensor-parallel rank holds. */
export function cutParameter(parameter: TrainedOne, request: TargetRequest, rank: number): RankParameter {
  const cut = { rank, tp: request.topology.tp, paddedRows: rowsOf(request, parameter) };
  const fp32 = sliceForRank(parameter, parameter, cut);
  const states = new Map<string, TargetTensor>([["fp32", fp32]]);
  for (const state of STATE_NAMES) {
    const tensor = parameter.training.states[state];
    if (tensor !== undefined) states.set(state, sliceForRank(parameter, tensor, cut));
  }
  return { name: parameter.name, shape: fp32.shape, step: parameter.training.step, states };
}

/** Partitions of every group by data-parallel rank. */
export function cutGroups(groups: readonly (readonly RankParameter[])[], { dp, zero }: Topology) {
  const cut = zero === 3 ? cutEach : cutFlattened;
  return groups.map((group) => {
    const partitions = cut(
      group.map(({ shape }) => elementCount(shape)),
      dp,
    );
    const slicesOf = (state: string) => group.map(({ states }) => states.get(state));
    return { group, partitions, slices: new Map(["fp32", ...STATE_NAMES].map((state) => [state, slicesOf(state)])) };
  });
}

type CutGroup = ReturnType<typeof cutGroups>[number];

/** One state of a group on a rank, up to `elements`: the whole partition, or without the padding at its end. */
export function flatState({ slices }: CutGroup, partition: Partition, state: string, elements = partition.elements) {
  return flatTensor(partition, slices.get(state) ?? [], elements);
}

/** The dicts of the optimizer files of a model-parallel rank, by data-parallel rank. */
function planOptimizer(
  groups: readonly (readonly RankParameter[])[],
  topology: Topology,
  training: TrainingState | undefined,
): readonly TorchValue[] {
  const cut = cutGroups(groups, topology);
  const config = picklableOf(training?.client.ds_config ?? null);
  const version = picklableOf(training?.client.ds_version ?? training?.optimizer.ds_version ?? null);
  return Array.from({ length: topology.dp }, (_, dp) => {
    const state =
      topology.zero === 3 ? stage3State(cut, dp, topology, training) : stage12State(cut, dp, topology, training);
    return pyDict([
      ["optimizer_state_dict", state],
      ["ds_config", config],
      ["ds_version", version],
    ]);
  });
}

/** `{state, param_groups}` of the base optimizer. */
function baseState(cut: readonly CutGroup[], dp: number, training: TrainingState | undefined): TorchValue {
  const states = cut.map((group, index) => {
    const partition = group.partitions[dp];
    const [first] = group.group;
    const held = STATE_NAMES.filter((state) => first?.states.has(state) === true);
    const step = pyTensor(scalarTensor(first?.step ?? 0));
    const moments =
      partition === undefined
        ? []
        : held.map((state) => [state, pyTensor(flatState(group, partition, state))] as const);
    return [index, pyDict([["step", step] as const, ...moments])] as const;
  });
  return pyDict([
    ["state", pyDict(states)],
    ["param_groups", groupValues(training, cut.length)],
  ]);
}

function stage12State(
  cut: readonly CutGroup[],
  dp: number,
  { zero, dp: ranks }: Topology,
  training: TrainingState | undefined,
): TorchValue {
  const own = cut.flatMap((group) => {
    const partition = group.partitions[dp];
    if (partition === undefined) return [];
    const held = partition.pieces.reduce((sum, { count }) => sum + count, 0);
    return [{ group, partition, held }];
  });
  return pyDict<TargetTensor>([
    ...Object.entries(optimizerCommon(training)),
    ["base_optimizer_state", baseState(cut, dp, training)],
    [
      "single_partition_of_fp32_groups",
      pyList(own.map(({ group, partition, held }) => pyTensor(flatState(group, partition, "fp32", held)))),
    ],
    ["zero_stage", zero],
    ["group_paddings", pyList(own.map(({ partition, held }) => partition.elements - held))],
    ["partition_count", pyList(own.map(() => ranks))],
    ["param_slice_mappings", pyList(own.map(({ group, partition }) => mappingOf(group, partition)))],
  ]);
}

function mappingOf({ group }: CutGroup, { pieces }: Partition): Picklable {
  const addresses = pieces.map(({ slice, count, start }) => {
    const address = pyRecord("deepspeed.utils.tensor_fragment fragment_address", { numel: count, start });
    return [group[slice]?.name ?? "", address] as const;
  });
  return pyDict(addresses, { isOrdered: true });
}

function stage3State(
  cut: readonly CutGroup[],
  dp: number,
  { dp: ranks }: Topology,
  training: TrainingState | undefined,
): TorchValue {
  const flats = cut.flatMap((group) => {
    const partition = group.partitions[dp];
    return partition === undefined ? [] : [pyTensor(flatState(group, partition, "fp32"))];
  });
  return pyDict<TargetTensor>([
    ["zero_stage", 3],
    ...Object.entries(optimizerCommon(training, { needsScaler: true })),
    ["partition_count", ranks],
    ["optimizer_state_dict", baseState(cut, dp, training)],
    ["fp32_flat_groups", pyList(flats)],
  ]);
}

/** Model-state files: one in stages 1 and 2, one for each data-parallel rank in stage 3; and files of layers. */
function planModelFiles(
  { request, folder, step, stage, tp }: Rank,
  groups: readonly (readonly RankParameter[])[],
  mp: number,
): readonly PlannedFile[] {
  const { topology, training } = request;
  const weights = groups.flat().flatMap(({ name, states }): NamedTensor[] => {
    const tensor = states.get("fp32");
    if (tensor === undefined) return [];
    const dtype = training?.weights ?? "F32";
    return [[name, topology.zero === 3 ? placeholderOf({ dtype }) : convertTensor(tensor, dtype)]];
  });
  const others = planOthers(stage.others, request, tp);
  const stored = new Map([...weights, ...others.module]);
  // A trainer loads the dict strictly: every name of a tied weight must be in it.
  const aliases = [...stage.shared].flatMap(([alias, name]): NamedTensor[] => {
    const tensor = stage.layerOf === undefined ? stored.get(name) : undefined;
    return tensor === undefined ? [] : [[alias, tensor]];
  });
  const named = [...stored, ...aliases];
  const layers = stage.layerOf === undefined ? [] : planLayers(folder, named, stage.layerOf, tp);
  const stateOf = (dp: number) =>
    modelStateValue(
      {
        module: stage.layerOf === undefined ? named : undefined,
        bufferNames: others.bufferNames,
        groups,
        frozen: others.frozen(dp),
        shared: stage.shared,
        step,
      },
      training,
      topology,
    );
  return [...planModelStates({ folder, mp, isCut: others.isCut }, topology, stateOf), ...layers];
}

/** `layer_02-model_00-model_states.pt` with the layer's own names. */
function planLayers(
  folder: string,
  named: readonly NamedTensor[],
  layerOf: NonNullable<StageParameters["layerOf"]>,
  tp: number,
): readonly PlannedFile[] {
  const byLayer = Map.groupBy(named, ([name]) => layerOf(name).layer);
  return [...byLayer].map(([layer, members]) => {
    const local = members.map(([name, tensor]): NamedTensor => [layerOf(name).local, tensor]);
    return planTorchFile(`${folder}/layer_${padded(layer)}-model_${padded(tp)}-model_states.pt`, moduleValue(local));
  });
}
