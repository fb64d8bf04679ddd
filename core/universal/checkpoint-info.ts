// What a checkpoint, or its user, says about how tensor-parallel ranks cut each parameter: lists of name patterns. The
// schema is the definition; keys are spelled as DeepSpeed spells them, so that one text serves both.
// Source: reference checkpoint-formats.md sections 4.1, 4.3.
import * as z from "zod";
import { MergeyardError } from "../error.ts";
import type { JsonObject } from "../json.ts";
import { PATTERN_LIMITS } from "../limits.ts";
import { FAMILY_IDS } from "./family-ids.ts";

/** Lists of patterns by what they say of a parameter. The second is of our own: joined on axis 0, and said so. */
const PATTERN_LISTS = [
  "tp_replicated_parameter_patterns",
  "parameter_with_column_parallelism_patterns",
  "parameter_to_average_patterns",
  "parameter_with_row_parallelism_patterns",
  "parameter_with_2_sub_params_cat_dim_0",
  "vocabulary_parameter_patterns",
] as const;
export type PatternList = (typeof PATTERN_LISTS)[number];

const patterns = z.array(z.string()).max(PATTERN_LIMITS.patterns).optional();
const length = z.int().min(-1);

const subParamsSchema = z.object({
  patterns: z.array(z.string()).min(1),
  /** On `partition_dim`: the lengths of the parts, or how many equal ones there are; -1 where nothing is said. */
  shape: z.array(z.union([length, z.array(z.int().nonnegative()).min(1)])).min(1),
  partition_dim: z.int().nonnegative(),
});

export const checkpointInfoSchema = z.object({
  /** Of our own: the built-in table of this family says what the lists do not. */
  family: z.enum(FAMILY_IDS).optional(),
  universal_checkpoint_version: z.number().optional(),
  original_vocab_size: z.int().positive().optional(),
  padded_vocab_size: z.int().positive().optional(),
  tp_replicated_parameter_patterns: patterns,
  parameter_with_column_parallelism_patterns: patterns,
  parameter_to_average_patterns: patterns,
  parameter_with_row_parallelism_patterns: patterns,
  vocabulary_parameter_patterns: patterns,
  pipeline_replicated_parameter_patterns: patterns,
  parameter_with_2_sub_params_cat_dim_0: patterns,
  parameter_with_sub_params: z.array(subParamsSchema).optional(),
  /** By pattern: for each part its length on every rank. */
  sub_param_shard_widths: z.record(z.string(), z.array(z.array(z.int().nonnegative()).min(1)).min(1)).optional(),
  autotp_unsupported_parameter_patterns: z.record(z.string(), z.string()).optional(),
  expert_parameter_patterns: patterns,
  ds_autoep_layers: z.unknown().optional(),
});

export type CheckpointInfo = z.infer<typeof checkpointInfoSchema>;
export type SubParams = z.infer<typeof subParamsSchema>;

/** True where the info says of any parameter how ranks cut it. */
export function hasPatterns(info: CheckpointInfo): boolean {
  const lists = [...PATTERN_LISTS, "parameter_with_sub_params"] as const;
  return lists.some((list) => (info[list] ?? []).length > 0);
}

/** The info from outside data. Throws UniversalPatternsInvalid, naming the first wrong field. */
export function parseCheckpointInfo(value: unknown, file: string): CheckpointInfo {
  return parseInfo(checkpointInfoSchema, value, file);
}

const ownPatternsSchema = z.strictObject(checkpointInfoSchema.shape);

/** The same from a file that a user wrote for us: a key that is none is misspelt. Throws as above. */
export function parseOwnPatterns(value: unknown, file: string): CheckpointInfo {
  return parseInfo(ownPatternsSchema, value, file);
}

function parseInfo(schema: z.ZodType<CheckpointInfo>, value: unknown, file: string): CheckpointInfo {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = ["universal_checkpoint_info", ...(issue?.path ?? [])].map(String).join(".");
  throw new MergeyardError("UniversalPatternsInvalid", { where: { file, field }, found: issue?.message });
}

/** The same as plain JSON, for a checkpoint's own state. */
export function jsonOfInfo(info: CheckpointInfo): JsonObject {
  return z.record(z.string(), z.json()).parse(JSON.parse(JSON.stringify(info)));
}
