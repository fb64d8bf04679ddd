// Values of the files that DeepSpeed's ranks write beside the partitions: the model's state and what the optimizer says
// as a whole, from what the source's trainer saved. Called by the writers of ZeRO files and of the universal folder.
// Source: reference checkpoint-formats.md sections 3.2, 3.3, 4.
import { MergeyardError } from "../../error.ts";
import { isJsonObject, type Json, type JsonObject } from "../../json.ts";
import type { Shape } from "../../tensor.ts";
import type { TargetTensor } from "../../universal/box.ts";
import type { TargetParameter } from "../../universal/conversion.ts";
import { groupTrained, type TrainedOne } from "../../universal/optimizer-groups.ts";
import type { TrainingState } from "../../universal/training-state.ts";
import { picklableOf, tuplesOf } from "../pickle/json.ts";
import { type Picklable, pyDict, pyList, pyRecord, pySize, torchDtype } from "../pickle/write.ts";
import type { PlannedFile } from "../planned-file.ts";
import type { Topology } from "../target.ts";
import { hyperparameterValue, planTorchFile, pyTensor, type TorchValue } from "../torch/write.ts";
import { isExpert } from "./experts.ts";

/** The version that the keys written here follow, where the source states none. */
const DEEPSPEED_VERSION = "0.14.4";

export type NamedTensor = readonly [name: string, tensor: TargetTensor];

export type GroupShapes = readonly (readonly { readonly name: string; readonly shape: Shape }[])[];

export type ModelFile = {
  /** Weights and buffers by name; undefined where pipeline layers have files of their own. */
  readonly module: readonly NamedTensor[] | undefined;
  readonly bufferNames: readonly string[];
  readonly groups: GroupShapes;
  readonly frozen: readonly { readonly name: string; readonly shape: Shape; readonly fragment: TorchValue }[];
  readonly shared: ReadonlyMap<string, string>;
  /** Of the optimizer; the trainer's own count of steps goes before it. */
  readonly step: number;
};

/** The dict of one `*_model_states.pt`. */
export function modelStateValue(
  file: ModelFile,
  training: TrainingState | undefined,
  { tp, pp, dp }: Topology,
): TorchValue {
  const own: Record<string, TorchValue> = {
    module: file.module === undefined ? null : moduleValue(file.module),
    optimizer: null,
    param_shapes: pyList(file.groups.map((group) => shapesOf(group))),
    frozen_param_shapes: shapesOf(file.frozen),
    frozen_param_fragments: pyDict(
      file.frozen.map(({ name, fragment }) => [name, fragment] as const),
      { isOrdered: true },
    ),
    shared_params: pyDict([...file.shared]),
    lr_scheduler: null,
    sparse_tensor_module_names: pyList<never>([]),
    skipped_steps: 0,
    global_steps: file.step,
    global_samples: 0,
    ds_version: DEEPSPEED_VERSION,
  };
  const client = Object.fromEntries(
    Object.entries(training?.client ?? {}).map(([name, value]) => [name, clientValue(name, value)] as const),
  );
  const ranks = {
    buffer_names: pyList(file.bufferNames),
    dp_world_size: dp,
    mp_world_size: tp * pp,
    checkpoint_parallel_dimensions: pyDict([
      ["pp_degree", pp],
      ["tp_degree", tp],
    ]),
  };
  return pyDict(Object.entries<TorchValue>({ ...own, ...client, ...ranks }));
}

/**
 * The model-state files of a model-parallel rank: with stage 3 one for each data-parallel rank, else one. Ranks of
 * which none has a part of its own (`isCut`) share one plan, which does not grow with their number.
 */
export function planModelStates(
  { folder, mp, isCut }: { readonly folder: string; readonly mp: number; readonly isCut: boolean },
  { zero, dp: ranks }: Topology,
  stateOf: (dp: number) => TorchValue,
): readonly PlannedFile[] {
  const nameOf = (prefix: string) => `${folder}/${prefix}mp_rank_${String(mp).padStart(2, "0")}_model_states.pt`;
  if (zero !== 3) return [planTorchFile(nameOf(""), stateOf(0))];
  const names = Array.from({ length: ranks }, (_, dp) => nameOf(`zero_pp_rank_${dp}_`));
  if (isCut) return names.map((name, dp) => planTorchFile(name, stateOf(dp)));
  const shared = planTorchFile(names[0] ?? "", stateOf(0));
  return names.map((name) => ({ ...shared, name }));
}

/** A state_dict. */
export function moduleValue(named: readonly NamedTensor[]): TorchValue {
  return pyDict(
    named.map(([name, tensor]) => [name, pyTensor(tensor)] as const),
    { isOrdered: true },
  );
}

/** Sizes are tuples where DeepSpeed's converter counts on tuples. */
function clientValue(name: string, value: Json): Picklable {
  if (name !== "universal_checkpoint_info" || !isJsonObject(value)) return picklableOf(value);
  return pyDict(
    Object.entries(value).map(([field, member]) => {
      const isSubParams = field === "parameter_with_sub_params" && Array.isArray(member);
      return [field, isSubParams ? pyList(member.map(subParamsValue)) : picklableOf(member)] as const;
    }),
  );
}

function subParamsValue(value: Json): Picklable {
  if (!isJsonObject(value)) return picklableOf(value);
  return pyDict(
    Object.entries(value).map(([field, member]) => {
      return [field, field === "shape" ? tuplesOf(member) : picklableOf(member)] as const;
    }),
  );
}

function shapesOf(group: GroupShapes[number]): Picklable {
  return pyDict(
    group.map(({ name, shape }) => [name, pySize(shape)] as const),
    { isOrdered: true },
  );
}

/** What DeepSpeed makes by itself where its file has none; of float16, as its configuration's defaults say. */
const STATIC_SCALER = { class: "LossScaler", cur_scale: 1, dynamic: false } as const;
const DYNAMIC_SCALER = {
  class: "DynamicLossScaler",
  cur_scale: 65_536,
  dynamic: true,
  cur_iter: 0,
  last_overflow_iter: -1,
  scale_factor: 2,
  scale_window: 1000,
  min_scale: 1,
  delayed_shift: 2,
  cur_hysteresis: 2,
  consecutive_hysteresis: false,
  raise_error_at_min_scale: true,
} as const;

/**
 * What a rank's optimizer says as a whole: scaler, clipping, version. `needsScaler`: the loader takes the file's scaler
 * whatever it is, as that of stage 3 does; else only a dynamic one that the source states is written, so that the file
 * loads without its class.
 */
export function optimizerCommon(
  training: TrainingState | undefined,
  { needsScaler = false } = {},
): Record<string, Picklable> {
  const { loss_scaler: stated, ...others } = training?.optimizer ?? {};
  const known = [STATIC_SCALER, DYNAMIC_SCALER].find((each) => isJsonObject(stated) && stated.class === each.class);
  const own = known ?? (training?.weights === "F16" ? DYNAMIC_SCALER : STATIC_SCALER);
  const { class: name, dynamic: isDynamic } = own;
  const { class: _, ...fields } = known !== undefined && isJsonObject(stated) ? stated : own;
  const common: JsonObject = {
    dynamic_loss_scale: isDynamic,
    overflow: false,
    ds_version: DEEPSPEED_VERSION,
    ...others,
  };
  // The class looks at its dtype when gradients overflow first.
  const scaler = { ...picklablesOf(fields), ...(isDynamic ? { dtype: torchDtype("F16") } : {}) };
  return {
    ...(needsScaler || (isDynamic && known !== undefined)
      ? { loss_scaler: pyRecord(`deepspeed.runtime.fp16.loss_scaler ${name}`, scaler) }
      : {}),
    ...picklablesOf(common),
  };
}

function picklablesOf(values: JsonObject): Record<string, Picklable> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, picklableOf(value)]));
}

/** Hyper-parameters of the optimizer's groups; `params` as torch numbers them. */
export function groupValues(training: TrainingState | undefined, groups: number): Picklable {
  return pyList(
    Array.from({ length: groups }, (_, index) => {
      const own = Object.entries(training?.groups[index] ?? {});
      const values = own.map(([name, value]) => [name, hyperparameterValue(name, value)] as const);
      return pyDict([...values, ["params", pyList([index])]]);
    }),
  );
}

/** Parameters of the optimizer's groups in their order; what the source has no order for comes last, by name. */
export function groupsOf(parameters: readonly TargetParameter[]): readonly (readonly TrainedOne[])[] {
  const groups = groupTrained(parameters);
  if (groups.length === 0) {
    throw new MergeyardError("ConvertStatesMissing", {
      found: `${parameters.length} parameters without optimizer states`,
      expected: "a training checkpoint",
    });
  }
  const expert = groups.flat().find(({ name }) => isExpert(name));
  if (expert !== undefined) {
    throw new MergeyardError("DeepspeedUnsupported", {
      where: { tensor: expert.name },
      found: "a mixture of experts of DeepSpeed's own layer",
      expected: "dense parameters",
      hint: "convert it to safetensors, torch or dcp, which hold experts as any weights",
    });
  }
  return groups;
}

/** The step that all parameters agree on. Throws DeepspeedStepsDisagree. */
export function stepOf(parameters: readonly TrainedOne[]): number {
  const step = parameters[0]?.training.step ?? 0;
  const other = parameters.find(({ training }) => training.step !== step);
  if (other === undefined) return step;
  const where = { tensor: other.name };
  throw new MergeyardError("DeepspeedStepsDisagree", {
    where,
    found: `step ${other.training.step}`,
    expected: `step ${step}`,
  });
}

/** Name of the step's folder. */
export function stepFolder(training: TrainingState | undefined, step: number): string {
  const steps = training?.client.global_steps;
  return `global_step${typeof steps === "number" && Number.isSafeInteger(steps) && steps >= 0 ? steps : step}`;
}
