// A DeepSpeed training checkpoint: ZeRO 1, 2 or 3, any tensor, pipeline and data parallelism. Extract gives every
// rank's fragments, Union joins them over tensor-parallel ranks; the result is every parameter and its optimizer states
// as gathers of byte ranges of rank files. Weights alone are read where there are no optimizer states.
// Source: reference checkpoint-formats.md sections 3 and 4.
import type { FolderReader } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import type { JsonObject } from "../../json.ts";
import { RANK_LIMITS } from "../../limits.ts";
import { mapBounded } from "../../map-bounded.ts";
import type { CheckpointInfo } from "../../universal/checkpoint-info.ts";
import type { ConversionParameter } from "../../universal/conversion.ts";
import type { TrainingState } from "../../universal/training-state.ts";
import { createUnionRules } from "../../universal/union.ts";
import { type CheckpointFormat, type CheckpointWarning, type OpenedCheckpoint, openedInPieces } from "../format.ts";
import { readSideFiles } from "../side-files.ts";
import { areSharedOut, checkTrainedExperts, isExpert, withExperts } from "./experts.ts";
import { type ExtractedParameter, extractParameters } from "./extract.ts";
import { type DeepspeedFiles, findDeepspeedFiles, hasRankFiles, isStage3File } from "./files.ts";
import { withLayers } from "./layers.ts";
import { type ModelState, readModelState } from "./model.ts";
import { type OptimizerRank, readOptimizerRank } from "./optimizer.ts";
import { choosePatterns } from "./patterns.ts";
import { orderParameters, trainingStateOf, warnOfIgnored } from "./training.ts";
import { type SplitStages, splitStages, takeWhole, uniteStages } from "./union.ts";
import { buffersOf, untrainedOf, weightsOf } from "./weights.ts";

export const deepspeed = Object.freeze({
  id: "deepspeed",
  title: "DeepSpeed training checkpoint",
  recognise: hasRankFiles,
  open: openDeepspeed,
} satisfies CheckpointFormat);

async function openDeepspeed(folder: FolderReader): Promise<OpenedCheckpoint> {
  const files = await findDeepspeedFiles(folder);
  const firsts = files.models.flatMap(([first]) => first ?? []);
  const states = await mapBounded(firsts, (file) => readModelState(folder, file), RANK_LIMITS.readsInFlight);
  const topology = readTopology(files, states);
  const whole = await withLayers(folder, files.layers, states, topology.tp);
  const held = await withExperts(folder, files.experts, whole, topology.tp);
  const { groups, stage, optimizer } = await readParameters(folder, files, held, topology.tp);
  // Experts have other names in the groups than on their ranks.
  const models = held.map((model, mp) => ({ ...model, groups: groups[mp] ?? model.groups }));
  const apart = [...files.layers, ...files.experts].map(({ file }) => file);
  const ranks = [...files.models, ...files.optimizers].flat();
  const tensorFiles = [...ranks, ...apart].sort((a, b) => (a.name < b.name ? -1 : 1));
  const side = await readSideFiles(folder, tensorFiles);
  const parameters = groups.length > 0 ? groups.map((own) => own.flat()) : models.map(weightsOf);
  const isWhole = areSharedOut(files.experts, topology.tp) ? isExpert : () => false;
  const trained = takeWhole(splitStages(parameters, topology), isWhole);
  const frozen = takeWhole(splitStages(await untrainedOf(folder, files.models, models), topology), isWhole);
  const patterns = await choosePatterns({
    folder,
    prefix: files.prefix,
    models,
    stages: [...trained.cut, ...frozen.cut],
    tp: topology.tp,
    config: side.config,
  });
  const { info } = patterns;
  const united = uniteAll({ trained, frozen, info, tp: topology.tp, stage, prefix: files.prefix });
  const known = new Set([...united.trained, ...united.frozen].map(({ name }) => name));
  const buffers = buffersOf(models, topology.tp).filter(({ name }) => !known.has(name));
  const ordered = orderParameters(united.trained, models, optimizer?.groupOf ?? []);
  const conversion = addAliases([...ordered, ...united.frozen, ...buffers], models);
  const saved = { ...topology, dp: files.optimizers[0]?.length ?? 1, ...(stage === undefined ? {} : { zero: stage }) };
  const state = optimizer === undefined ? undefined : trainingStateOf(models, optimizer, saved);
  const weightsOnly: CheckpointWarning[] =
    stage === undefined ? [{ code: "OptimizerStatesMissing", where: { file: files.prefix } }] : [];
  const ignored = warnOfIgnored(models, optimizer === undefined ? [] : [optimizer]);
  const warnings = [...weightsOnly, ...patterns.warnings, ...united.warnings, ...ignored];
  const opened = openedInPieces({ format: deepspeed.id, tensorFiles, ...side }, conversion, warnings);
  return { ...opened, training: withPatterns(state, patterns.added), family: patterns.family };
}

/** Patterns that the checkpoint lacks stay with its state, whoever gave them: writers for other ranks need them. */
function withPatterns(training: TrainingState | undefined, info: JsonObject | undefined): TrainingState | undefined {
  if (training === undefined || info === undefined) return training;
  return { ...training, client: { ...training.client, universal_checkpoint_info: info } };
}

type UnionTask = {
  readonly trained: SplitStages;
  readonly frozen: SplitStages;
  readonly info: CheckpointInfo | undefined;
  readonly tp: number;
  readonly stage: 1 | 2 | 3 | undefined;
  readonly prefix: string;
};

function uniteAll({ trained, frozen, info, tp, stage, prefix }: UnionTask) {
  // The reference leaves the vocabulary's padding where stage 3 has no tensor parallelism: so do we.
  const keepsPadding = stage === 3 && tp === 1;
  const rules = createUnionRules({ ...info, ...(keepsPadding ? { vocabulary_parameter_patterns: [] } : {}) });
  const context = { rules, isInferred: info === undefined, tp, prefix };
  const alone = { rules: createUnionRules({}), isInferred: true, tp: 1, prefix };
  const [cut, whole] = [uniteStages(trained.cut, context), uniteStages(trained.whole, alone)];
  const [others, wholeOthers] = [uniteStages(frozen.cut, context), uniteStages(frozen.whole, alone)];
  const names = [...whole.united, ...wholeOthers.united].map(({ name }) => name);
  rules.checkUsed(prefix, names);
  return {
    trained: [...cut.united, ...whole.united],
    frozen: [...others.united, ...wholeOthers.united],
    warnings: [...cut.warnings, ...others.warnings],
  };
}

type Topology = { readonly tp: number; readonly pp: number };

/** As the files say; counts that ranks state must agree with the files that are there. */
function readTopology(
  { prefix, models: grid, optimizers, layers, layerRanks }: DeepspeedFiles,
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
  const held = grid[0]?.length ?? 0;
  const partitions = optimizers[0]?.length ?? held;
  if (isStage3File(grid[0]?.[0]?.name ?? "") && held !== partitions) {
    throw missingRank(
      prefix,
      `model states of ${held} data-parallel ranks`,
      `${partitions}, as there are optimizer states`,
    );
  }
  for (const [layer, { length }] of Map.groupBy(layers, (each) => each.layer)) {
    if (length !== layerRanks) throw missingRank(prefix, `${length} files of layer ${layer}`, `${layerRanks}`);
  }
  const stated = models[0]?.dimensions;
  const tp = stated?.tp ?? layerRanks ?? ranks;
  if (ranks % tp === 0 && (stated === undefined || stated.pp * stated.tp === ranks)) return { tp, pp: ranks / tp };
  throw missingRank(prefix, `${ranks} model-parallel ranks`, `pipeline times ${tp} tensor-parallel ranks`);
}

function missingRank(file: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("DeepspeedRankMissing", { where: { file }, found, expected });
}

type Parameters = {
  /** By model-parallel rank. */
  readonly groups: readonly (readonly (readonly ExtractedParameter[])[])[];
  readonly stage: 1 | 2 | 3 | undefined;
  /** The first rank's. */
  readonly optimizer: OptimizerRank | undefined;
};

/** No groups and no stage where there are weights alone. */
async function readParameters(
  folder: FolderReader,
  files: DeepspeedFiles,
  models: readonly ModelState[],
  tp: number,
): Promise<Parameters> {
  const ranks: (readonly OptimizerRank[])[] = [];
  for (const rankFiles of files.optimizers) {
    ranks.push(await mapBounded(rankFiles, (file) => readOptimizerRank(folder, file), RANK_LIMITS.readsInFlight));
  }
  const isSharedOut = areSharedOut(files.experts, tp);
  const groups = ranks.map((own, mp) => {
    const model = models[mp];
    if (model === undefined) return [];
    const sharers = isSharedOut ? stageRanks(ranks, mp, tp) : own;
    const extracted = extractParameters(model, own, sharers);
    checkTrainedExperts(extracted.flat(), model);
    return extracted;
  });
  const first = ranks[0]?.[0];
  return { groups, stage: first?.stage, optimizer: first };
}

/** All ranks of a pipeline stage in the order of the processes, for the first of them; none for the others. */
function stageRanks<Rank>(ranks: readonly (readonly Rank[])[], mp: number, tp: number): readonly Rank[] {
  const stage = mp % tp === 0 ? ranks.slice(mp, mp + tp) : [];
  return (stage[0] ?? []).flatMap((_, dp) => stage.flatMap((own) => own.slice(dp, dp + 1)));
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
