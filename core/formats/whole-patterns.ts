// Patterns for parameters that a checkpoint holds whole, as distributed checkpoints do: how the ranks of another
// topology may cut them. Called by the readers of such checkpoints.
import assert from "node:assert/strict";
import type { JsonObject } from "../json.ts";
import { type CheckpointInfo, hasPatterns, jsonOfInfo } from "../universal/checkpoint-info.ts";
import type { ConversionParameter } from "../universal/conversion.ts";
import type { FamilyId } from "../universal/family-ids.ts";
import { familyPatterns, namedByFamily, type RankShapes } from "../universal/family-patterns.ts";
import { MODEL_FAMILIES } from "../universal/model-families.ts";
import { createUnionRules } from "../universal/union.ts";
import type { OpenedCheckpoint } from "./format.ts";

type Patterns = {
  /** By the user: its family goes before the reader's, its lists before the family's table. */
  readonly given: CheckpointInfo | undefined;
  /** Whose names the format has; undefined where it may be any. */
  readonly family: FamilyId | undefined;
  /** Of the step's folder, for warnings. */
  readonly prefix: string;
};

type Patterned = Pick<OpenedCheckpoint, "family" | "warnings"> & {
  readonly parameters: readonly ConversionParameter[];
  /** All patterns, for the state of the checkpoint: files of ranks that are written state them. */
  readonly added: JsonObject | undefined;
};

/**
 * The parameters with how ranks cut them. Whole as they are, they need no patterns: what nothing names can be read, and
 * cut for no other ranks. Throws what familyPatterns and createUnionRules throw.
 */
export function patternWhole(parameters: readonly ConversionParameter[], patterns: Patterns): Patterned {
  const { given, prefix } = patterns;
  const id = given?.family ?? patterns.family;
  const shapes = parameters.map(({ name, shape }) => ({ name, shapes: [shape] }));
  const table = id === undefined ? undefined : tableOf(id, shapes);
  const isGiven = given !== undefined && hasPatterns(given);
  const named = table?.named ?? [];
  const { family: _, ...info } = { ...table?.info, ...given };
  const rules = createUnionRules(info);
  const names = new Set((isGiven ? shapes : named).map(({ name }) => name));
  const found = `family ${id}, for ${named.length} of ${parameters.length} parameters`;
  return {
    family: named.length === 0 ? undefined : id,
    added: isGiven || named.length > 0 ? jsonOfInfo(info) : undefined,
    warnings: named.length === 0 ? [] : [{ code: "FamilyPatterns", where: { file: prefix }, found }],
    parameters: parameters.map((parameter) => {
      const { name, shape } = parameter;
      if (!names.has(name)) return parameter;
      return { ...parameter, pattern: rules.unite(name, [{ shape, ranges: [] }]).pattern };
    }),
  };
}

function tableOf(id: FamilyId, shapes: readonly RankShapes[]) {
  const family = MODEL_FAMILIES.get(id);
  assert.ok(family !== undefined, "every id has its table");
  const named = namedByFamily(family, shapes);
  const { info } = familyPatterns(family, named, { vocabularySize: undefined, checkpointVersion: undefined });
  return { named, info };
}
