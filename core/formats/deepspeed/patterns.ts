// Which patterns say how the tensor-parallel ranks of a DeepSpeed checkpoint cut its parameters: those that the caller
// gives, those of a file beside it, its own, or the built-in table of its family.
// Source: reference checkpoint-formats.md sections 4.1, 4.2.
import type { FolderReader } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import type { JsonObject } from "../../json.ts";
import { FOLDER_LIMITS } from "../../limits.ts";
import { type CheckpointInfo, hasPatterns, jsonOfInfo, parseCheckpointInfo } from "../../universal/checkpoint-info.ts";
import type { FamilyId } from "../../universal/family-ids.ts";
import { familyPatterns, findFamily, type RankShapes } from "../../universal/family-patterns.ts";
import { MODEL_FAMILIES, type ModelFamily } from "../../universal/model-families.ts";
import type { CheckpointWarning } from "../format.ts";
import { parseJsonDocument } from "../json-scan.ts";
import type { ModelState } from "./model.ts";
import type { StageSlices } from "./union.ts";

/** Beside `latest`: the patterns that a checkpoint of several tensor-parallel ranks does not state itself. */
const INFO_FILE = "universal_checkpoint_info.json";

export type ChosenPatterns = {
  /** Undefined where one rank needs none. */
  readonly info: CheckpointInfo | undefined;
  /** The same where the checkpoint does not state it itself. */
  readonly added: JsonObject | undefined;
  /** Whose table said what the info did not. */
  readonly family: FamilyId | undefined;
  readonly warnings: readonly CheckpointWarning[];
};

type PatternsTask = {
  readonly folder: FolderReader;
  /** Of the step's folder. */
  readonly prefix: string;
  readonly models: readonly ModelState[];
  readonly stages: readonly StageSlices[];
  readonly tp: number;
  readonly config: Readonly<Record<string, unknown>> | undefined;
};

/**
 * The patterns to unite by. A family is looked for where several ranks cut parameters and nothing says how.
 * Throws UniversalPatternsInvalid, UniversalPatternsMissing, DeepspeedUnsupported, and what familyPatterns throws.
 */
export async function choosePatterns(task: PatternsTask): Promise<ChosenPatterns> {
  const { folder, prefix, models, tp } = task;
  const given = folder.patterns ?? (await readGivenInfo(folder, prefix));
  const stated = given ?? models.find((model) => model.info !== undefined)?.info;
  checkInfo(stated, prefix);
  const found = findTable(task, stated);
  if (found !== undefined) return patternsOfTable(task, stated, found);
  const isStated = stated !== undefined && hasPatterns(stated);
  if (tp > 1 && !isStated) throw patternsMissing(prefix, tp);
  return { info: stated, added: given === undefined ? undefined : jsonOfInfo(given), family: undefined, warnings: [] };
}

type Table = { readonly family: ModelFamily; readonly evidence: string };

function findTable({ models, tp, config }: PatternsTask, stated: CheckpointInfo | undefined): Table | undefined {
  const asked = stated?.family === undefined ? undefined : MODEL_FAMILIES.get(stated.family);
  if (asked !== undefined) return { family: asked, evidence: "as asked for" };
  if (tp === 1 || (stated !== undefined && hasPatterns(stated))) return undefined;
  return findFamily({ config, trainerArguments: models[0]?.trainerArguments ?? [] });
}

/** The table's patterns; what is stated wins. */
function patternsOfTable(task: PatternsTask, stated: CheckpointInfo | undefined, table: Table): ChosenPatterns {
  const { family, evidence } = table;
  const { config, models, prefix } = task;
  const size = config?.vocab_size;
  const version = models[0]?.client.checkpoint_version;
  const { family: _, ...own } = stated ?? {};
  const { info, isPaddingKept } = familyPatterns(family, shapesOf(task), {
    vocabularySize: own.original_vocab_size ?? (isPositive(size) ? size : undefined),
    checkpointVersion: typeof version === "number" ? version : undefined,
  });
  const where = { file: prefix };
  const warnings: CheckpointWarning[] = [
    { code: "FamilyPatterns", where, found: `family ${family.id}, ${evidence}` },
    ...(isPaddingKept ? [{ code: "VocabularyPaddingKept" as const, where, expected: "original_vocab_size" }] : []),
  ];
  const whole = { ...info, ...own };
  return { info: whole, added: jsonOfInfo(whole), family: family.id, warnings };
}

function isPositive(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0;
}

/** Every parameter of every stage with its shape on each rank. */
function shapesOf({ stages }: PatternsTask): readonly RankShapes[] {
  return stages.flatMap(([first = [], ...others]) => {
    const ranks = others.map((rank) => new Map(rank.map((parameter) => [parameter.name, parameter])));
    return first.map((own) => {
      const slices = [own, ...ranks.flatMap((rank) => rank.get(own.name) ?? [])];
      return { name: own.name, shapes: slices.map(({ shape }) => shape) };
    });
  });
}

function patternsMissing(prefix: string, tp: number): MergeyardError {
  return new MergeyardError("UniversalPatternsMissing", {
    where: { file: prefix },
    found: `${tp} tensor-parallel ranks and no universal_checkpoint_info`,
    expected: "patterns that say how ranks cut each parameter",
    hint:
      `name the family with --family (${[...MODEL_FAMILIES.keys()].join(", ")}), or a file with --patterns, ` +
      `or write ${INFO_FILE} beside the step's folder, with lists of regular expressions of parameter names: ` +
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
