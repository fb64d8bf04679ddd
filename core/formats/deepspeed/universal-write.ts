// Plans DeepSpeed's own universal folder, which its engine reads with `load_universal: true` on any topology: a folder
// for each parameter with its master weights, moments and step, and the model-state files with their counters. Where
// the source has model-state files they are copied as they are, like DeepSpeed's converter does.
// Source: reference checkpoint-formats.md section 4.
import type { CheckpointFile } from "../../checkpoint.ts";
import { convertTensor, gatherWhole, type TargetTensor } from "../../universal/box.ts";
import { parseCheckpointInfo, type SubParams } from "../../universal/checkpoint-info.ts";
import { STATE_NAMES, type TargetParameter } from "../../universal/conversion.ts";
import { compilePattern } from "../../universal/name-pattern.ts";
import type { TrainedOne } from "../../universal/optimizer-groups.ts";
import { type Picklable, pyDict, pyList, pyRecord, pyTuple } from "../pickle/write.ts";
import { type PlannedFile, plainPlannedFile } from "../planned-file.ts";
import type { PlannedFolder, TargetFormat, TargetRequest } from "../target.ts";
import { planTorchFile, pyTensor, scalarTensor, type TorchValue } from "../torch/write.ts";
import { baseName, isModelStateFile } from "./files.ts";
import {
  groupsOf,
  groupValues,
  modelStateValue,
  optimizerCommon,
  planModelStates,
  stepFolder,
  stepOf,
} from "./write-model.ts";
import { planOthers } from "./write-others.ts";

export const deepspeedUniversalTarget = Object.freeze({
  id: "deepspeed-universal",
  title: "DeepSpeed universal checkpoint",
  isSharded: true,
  takesDtype: undefined,
  plan: planDeepspeedUniversal,
} satisfies TargetFormat);

function planDeepspeedUniversal(request: TargetRequest): PlannedFolder {
  const groups = groupsOf(request.parameters);
  const trained = groups.flat();
  const step = stepOf(trained);
  const copied = request.source.tensorFiles.filter(({ name }) => isModelStateFile(baseName(name)));
  const before = copied[0]?.name
    .split("/")
    .at(-2)
    ?.replace(/_universal$/, "");
  const folder = `${before ?? stepFolder(request.training, step)}_universal`;
  const subParams = subParamsOf(request);
  const files = [
    ...trained.flatMap((parameter) => planParameter(`${folder}/zero/${parameter.name}`, parameter, subParams)),
    planTorchFile(`${folder}/zero/optimizer_state.pt`, optimizerValue(request, groups, step)),
    ...(copied.length > 0
      ? copied.map((file) => copyFile(file, folder))
      : planModelFiles(request, groups, folder, step)),
  ];
  const warnings = copied.length > 0 ? warnOfLeft(request.parameters, copied) : [];
  return { files, last: plainPlannedFile("latest_universal", folder), warnings };
}

/** Buffers that lie in no model-state file, but in files of pipeline layers, which such a folder does not have. */
function warnOfLeft(parameters: readonly TargetParameter[], copied: readonly CheckpointFile[]) {
  const names = new Set(copied.map(({ name }) => name));
  const isCopied = ({ gather }: TargetParameter) =>
    gather.copies.flat().every(({ ranges }) => ranges.every((range) => !("file" in range) || names.has(range.file)));
  const left = parameters.filter((parameter) => parameter.training === undefined && !isCopied(parameter));
  const found = left.map(({ name }) => name).slice(0, 20);
  const where = { file: copied[0]?.name };
  return found.length === 0 ? [] : [{ code: "TensorsIgnored" as const, where, found: found.join(", ") }];
}

function copyFile({ name, bytes }: { readonly name: string; readonly bytes: number }, folder: string): PlannedFile {
  const gather = gatherWhole([{ file: name, offset: 0, bytes }], [bytes]);
  const tensor: TargetTensor = { dtype: "U8", shape: [bytes], gather };
  return {
    name: `${folder}/${baseName(name)}`,
    bytes,
    archives: [{ bytes, sections: [{ kind: "tensor", name, tensor }] }],
  };
}

/** Sub-parameters as the source's trainer declared them, found by name. */
type FindSubParams = (name: string) => SubParams | undefined;

function subParamsOf({ training }: TargetRequest): FindSubParams {
  const stated = training?.client.universal_checkpoint_info;
  const info = stated === undefined ? {} : parseCheckpointInfo(stated, "universal_checkpoint_info");
  const rules = (info.parameter_with_sub_params ?? []).flatMap((params) =>
    params.patterns.map((text) => ({ pattern: compilePattern(text), params })),
  );
  return (name) => rules.find(({ pattern }) => pattern.matches(name))?.params;
}

function planParameter(folder: string, parameter: TrainedOne, subParams: FindSubParams): readonly PlannedFile[] {
  const { name, dtype, shape, gather, training } = parameter;
  const meta = describeCut(parameter, subParams(name));
  const states = [
    ["fp32", { dtype, gather }] as const,
    ...STATE_NAMES.flatMap((state) =>
      training.states[state] === undefined ? [] : [[state, training.states[state]] as const],
    ),
  ];
  return [
    ...states.map(([state, tensor]) => {
      const param = convertTensor({ ...tensor, shape }, "F32");
      return planTorchFile(`${folder}/${state}.pt`, pyDict([...meta, ["param", pyTensor(param)] as const]));
    }),
    planTorchFile(`${folder}/step.pt`, pyTensor(scalarTensor(training.step))),
  ];
}

/** The keys that say how the loader cuts the tensor for its ranks. */
function describeCut(
  { name, shape, pattern, paddedRows }: TargetParameter,
  declared: SubParams | undefined,
): readonly (readonly [string, Picklable])[] {
  const vocabulary = paddedRows === undefined ? [] : [["vocab_tensor", true] as const];
  if (pattern.kind === "replicated" || pattern.kind === "averaged" || shape.length === 0) return vocabulary;
  const { dim, parts } = pattern.kind === "fragment" ? pattern : { dim: 0, parts: undefined };
  if (parts === undefined || parts.length === 1) return [["cat_dim", dim], ...vocabulary];
  if (declared === undefined && dim === 0 && parts.length === 2 && parts[0]?.length === parts[1]?.length) {
    return [["cat_dim", 0], ["param_n_sub_params", 2], ...vocabulary];
  }
  const lengths = pyTuple(parts.map(({ length }) => length));
  const full = shape.map((length, axis) => (axis === dim ? lengths : length));
  const stated = declared?.shape.map((length) => (Array.isArray(length) ? pyTuple(length) : length));
  const record = pyRecord("deepspeed.checkpoint.universal_checkpoint SubparamShape", {
    patterns: pyList(declared?.patterns ?? [`^${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`]),
    shape: pyTuple(stated ?? full),
    partition_dim: dim,
  });
  return [["sub_param_shape", record], ...vocabulary];
}

/** What the loader takes from it: counters and hyper-parameters; with stage 3 the step of the first group too. */
function optimizerValue(
  { training, topology }: TargetRequest,
  groups: readonly (readonly TrainedOne[])[],
  step: number,
): TorchValue {
  const hyperparameters = groupValues(training, groups.length);
  const state = pyDict<TargetTensor>([[0, pyDict([["step", pyTensor(scalarTensor(step))]])]]);
  return pyDict<TargetTensor>([
    ...Object.entries(optimizerCommon(training)),
    ["zero_stage", topology.zero],
    ["group_paddings", pyList(groups.map(() => 0))],
    ["partition_count", pyList(groups.map(() => topology.dp))],
    ["param_groups", hyperparameters],
    [
      "optimizer_state_dict",
      pyDict([
        ["state", state],
        ["param_groups", hyperparameters],
      ]),
    ],
  ]);
}

/** One for each tensor-parallel rank, with stage 3 each data-parallel one: counters, buffers, frozen weights. */
function planModelFiles(
  request: TargetRequest,
  groups: readonly (readonly TrainedOne[])[],
  folder: string,
  step: number,
): readonly PlannedFile[] {
  const { parameters, training, topology } = request;
  const untrained = parameters.filter((parameter) => parameter.training === undefined);
  const shared = new Map(parameters.flatMap(({ name, aliases }) => aliases.map((alias) => [alias, name] as const)));
  return Array.from({ length: topology.tp }, (_, tp) => tp).flatMap((tp) => {
    const { module, bufferNames, frozen, isCut } = planOthers(untrained, request, tp);
    return planModelStates({ folder, mp: tp, isCut }, topology, (dp) => {
      const file = { module, bufferNames, groups, frozen: frozen(dp), shared, step };
      // Each file describes all layers: they are those of one stage.
      return modelStateValue(file, training, { ...topology, pp: 1 });
    });
  });
}
