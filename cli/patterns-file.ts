// `--patterns FILE` and `--family NAME`: how tensor-parallel ranks cut parameters, as YAML or JSON with the keys that
// DeepSpeed's universal_checkpoint_info has, or by the built-in table of a family. Called by inspect and convert.
import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import { parse } from "yaml";
import { MergeyardError } from "../core/error.ts";
import { FOLDER_LIMITS } from "../core/limits.ts";
import { type CheckpointInfo, parseOwnPatterns } from "../core/universal/checkpoint-info.ts";
import type { FamilyId } from "../core/universal/family-ids.ts";

export type PatternOptions = { readonly patterns?: string; readonly family?: FamilyId };

/** Undefined without either option. Throws CliSourceMissing, UniversalPatternsInvalid. */
export function readPatterns({ patterns, family }: PatternOptions, cwd: string): CheckpointInfo | undefined {
  if (patterns === undefined && family === undefined) return undefined;
  return { ...(patterns === undefined ? {} : readFile(patterns, cwd)), ...(family === undefined ? {} : { family }) };
}

function readFile(file: string, cwd: string): CheckpointInfo {
  const absolute = path.resolve(cwd, file);
  const stat = statSync(absolute, { throwIfNoEntry: false });
  if (stat?.isFile() !== true) throw new MergeyardError("CliSourceMissing", { where: { file: absolute } });
  if (stat.size > FOLDER_LIMITS.configBytes) {
    const expected = `at most ${FOLDER_LIMITS.configBytes} bytes`;
    throw new MergeyardError("UniversalPatternsInvalid", {
      where: { file: absolute },
      found: `${stat.size} bytes`,
      expected,
    });
  }
  return parseOwnPatterns(parseYaml(readFileSync(absolute, "utf8"), absolute), absolute);
}

function parseYaml(text: string, file: string): unknown {
  try {
    return parse(text);
  } catch (cause) {
    const found = cause instanceof Error ? cause.message.split("\n")[0] : undefined;
    throw new MergeyardError("UniversalPatternsInvalid", { where: { file }, found, expected: "YAML", cause });
  }
}
