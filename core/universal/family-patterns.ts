// From a family's table to the patterns of one checkpoint: which family it is, by what it says of itself, and what its
// shapes settle (gate and up joined or not, a padded vocabulary). Called by the reader of DeepSpeed's checkpoints.
import assert from "node:assert/strict";
import { MergeyardError } from "../error.ts";
import type { Shape } from "../tensor.ts";
import type { CheckpointInfo, PatternList, SubParams } from "./checkpoint-info.ts";
import { type FamilyRow, MODEL_FAMILIES, type ModelFamily } from "./model-families.ts";
import { compilePattern } from "./name-pattern.ts";

/** What a checkpoint says of itself beside its parameters. */
export type FamilyEvidence = {
  readonly config: Readonly<Record<string, unknown>> | undefined;
  /** Names of the trainer's arguments. */
  readonly trainerArguments: readonly string[];
};

/** The family that the evidence speaks for, and which evidence that is. */
export function findFamily({ config, trainerArguments }: FamilyEvidence) {
  for (const family of MODEL_FAMILIES.values()) {
    const modelType = family.modelTypes.find((type) => type === config?.model_type);
    if (modelType !== undefined) return { family, evidence: `model_type ${modelType} in config.json` };
    const given = family.trainerArguments;
    if (given.length > 0 && given.every((name) => trainerArguments.includes(name))) {
      return { family, evidence: `the trainer's arguments ${given.join(" and ")}` };
    }
  }
  return undefined;
}

/** A parameter's shape on every tensor-parallel rank. */
export type RankShapes = { readonly name: string; readonly shapes: readonly Shape[] };

export type FamilyFacts = {
  /** Rows of the vocabulary without padding; undefined where nothing says it. */
  readonly vocabularySize: number | undefined;
  readonly checkpointVersion: number | undefined;
};

/** Lists that a pattern goes to, or the lengths of what it names: a list of them on the axis that is cut in parts. */
type Settled = {
  readonly lists: readonly PatternList[];
  readonly parts?: SubParams["shape"];
  /** Rows that pad the vocabulary stay. */
  readonly isPadded?: boolean;
};

/** Those that a row of the family's table names, with the parameter beside them where the row asks for one. */
export function namedByFamily(family: ModelFamily, parameters: readonly RankShapes[]): readonly RankShapes[] {
  const names = new Set(parameters.map(({ name }) => name));
  const rows = family.rows.map((row) => ({ row, patterns: row.patterns.map(compilePattern) }));
  return parameters.filter(({ name }) => {
    const found = rows.find(({ patterns }) => patterns.some((pattern) => pattern.matches(name)))?.row;
    return found !== undefined && (found.beside === undefined || names.has(besideName(found, name)));
  });
}

const LIST_OF = {
  replicated: "tp_replicated_parameter_patterns",
  averaged: "parameter_to_average_patterns",
  column: "parameter_with_column_parallelism_patterns",
  row: "parameter_with_row_parallelism_patterns",
} as const;

/**
 * The patterns of the family's rows that these parameters need.
 * Throws: UniversalPatternsMissing (a parameter that no row names, an embedding whose cut cannot be told),
 * UniversalShapeMismatch (shapes that the family does not have), DeepspeedUnsupported.
 */
export function familyPatterns(
  family: ModelFamily,
  parameters: readonly RankShapes[],
  facts: FamilyFacts,
): { readonly info: CheckpointInfo; readonly isPaddingKept: boolean } {
  checkVersion(family, facts);
  const rows = family.rows.flatMap((row) =>
    row.patterns.map((text) => ({ row, text, matches: compilePattern(text).matches })),
  );
  const byName = new Map(parameters.map((parameter) => [parameter.name, parameter]));
  const settled = new Map<string, Settled>();
  for (const parameter of parameters) {
    const [found, ...others] = rows.filter(({ matches }) => matches(parameter.name));
    assert.ok(others.length === 0, `${family.id} names ${parameter.name} once`);
    if (found === undefined) throw missing(family, parameter.name, "a parameter that the family's table does not name");
    const task = { family, row: found.row, parameter, byName, facts };
    const own = settleCut(task);
    const before = settled.get(found.text) ?? own;
    if (JSON.stringify(before) !== JSON.stringify(own)) {
      throw shapeError(task, "another cut than parameters of such names before it", `shapes of ${family.id}`);
    }
    settled.set(found.text, own);
  }
  const isPaddingKept = [...settled.values()].some(({ isPadded }) => isPadded === true);
  return { info: infoOf(family, settled, facts), isPaddingKept };
}

function checkVersion({ id, leastVersion }: ModelFamily, { checkpointVersion }: FamilyFacts): void {
  if (leastVersion === undefined || checkpointVersion === undefined || checkpointVersion >= leastVersion) return;
  throw new MergeyardError("DeepspeedUnsupported", {
    where: { field: "checkpoint_version" },
    found: `${checkpointVersion}, of the family ${id}`,
    expected: `at least ${leastVersion}`,
  });
}

function missing({ id }: ModelFamily, tensor: string, found: string): MergeyardError {
  return new MergeyardError("UniversalPatternsMissing", {
    where: { tensor },
    found: `${found} (${id})`,
    expected: "patterns that say how ranks cut it",
    hint: "name a file of patterns with --patterns, or write universal_checkpoint_info.json beside the step's folder",
  });
}

type Task = {
  readonly family: ModelFamily;
  readonly row: FamilyRow;
  readonly parameter: RankShapes;
  readonly byName: ReadonlyMap<string, RankShapes>;
  readonly facts: FamilyFacts;
};

function settleCut(task: Task): Settled {
  const { cut } = task.row;
  switch (cut) {
    case "gate_up":
      return settleGateUp(task);
    case "query_key_value":
      return settleQueryKeyValue(task);
    case "embedding":
      return settleEmbedding(task);
    case "vocabulary":
      return vocabulary(task.facts);
    default:
      return { lists: [LIST_OF[cut]] };
  }
}

/** Padding can be cut only where something says how long the vocabulary is. */
function vocabulary({ vocabularySize }: FamilyFacts): Settled {
  if (vocabularySize === undefined) return { lists: [LIST_OF.column], isPadded: true };
  return { lists: [LIST_OF.column, "vocabulary_parameter_patterns"] };
}

/** Shape on the first rank of the parameter that stands beside this one. */
function besideOf({ row, parameter: { name }, byName }: Task): Shape | undefined {
  return byName.get(besideName(row, name))?.shapes[0];
}

function besideName({ beside = "" }: FamilyRow, name: string): string {
  const start = name.lastIndexOf(beside.slice(0, beside.indexOf(".") + 1));
  return `${name.slice(0, start)}${beside}`;
}

function settleGateUp(task: Task): Settled {
  const rows = task.parameter.shapes[0]?.[0];
  const columns = besideOf(task)?.[1];
  if (rows !== undefined && rows === columns) return { lists: [LIST_OF.column] };
  if (rows !== undefined && columns !== undefined && rows === 2 * columns) {
    return { lists: ["parameter_with_2_sub_params_cat_dim_0"] };
  }
  throw shapeError(task, `${rows} rows on a rank, ${columns ?? "no"} columns behind them`, "as many rows, or twice");
}

function settleQueryKeyValue(task: Task): Settled {
  const rows = task.parameter.shapes.reduce((sum, shape) => sum + (shape[0] ?? 0), 0);
  const hidden = besideOf(task)?.[1] ?? 0;
  if (rows === 3 * hidden) return { lists: [LIST_OF.column] };
  const keys = (rows - hidden) / 2;
  if (Number.isInteger(keys) && keys > 0 && keys < hidden) {
    const [, ...others] = task.parameter.shapes[0] ?? [];
    return { lists: [], parts: [[hidden, keys, keys], ...others] };
  }
  throw shapeError(task, `${rows} rows of ${hidden} columns`, "queries of the model's width, keys and values");
}

function settleEmbedding(task: Task): Settled {
  const { parameter, byName, row, facts } = task;
  const ranks = parameter.shapes.length;
  const hidden = [...byName.values()].find(({ name }) => name.endsWith(row.beside ?? ""))?.shapes[0]?.[0];
  const sumOf = (axis: number) => parameter.shapes.reduce((sum, shape) => sum + (shape[axis] ?? 0), 0);
  if (ranks === 1) return { lists: [LIST_OF.replicated] };
  if (hidden === sumOf(1)) return { lists: [LIST_OF.row] };
  const { vocabularySize } = facts;
  if (hidden !== parameter.shapes[0]?.[1] || vocabularySize === undefined) {
    const found = `[${parameter.shapes[0]}] on each of ${ranks} ranks, and no vocab_size in config.json`;
    throw missing(task.family, parameter.name, found);
  }
  if (parameter.shapes.some(([rows = 0]) => rows >= vocabularySize)) return { lists: [LIST_OF.replicated] };
  if (sumOf(0) >= vocabularySize) return vocabulary(facts);
  throw shapeError(task, `${sumOf(0)} rows on ${ranks} ranks`, `at least ${vocabularySize}, the vocabulary`);
}

function shapeError({ parameter: { name } }: Task, found: string, expected: string): MergeyardError {
  return new MergeyardError("UniversalShapeMismatch", { where: { tensor: name }, found, expected });
}

function infoOf(family: ModelFamily, settled: ReadonlyMap<string, Settled>, facts: FamilyFacts): CheckpointInfo {
  const lists = new Map<PatternList, string[]>();
  const subParams: SubParams[] = [];
  for (const [text, { lists: own, parts }] of settled) {
    for (const list of own) lists.set(list, [...(lists.get(list) ?? []), text]);
    if (parts !== undefined) subParams.push({ patterns: [text], shape: [...parts], partition_dim: 0 });
  }
  return {
    ...Object.fromEntries(lists),
    ...(subParams.length === 0 ? {} : { parameter_with_sub_params: subParams }),
    ...(family.pipelineReplicated.length === 0
      ? {}
      : { pipeline_replicated_parameter_patterns: [...family.pipelineReplicated] }),
    ...(lists.has("vocabulary_parameter_patterns") ? { original_vocab_size: facts.vocabularySize } : {}),
  };
}
