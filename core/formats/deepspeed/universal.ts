// DeepSpeed's own universal folder: one sub-folder for each parameter with its master weights, moments and step,
// written by the converter that comes with DeepSpeed. Every tensor is whole already; what is left is to say how it may
// be cut.
// Source: reference checkpoint-formats.md section 4.
import type { UniversalParameter } from "../../artifact/universal.ts";
import type { CheckpointFile, FolderReader } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { RANK_LIMITS } from "../../limits.ts";
import { mapBounded } from "../../map-bounded.ts";
import { elementCount, type Shape, sameShape } from "../../tensor.ts";
import { gatherWhole } from "../../universal/box.ts";
import { hasPatterns } from "../../universal/checkpoint-info.ts";
import { type ConversionParameter, type GatheredTensor, STATE_NAMES } from "../../universal/conversion.ts";
import { compilePattern } from "../../universal/name-pattern.ts";
import { createUnionRules } from "../../universal/union.ts";
import { sortByName } from "../../utf8-order.ts";
import { type CheckpointFormat, type CheckpointWarning, type OpenedCheckpoint, openedInPieces } from "../format.ts";
import { asKind, countsOf, fieldOf, isCount, itemsOf, type PickleValue } from "../pickle/value.ts";
import { readSideFiles } from "../side-files.ts";
import { placeTorchTensor } from "../torch/file.ts";
import { modelGrid, type RankGrid } from "./files.ts";
import { fieldError, type ModelState, readModelState, readRankFile } from "./model.ts";
import { type OptimizerCommon, readOptimizerCommon, readScalarStep } from "./optimizer.ts";
import { orderParameters, trainingStateOf, warnOfLost } from "./training.ts";
import { splitStages, uniteStages } from "./union.ts";
import { buffersOf, untrainedOf } from "./weights.ts";

const STATE_FILE = /^(?:(.*\/)?)zero\/(.+)\/(fp32|exp_avg|exp_avg_sq|step)\.pt$/;
const COMMON_FILE = "zero/optimizer_state.pt";
/** A state of an optimizer that this one does not know. */
const OTHER_STATE = /^(?:(.*\/)?)zero\/.+\/([^/]+)\.pt$/;

export const deepspeedUniversal = Object.freeze({
  id: "deepspeed_universal",
  title: "DeepSpeed universal checkpoint",
  recognise: (files) => files.some(({ name }) => name === "latest_universal" || STATE_FILE.test(name)),
  open: openDeepspeedUniversal,
} satisfies CheckpointFormat);

type ParameterFiles = Map<string, CheckpointFile>;

async function openDeepspeedUniversal(folder: FolderReader): Promise<OpenedCheckpoint> {
  const prefix = await findStep(folder);
  const byName = new Map<string, ParameterFiles>();
  for (const file of folder.files) {
    const [, before = "", name = "", state = ""] = STATE_FILE.exec(file.name) ?? [];
    if (name === "" || before !== prefix) continue;
    byName.set(name, (byName.get(name) ?? new Map()).set(state, file));
  }
  if (byName.size === 0)
    throw universalError("DeepspeedStepMissing", prefix, "no parameters", `${prefix}zero/NAME/fp32.pt`);
  const grid = modelGrid(folder.files, prefix);
  const models: ModelState[] = [];
  for (const [first] of grid) if (first !== undefined) models.push(await readModelState(folder, first));
  const common = await readCommon(folder, prefix);
  const context = describeModel(folder, models[0], common?.step);
  const sorted = [...byName].sort(([a], [b]) => (a < b ? -1 : 1));
  const read = ([name, files]: (typeof sorted)[number]) => readParameter(context, name, files);
  const parameters = await mapBounded(sorted, read, RANK_LIMITS.readsInFlight);
  const documents = [...grid.flat(), ...folder.files.filter(({ name }) => name === `${prefix}${COMMON_FILE}`)];
  const files = [...byName.values()].flatMap((states) => [...states.values()]).concat(documents);
  const ordered = orderParameters(parameters, models, []);
  const frozen = await uniteFrozen(folder, grid, models, prefix);
  const buffers = buffersOf(models, ranksOf(models).tp);
  const others = [...frozen.united, ...buffers].filter(({ name }) => !byName.has(name));
  const training = common === undefined ? undefined : trainingStateOf(models, common);
  const warnings = [...frozen.warnings, ...warnOfLost(models), ...warnOfStates(folder, prefix)];
  const tensorFiles = sortByName(files);
  const { sideFiles, config } = await readSideFiles(folder, tensorFiles);
  const opened = { format: deepspeedUniversal.id, tensorFiles, sideFiles, config };
  return { ...openedInPieces(opened, [...ordered, ...others], warnings), training };
}

/** Ranks that saved the model states. Without files of layers nothing but the states themselves tells stages apart. */
function ranksOf(models: readonly ModelState[]): { readonly tp: number; readonly pp: number } {
  return models[0]?.dimensions ?? { tp: Math.max(1, models.length), pp: 1 };
}

/** Frozen weights lie in the model states alone, as the ranks of the source's topology held them. */
async function uniteFrozen(folder: FolderReader, grid: RankGrid, models: readonly ModelState[], prefix: string) {
  const ranks = await untrainedOf(folder, grid, models);
  const [first] = models;
  if (first === undefined || ranks.every((rank) => rank.length === 0)) return { united: [], warnings: [] };
  const { tp, pp } = ranksOf(models);
  if (tp * pp !== models.length) {
    throw universalError("DeepspeedRankMissing", prefix, `model states of ${models.length} ranks`, `${tp * pp} ranks`);
  }
  const { info } = first;
  if (tp > 1 && (info === undefined || !hasPatterns(info))) {
    throw universalError(
      "UniversalPatternsMissing",
      prefix,
      `frozen weights of ${tp} ranks`,
      "patterns that name them",
    );
  }
  const context = { rules: createUnionRules(info ?? {}), isInferred: info === undefined, tp, prefix };
  return uniteStages(splitStages(ranks, { tp, pp }), context);
}

/** States of an optimizer that have no place here, each once. */
function warnOfStates(folder: FolderReader, prefix: string): readonly CheckpointWarning[] {
  const others = folder.files.flatMap(({ name }) => {
    const [, before = "", state = ""] = STATE_FILE.test(name) ? [] : (OTHER_STATE.exec(name) ?? []);
    return state !== "" && before === prefix ? [state] : [];
  });
  return [...new Set(others)]
    .sort()
    .map((found) => ({ code: "OptimizerStateIgnored", where: { file: prefix }, found }));
}

function universalError(code: ErrorCode, file: string, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file }, found, expected });
}

/** The folder that `latest_universal` names, or the only one that holds parameters. */
async function findStep(folder: FolderReader): Promise<string> {
  const prefixes = new Set(
    folder.files.flatMap(({ name }) => STATE_FILE.exec(name)?.slice(1, 2) ?? []).map((prefix) => prefix ?? ""),
  );
  if (prefixes.has("")) return "";
  const latest = folder.files.find(({ name }) => name === "latest_universal");
  if (latest === undefined) {
    const [only, ...others] = prefixes;
    if (only !== undefined && others.length === 0) return only;
    throw universalError(
      "CheckpointAmbiguous",
      "latest_universal",
      `no such file, and ${prefixes.size} folders`,
      "one folder",
    );
  }
  const text = new TextDecoder().decode(
    await folder.read(latest.name, 0, Math.min(latest.bytes, RANK_LIMITS.textBytes)),
  );
  const step = text.trim();
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(step)) {
    const expected = "the name of a folder beside it";
    throw universalError("DeepspeedPathInvalid", latest.name, JSON.stringify(step.slice(0, 100)), expected);
  }
  if (prefixes.has(`${step}/`)) return `${step}/`;
  throw universalError("DeepspeedStepMissing", latest.name, `${prefixes.size} other folders`, `${step}/zero/`);
}

/** What the first model state says of parameters, by their names. */
type Context = {
  readonly folder: FolderReader;
  readonly step: number | undefined;
  readonly shapes: ReadonlyMap<string, Shape>;
  readonly aliases: ReadonlyMap<string, readonly string[]>;
  readonly paddedRows: number | undefined;
  /** A parameter's own file does not tell whether it is averaged or replicated. */
  isAveraged(name: string): boolean;
};

function describeModel(folder: FolderReader, model: ModelState | undefined, step: number | undefined): Context {
  const averages = (model?.info?.parameter_to_average_patterns ?? []).map(compilePattern);
  const aliases = Map.groupBy(model?.shared ?? [], ([, stored]) => stored);
  return {
    folder,
    step,
    shapes: new Map((model?.groups ?? []).flatMap((group) => group.map(({ name, shape }) => [name, shape] as const))),
    aliases: new Map([...aliases].map(([stored, pairs]) => [stored, pairs.map(([alias]) => alias)])),
    paddedRows: model?.info?.padded_vocab_size,
    isAveraged: (name) => averages.some((pattern) => pattern.matches(name)),
  };
}

type Common = OptimizerCommon & { readonly step: number | undefined };

/** What the optimizer's common file states, its step too: parameters of stage 3 have none of their own. */
async function readCommon(folder: FolderReader, prefix: string): Promise<Common | undefined> {
  const file = folder.files.find(({ name }) => name === `${prefix}${COMMON_FILE}`);
  if (file === undefined) return undefined;
  const torch = await readRankFile(folder, file);
  const inner = fieldOf(torch.value, "optimizer_state_dict");
  const states =
    asKind(fieldOf(fieldOf(inner, "optimizer_state_dict"), "state"), "dict") ?? asKind(fieldOf(inner, "state"), "dict");
  const step = fieldOf(states?.entries.get("n0")?.value, "step");
  const tensor = asKind(step, "tensor");
  const count = tensor === undefined ? step : await readScalarStep(folder, torch, tensor, file.name);
  return { ...readOptimizerCommon(torch.value, 0), step: isCount(count) ? count : undefined };
}

async function readParameter(context: Context, name: string, files: ParameterFiles): Promise<ConversionParameter> {
  const { folder } = context;
  const [fp32File, stepFile] = [files.get("fp32"), files.get("step")];
  if (fp32File === undefined) {
    throw new MergeyardError("DeepspeedRankMissing", {
      where: { tensor: name },
      found: "no fp32.pt",
      expected: "fp32.pt",
    });
  }
  const fp32 = await readState(context, name, fp32File);
  const moments: [string, GatheredTensor][] = [];
  for (const state of STATE_NAMES) {
    const file = files.get(state);
    if (file === undefined) continue;
    const moment = await readState(context, name, file);
    if (!sameShape(moment.shape, fp32.shape)) {
      throw fieldError(file.name, state, `[${moment.shape}]`, `[${fp32.shape}], as fp32`);
    }
    moments.push([state, moment.tensor]);
  }
  const step = stepFile === undefined ? context.step : await readOwnStep(folder, stepFile);
  if (step === undefined)
    throw fieldError(fp32File.name, "step", undefined, "step.pt, or a step in optimizer_state.pt");
  const rows = fp32.shape[0] ?? 0;
  return {
    name,
    ...fp32.tensor,
    shape: fp32.shape,
    pattern: fp32.pattern,
    paddedRows: fp32.isVocabulary ? Math.max(context.paddedRows ?? 0, rows) : undefined,
    aliases: context.aliases.get(name) ?? [],
    training: { step, states: Object.fromEntries(moments) },
  };
}

async function readOwnStep(folder: FolderReader, file: CheckpointFile): Promise<number> {
  const torch = await readRankFile(folder, file);
  const tensor = asKind(torch.value, "tensor");
  if (tensor !== undefined) return readScalarStep(folder, torch, tensor, file.name);
  if (isCount(torch.value)) return torch.value;
  throw fieldError(file.name, "step", torch.value, "a count of steps");
}

type State = {
  readonly tensor: GatheredTensor;
  readonly shape: Shape;
  readonly pattern: UniversalParameter["pattern"];
  readonly isVocabulary: boolean;
};

/** A dict with `param`, or the flat tensor that stage 3 without tensor parallelism leaves. */
async function readState(context: Context, name: string, file: CheckpointFile): Promise<State> {
  const { folder } = context;
  const torch = await readRankFile(folder, file);
  const bare = asKind(torch.value, "tensor");
  const tensor = bare ?? asKind(fieldOf(torch.value, "param"), "tensor");
  if (tensor === undefined) throw fieldError(file.name, "param", torch.value, "a tensor, or a dict with one");
  if (fieldOf(torch.value, "is_expert_param") === true) {
    throw universalError("DeepspeedUnsupported", file.name, "a mixture of experts", "dense parameters");
  }
  const { dtype, shape: stored, ranges } = placeTorchTensor(torch, tensor, name);
  const shape = bare === undefined ? stored : (context.shapes.get(name) ?? stored);
  if (elementCount(shape) !== elementCount(stored)) {
    throw fieldError(file.name, "param", `[${stored}]`, `the elements of [${shape}]`);
  }
  return {
    tensor: { dtype, gather: gatherWhole(ranges, shape) },
    shape,
    pattern: bare === undefined ? patternOf(torch.value, shape, file, context.isAveraged(name)) : { kind: "unique" },
    isVocabulary: fieldOf(torch.value, "vocab_tensor") === true,
  };
}

function patternOf(
  value: PickleValue,
  shape: Shape,
  file: CheckpointFile,
  isAverage: boolean,
): UniversalParameter["pattern"] {
  const sub = fieldOf(value, "sub_param_shape");
  if (sub !== undefined && sub !== null) {
    const dim = fieldOf(sub, "partition_dim");
    const full = isCount(dim) ? shape[dim] : undefined;
    const stated = isCount(dim) ? itemsOf(fieldOf(sub, "shape"))?.[dim] : undefined;
    const lengths =
      isCount(stated) && full !== undefined
        ? Array.from({ length: Math.min(stated, full) }, () => full / stated)
        : countsOf(stated);
    const total = lengths?.reduce((sum, length) => sum + length, 0);
    if (!isCount(dim) || lengths === undefined || total !== full || !lengths.every(Number.isInteger)) {
      throw fieldError(file.name, "sub_param_shape", sub, `lengths of parts of [${shape}]`);
    }
    return { kind: "fragment", dim, parts: lengths.map((length) => ({ length })) };
  }
  const dim = fieldOf(value, "cat_dim");
  const parts = fieldOf(value, "param_n_sub_params");
  if (!isCount(dim)) return { kind: isAverage ? "averaged" : "replicated" };
  const length = shape[dim];
  if (length === undefined) throw fieldError(file.name, "cat_dim", dim, `an axis of [${shape}]`);
  if (!isCount(parts) || parts < 2) return { kind: "fragment", dim };
  if (length % parts !== 0 || parts > length)
    throw fieldError(file.name, "param_n_sub_params", parts, `parts of ${length}`);
  return { kind: "fragment", dim, parts: Array.from({ length: parts }, () => ({ length: length / parts })) };
}
