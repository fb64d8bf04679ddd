// One optimizer-state file of a ZeRO rank: its flat groups of master weights and moments as byte ranges, the step, and
// in stages 1 and 2 which part of which parameter lies where in them.
// Source: reference checkpoint-formats.md section 3.3.
import type { Digest } from "../../artifact/digest.ts";
import type { ByteRange, CheckpointFile, FolderReader } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import type { Json, JsonObject } from "../../json.ts";
import { type Dtype, elementCount } from "../../tensor.ts";
import { jsonObjectOf, jsonOf } from "../pickle/json.ts";
import { asKind, countsOf, fieldOf, isCount, itemsOf, type PickleTensor, type PickleValue } from "../pickle/value.ts";
import { placeTorchTensor } from "../torch/file.ts";
import type { TorchFile } from "../torch/storage.ts";
import { readCount } from "../torch/tensor.ts";
import { fieldError, readRankFile } from "./model.ts";

/** A 1-D tensor that is one range of a file. */
export type FlatTensor = { readonly range: ByteRange; readonly dtype: Dtype; readonly elements: number };
export type Fragment = { readonly start: number; readonly count: number };

export type FlatGroup = {
  /** fp32 and the optimizer's own states by name. */
  readonly states: ReadonlyMap<string, FlatTensor>;
  readonly step: number | undefined;
  /** Ranks that the group is cut over, where the file says so: fewer than there are for experts. */
  readonly partitions: number | undefined;
  /** Stages 1 and 2: the part of each parameter inside this rank's partition. */
  readonly fragments: ReadonlyMap<string, Fragment>;
  /** States that a universal checkpoint has no place for. */
  readonly ignored: readonly string[];
};

export type OptimizerRank = OptimizerCommon & {
  readonly file: string;
  /** Equal files share it; undefined where the file has no checksums. */
  readonly contents: Digest | undefined;
  readonly stage: 1 | 2 | 3;
  readonly groups: readonly FlatGroup[];
};

export type OptimizerCommon = {
  /** The optimizer's group of each flat group: sub-groups of stage 3 are parts of one. */
  readonly groupOf: readonly number[];
  /** Hyper-parameters of each of the optimizer's groups. */
  readonly hyperparameters: readonly JsonObject[];
  /** What else it says as plain values. */
  readonly common: JsonObject;
};

/** The states that a universal checkpoint keeps beside the master weights. */
const MOMENTS = ["exp_avg", "exp_avg_sq"];
const STAGES = new Map([
  ["disabled", 0],
  ["optimizer_states", 1],
  ["gradients", 2],
  ["weights", 3],
]);

/** Throws DeepspeedFieldInvalid, DeepspeedUnsupported, and what reading and placing throw. */
export async function readOptimizerRank(folder: FolderReader, file: CheckpointFile): Promise<OptimizerRank> {
  const torch = await readRankFile(folder, file);
  const root = fieldOf(torch.value, "optimizer_state_dict");
  if (root === undefined) throw fieldError(file.name, "optimizer_state_dict", root, "a dict");
  const task: OptimizerTask = { folder, torch, root, file: file.name };
  const stage = stageOf(root, file);
  if (fieldOf(root, "ds_zero_partition_groups") !== undefined && fieldOf(root, "ds_zero_partition_groups") !== null) {
    throw unsupported(file.name, "partition groups of experts");
  }
  const groups = await (stage === 3 ? readStage3(task) : readStage12(task));
  return { file: file.name, contents: torch.contents, stage, groups, ...readOptimizerCommon(root, groups.length) };
}

/** Keys whose values are the flat groups, or follow from the topology. */
const PARTITION_KEYS = new Set([
  "base_optimizer_state",
  "optimizer_state_dict",
  "single_partition_of_fp32_groups",
  "fp32_flat_groups",
  "param_slice_mappings",
  "group_paddings",
  "param_groups",
  "partition_count",
  "zero_stage",
]);

/** What a rank, or the common file of a universal folder, says beside `groups` flat groups. */
export function readOptimizerCommon(root: PickleValue, groups: number): OptimizerCommon {
  const base = fieldOf(root, "base_optimizer_state") ?? fieldOf(root, "optimizer_state_dict") ?? root;
  const listed = itemsOf(fieldOf(root, "param_groups") ?? fieldOf(base, "param_groups")) ?? [];
  const members = listed.map((group) => countsOf(fieldOf(group, "params")) ?? []);
  const groupOf = Array.from({ length: groups }, (_, index) => {
    const found = members.findIndex((own) => own.includes(index));
    return found === -1 ? index : found;
  });
  const common: [string, Json][] = [];
  for (const { key, value } of asKind(root, "dict")?.entries.values() ?? []) {
    if (typeof key !== "string" || PARTITION_KEYS.has(key)) continue;
    const plain = key === "loss_scaler" ? lossScalerOf(value) : jsonOf(value);
    if (plain !== undefined) common.push([key, plain]);
  }
  return { groupOf, hyperparameters: listed.map(hyperparametersOf), common: Object.fromEntries(common) };
}

function hyperparametersOf(group: PickleValue): JsonObject {
  const { params: _, ...others } = jsonObjectOf(group);
  return others;
}

/** A record of DeepSpeed's, as its class and fields. */
function lossScalerOf(value: PickleValue): Json | undefined {
  const record = asKind(value, "record");
  if (record === undefined) return jsonOf(value);
  const fields = [...record.fields].flatMap(([name, field]) => {
    const plain = jsonOf(field);
    return plain === undefined ? [] : [[name, plain] as const];
  });
  return { class: record.type.split(" ")[1] ?? "", ...Object.fromEntries(fields) };
}

type OptimizerTask = {
  readonly folder: FolderReader;
  readonly torch: TorchFile;
  readonly root: PickleValue;
  readonly file: string;
};

function unsupported(file: string, found: string): MergeyardError {
  const expected = "plain ZeRO partitions inside the file";
  return new MergeyardError("DeepspeedUnsupported", { where: { file }, found, expected });
}

function stageOf(root: PickleValue, file: CheckpointFile): 1 | 2 | 3 {
  const value = fieldOf(root, "zero_stage");
  const stage = asKind(value, "enum") === undefined ? value : STAGES.get(asKind(value, "enum")?.member ?? "");
  if (stage === undefined) return fieldOf(root, "fp32_flat_groups") === undefined ? 1 : 3;
  if (stage === 1 || stage === 2 || stage === 3) return stage;
  throw fieldError(file.name, "zero_stage", value, "1, 2 or 3");
}

async function readStage12(task: OptimizerTask): Promise<readonly FlatGroup[]> {
  const { root, file } = task;
  const flats = needItems(task, "single_partition_of_fp32_groups", root);
  const mappings = needItems(task, "param_slice_mappings", root);
  if (mappings.length !== flats.length) {
    throw fieldError(file, "param_slice_mappings", mappings.length, `${flats.length} groups`);
  }
  const base = fieldOf(root, "base_optimizer_state") ?? null;
  const elastic = itemsOf(base);
  const counts = itemsOf(fieldOf(root, "partition_count")) ?? [];
  const groups: FlatGroup[] = [];
  for (const [index, flat] of flats.entries()) {
    const state = elastic === undefined ? stateOf(base, index) : elastic[index];
    const fallback = elastic === undefined ? stepOfGroup(base, index) : fieldOf(root, "base_optimizer_state_step");
    const group = await readGroup(task, flat, state, fallback, readFragments(task, mappings[index] ?? null));
    const partitions = counts[index];
    groups.push({ ...group, partitions: isCount(partitions) ? partitions : undefined });
  }
  return groups;
}

async function readStage3(task: OptimizerTask): Promise<readonly FlatGroup[]> {
  const flats = needItems(task, "fp32_flat_groups", task.root);
  const base = fieldOf(task.root, "optimizer_state_dict") ?? null;
  const groups: FlatGroup[] = [];
  for (const [index, flat] of flats.entries()) {
    if (asKind(flat, "tensor") === undefined && (flat === null || itemsOf(flat)?.length === 0)) {
      throw unsupported(task.file, "states offloaded to another device (offloaded_tensors/)");
    }
    groups.push(await readGroup(task, flat, stateOf(base, index), stepOfGroup(base, index), new Map()));
  }
  return groups;
}

/** `state[index]` of a torch optimizer. */
function stateOf(base: PickleValue, index: number): PickleValue | undefined {
  return asKind(fieldOf(base, "state"), "dict")?.entries.get(`n${index}`)?.value;
}

function stepOfGroup(base: PickleValue, index: number): PickleValue | undefined {
  return fieldOf(itemsOf(fieldOf(base, "param_groups"))?.[index], "step");
}

function needItems({ file }: OptimizerTask, name: string, root: PickleValue): readonly PickleValue[] {
  const items = itemsOf(fieldOf(root, name));
  if (items === undefined) throw fieldError(file, name, fieldOf(root, name), "a list of groups");
  return items;
}

async function readGroup(
  task: OptimizerTask,
  flat: PickleValue,
  state: PickleValue | undefined,
  fallbackStep: PickleValue | undefined,
  fragments: ReadonlyMap<string, Fragment>,
): Promise<FlatGroup> {
  const states = new Map<string, FlatTensor>();
  const fp32 = asKind(flat, "tensor");
  if (fp32 === undefined) throw fieldError(task.file, "fp32 group", flat, "a tensor");
  states.set("fp32", placeFlat(task, fp32, "fp32"));
  for (const name of MOMENTS) {
    const tensor = asKind(fieldOf(state, name), "tensor");
    if (tensor !== undefined) states.set(name, placeFlat(task, tensor, name));
  }
  const step = fieldOf(state, "step") ?? fallbackStep;
  const ignored = [...(asKind(state, "dict")?.entries.values() ?? [])].flatMap(({ key, value }) =>
    typeof key === "string" && key !== "step" && !MOMENTS.includes(key) && asKind(value, "tensor") !== undefined
      ? [key]
      : [],
  );
  return { states, step: await readStep(task, step), partitions: undefined, fragments, ignored };
}

function placeFlat({ torch, file }: OptimizerTask, tensor: PickleTensor, name: string): FlatTensor {
  const { dtype, shape, ranges } = placeTorchTensor(torch, tensor, name);
  const [range, ...others] = ranges;
  if (range !== undefined && others.length === 0 && shape.length === 1)
    return { range, dtype, elements: elementCount(shape) };
  throw fieldError(file, name, `[${shape}]`, "a flat tensor in one piece");
}

/** A Python number, or a 0-d tensor whose bytes are read. */
async function readStep(task: OptimizerTask, value: PickleValue | undefined): Promise<number | undefined> {
  const tensor = asKind(value, "tensor");
  if (tensor === undefined) {
    if (value === undefined || value === null) return undefined;
    if (isCount(value)) return value;
    throw fieldError(task.file, "step", value, "a count of steps");
  }
  return readScalarStep(task.folder, task.torch, tensor, task.file);
}

/** The count of steps in a tensor of one element. Throws DeepspeedFieldInvalid. */
export async function readScalarStep(
  folder: FolderReader,
  torch: TorchFile,
  tensor: PickleTensor,
  file: string,
): Promise<number> {
  const { dtype, shape, ranges } = placeTorchTensor(torch, tensor, "step");
  const [range] = ranges;
  if (range === undefined || elementCount(shape) !== 1) throw fieldError(file, "step", `[${shape}]`, "one element");
  const step = await readCount(folder, range, dtype);
  if (step !== undefined) return step;
  throw fieldError(file, "step", dtype, "a count of steps");
}

function readFragments({ file }: OptimizerTask, mapping: PickleValue): ReadonlyMap<string, Fragment> {
  const dict = asKind(mapping, "dict");
  if (dict === undefined) throw fieldError(file, "param_slice_mappings", mapping, "a dict");
  return new Map(
    [...dict.entries.values()].map(({ key, value }) => {
      const [start, count] = [fieldOf(value, "start"), fieldOf(value, "numel")];
      if (typeof key === "string" && isCount(start) && isCount(count)) return [key, { start, count }] as const;
      throw fieldError(file, "param_slice_mappings", value, "a name, a start and a count");
    }),
  );
}
