// A DeepSpeed training checkpoint: ZeRO 1, 2 or 3, any tensor, pipeline and data parallelism. Extract gives every
// rank's fragments, Union joins them over tensor-parallel ranks; the result is every parameter and its optimizer states
// as gathers of byte ranges of rank files. Weights alone are read where there are no optimizer states.
// Source: reference checkpoint-formats.md sections 3 and 4.
import type { CheckpointFile, FolderReader } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { FOLDER_LIMITS, RANK_LIMITS } from "../limits.ts";
import { type CheckpointInfo, parseCheckpointInfo } from "../universal/checkpoint-info.ts";
import { type ConversionParameter, entryOf } from "../universal/conversion.ts";
import { createUnionRules } from "../universal/union.ts";
import { type ExtractedParameter, extractParameters } from "./deepspeed-extract.ts";
import { type DeepspeedFiles, findDeepspeedFiles, hasRankFiles } from "./deepspeed-files.ts";
import { type ModelState, readModelState } from "./deepspeed-model.ts";
import { type OptimizerRank, readOptimizerRank } from "./deepspeed-optimizer.ts";
import { orderParameters, trainingStateOf, warnOfIgnored } from "./deepspeed-training.ts";
import { type StageSlices, uniteStages } from "./deepspeed-union.ts";
import { buffersOf, frozenOf, weightsOf } from "./deepspeed-weights.ts";
import type { CheckpointFormat, CheckpointWarning, OpenedCheckpoint } from "./format.ts";
import { parseJsonDocument } from "./json-scan.ts";
import { readSideFiles } from "./side-files.ts";

/** Beside `latest`: the patterns that a checkpoint of several tensor-parallel ranks does not state itself. */
const INFO_FILE = "universal_checkpoint_info.json";

export const deepspeed = Object.freeze({
  id: "deepspeed",
  title: "DeepSpeed training checkpoint",
  extensions: [],
  recognise: hasRankFiles,
  open: openDeepspeed,
  openFile: (_read, file) => {
    throw new MergeyardError("CheckpointFormatUnknown", { where: { file: file.name }, expected: "a folder" });
  },
} satisfies CheckpointFormat);

async function openDeepspeed(folder: FolderReader): Promise<OpenedCheckpoint> {
  const files = await findDeepspeedFiles(folder);
  const models = await readAll(
    files.models.flatMap(([first]) => first ?? []),
    (file) => readModelState(folder, file),
  );
  const topology = readTopology(files, models);
  const { parameters, stage, optimizer } = await readParameters(folder, files, models);
  const given = folder.patterns ?? (await readGivenInfo(folder, files.prefix));
  const info = given ?? models.find((model) => model.info !== undefined)?.info;
  if (info === undefined && topology.tp > 1) throw patternsMissing(files, topology.tp);
  checkInfo(info, files.prefix);
  // The reference leaves the vocabulary's padding where stage 3 has no tensor parallelism: so do we.
  const keepsPadding = stage === 3 && topology.tp === 1;
  const rules = createUnionRules({ ...info, ...(keepsPadding ? { vocabulary_parameter_patterns: [] } : {}) });
  const context = { rules, isInferred: info === undefined, tp: topology.tp, prefix: files.prefix };
  const stages = splitStages(parameters, topology);
  const { united, warnings } = uniteStages(stages, context);
  const frozen = await frozenOf(folder, files, models);
  const others = uniteStages(splitStages(frozen, topology), context);
  rules.checkUsed(files.prefix);
  const known = new Set([...united, ...others.united].map(({ name }) => name));
  const buffers = stage === undefined ? [] : buffersOf(models, topology.tp).filter(({ name }) => !known.has(name));
  const ordered = orderParameters(united, models, optimizer?.groupOf ?? []);
  const aliased = addAliases([...ordered, ...others.united, ...buffers], models);
  const weightsOnly: CheckpointWarning[] =
    stage === undefined ? [{ code: "OptimizerStatesMissing", where: { file: files.prefix } }] : [];
  const ignored = warnOfIgnored(models, optimizer === undefined ? [] : [optimizer]);
  const ranks = { ...topology, dp: files.optimizers[0]?.length ?? 1 };
  const training = optimizer === undefined ? undefined : trainingStateOf(models[0], optimizer, ranks);
  const all = [...weightsOnly, ...warnings, ...others.warnings, ...ignored];
  return { ...(await assemble(folder, files, aliased, all)), training };
}

type Topology = { readonly tp: number; readonly pp: number };

/** As the files say; counts that ranks state must agree with the files that are there. */
function readTopology(
  { prefix, models: grid, optimizers, layerRanks }: DeepspeedFiles,
  models: readonly ModelState[],
): Topology {
  const ranks = grid.length;
  for (const { file, mpWorld, dpWorld } of models) {
    if (mpWorld !== undefined && mpWorld !== ranks) {
      throw missingRank(file, `${ranks} model-parallel ranks`, `${mpWorld}, as the ranks say`);
    }
    const dp = optimizers.length > 0 ? (optimizers[0]?.length ?? 0) : (grid[0]?.length ?? 0);
    const countsDp = optimizers.length > 0 || dp > 1;
    if (countsDp && dpWorld !== undefined && dpWorld !== dp) {
      throw missingRank(file, `${dp} data-parallel ranks`, `${dpWorld}, as the ranks say`);
    }
  }
  if (optimizers.length > 0 && optimizers.length !== ranks) {
    throw missingRank(prefix, `optimizer states of ${optimizers.length} model-parallel ranks`, `${ranks}`);
  }
  const stated = models[0]?.dimensions;
  const tp = stated?.tp ?? layerRanks ?? ranks;
  if (ranks % tp === 0 && (stated === undefined || stated.pp * stated.tp === ranks)) return { tp, pp: ranks / tp };
  throw missingRank(prefix, `${ranks} model-parallel ranks`, `pipeline times ${tp} tensor-parallel ranks`);
}

function missingRank(file: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("DeepspeedRankMissing", { where: { file }, found, expected });
}

function patternsMissing({ prefix }: DeepspeedFiles, tp: number): MergeyardError {
  return new MergeyardError("UniversalPatternsMissing", {
    where: { file: prefix },
    found: `${tp} tensor-parallel ranks and no universal_checkpoint_info`,
    expected: "patterns that say how ranks cut each parameter",
    hint:
      `name a file with --patterns, or write ${INFO_FILE} beside the step's folder, ` +
      "with lists of regular expressions of parameter names: " +
      "tp_replicated_parameter_patterns (norms, biases of row-parallel layers), " +
      "parameter_with_row_parallelism_patterns (cut on axis 1), " +
      "parameter_with_2_sub_params_cat_dim_0 (gate and up joined), " +
      "parameter_with_sub_params [{patterns, shape, partition_dim}] (fused query, key and value), " +
      "vocabulary_parameter_patterns and original_vocab_size, parameter_to_average_patterns; " +
      "what none of them names is joined on axis 0",
  });
}

async function readGivenInfo(folder: FolderReader, prefix: string): Promise<CheckpointInfo | undefined> {
  const names = [`${prefix}${INFO_FILE}`, INFO_FILE];
  const file = folder.files.find(({ name }) => names.includes(name));
  if (file === undefined) return undefined;
  if (file.bytes > FOLDER_LIMITS.configBytes) {
    const expected = `at most ${FOLDER_LIMITS.configBytes} bytes`;
    throw new MergeyardError("UniversalPatternsInvalid", {
      where: { file: file.name },
      found: `${file.bytes} bytes`,
      expected,
    });
  }
  const value = parseJsonDocument(await folder.read(file.name, 0, file.bytes), {
    refuse: ({ offset, found, expected }) =>
      new MergeyardError("UniversalPatternsInvalid", { where: { file: file.name, offset }, found, expected }),
  });
  return parseCheckpointInfo(value, file.name);
}

function checkInfo(info: CheckpointInfo | undefined, file: string): void {
  const unsupported = Object.entries(info?.autotp_unsupported_parameter_patterns ?? {})[0];
  const hasExperts = (info?.expert_parameter_patterns ?? []).length > 0 || (info?.ds_autoep_layers ?? null) !== null;
  if (unsupported === undefined && !hasExperts) return;
  const found = unsupported === undefined ? "a mixture of experts" : `${unsupported[0]}: ${unsupported[1]}`;
  throw new MergeyardError("DeepspeedUnsupported", {
    where: { file, field: "universal_checkpoint_info" },
    found: found.slice(0, 300),
    expected: "parameters that ranks cut by the known patterns",
  });
}

type Parameters = {
  readonly parameters: readonly (readonly ExtractedParameter[])[];
  readonly stage: 1 | 2 | 3 | undefined;
  /** The first rank's. */
  readonly optimizer: OptimizerRank | undefined;
};

/** By model-parallel rank; `stage` is undefined when there are weights alone. */
async function readParameters(
  folder: FolderReader,
  files: DeepspeedFiles,
  models: readonly ModelState[],
): Promise<Parameters> {
  if (files.optimizers.length === 0) {
    return { parameters: models.map(weightsOf), stage: undefined, optimizer: undefined };
  }
  const parameters: (readonly ExtractedParameter[])[] = [];
  let first: OptimizerRank | undefined;
  for (const [mp, rankFiles] of files.optimizers.entries()) {
    const ranks = await readAll(rankFiles, (file) => readOptimizerRank(folder, file));
    first ??= ranks[0];
    const model = models[mp];
    parameters.push(model === undefined ? [] : extractParameters(model, ranks));
  }
  return { parameters, stage: first?.stage, optimizer: first };
}

/** By pipeline stage, then by tensor-parallel rank: model-parallel ranks are numbered stage by stage. */
function splitStages(ranks: readonly (readonly ExtractedParameter[])[], { tp, pp }: Topology): readonly StageSlices[] {
  return Array.from({ length: pp }, (_, stage) => ranks.slice(stage * tp, (stage + 1) * tp));
}

function addAliases(
  parameters: readonly ConversionParameter[],
  models: readonly ModelState[],
): readonly ConversionParameter[] {
  const names = new Set(parameters.map(({ name }) => name));
  const aliases = new Map<string, Set<string>>();
  for (const [alias, stored] of models.flatMap(({ shared }) => [...shared])) {
    if (names.has(alias)) continue;
    aliases.set(stored, (aliases.get(stored) ?? new Set()).add(alias));
  }
  return parameters.map((parameter) => ({ ...parameter, aliases: [...(aliases.get(parameter.name) ?? [])].sort() }));
}

async function assemble(
  folder: FolderReader,
  files: DeepspeedFiles,
  parameters: readonly ConversionParameter[],
  warnings: readonly CheckpointWarning[],
): Promise<OpenedCheckpoint> {
  const tensorFiles = [...files.models, ...files.optimizers].flat().sort((a, b) => (a.name < b.name ? -1 : 1));
  const side = await readSideFiles(folder, tensorFiles);
  return {
    checkpoint: {
      format: deepspeed.id,
      tensorFiles,
      sideFiles: side.sideFiles,
      tensors: parameters.map(entryOf),
      metadata: new Map(),
      config: side.config,
    },
    warnings,
    headers: new Map(),
    digest: undefined,
    conversion: parameters,
  };
}

/** Reads files side by side, a few at a time; results in their order. */
async function readAll<T>(
  files: readonly CheckpointFile[],
  read: (file: CheckpointFile) => Promise<T>,
): Promise<readonly T[]> {
  const results = new Array<T>(files.length);
  const pending = files.entries();
  const work = async (): Promise<void> => {
    for (const [index, file] of pending) results[index] = await read(file);
  };
  await Promise.all(Array.from({ length: Math.min(RANK_LIMITS.readsInFlight, files.length) }, work));
  return results;
}
