// Golden cases that are whole recipes of the reference, run as they are.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { findMethod } from "../../core/methods/registry.ts";
import { failed, skipped, type Verdict } from "./case.ts";
import { compareAll, compareConfig, listTensors } from "./compare.ts";
import { plainIds, readPlainTokenizer } from "./plain-tokenizer.ts";
import { runMerge } from "./run-merge.ts";

const recipeCase = z.object({
  id: z.string(),
  kind: z.literal("recipe"),
  recipe: z.string(),
  tensors: z.array(z.string()),
  tolerance: z.unknown(),
  expected: z.string(),
  expected_config: z.record(z.string(), z.unknown()).optional(),
});
const tokenizerCase = z.object({
  id: z.string(),
  kind: z.literal("recipe-tokenizer"),
  recipe: z.string(),
  tensors: z.array(z.string()),
  tolerance: z.unknown(),
  expected: z.string(),
  expected_vocab: z.record(z.string(), z.int()),
  expected_config: z.record(z.string(), z.unknown()),
});
/** A recipe of the reference as it is: every output tensor, and keys of the config. */
export async function runRecipe(folder: string, content: unknown): Promise<Verdict> {
  const entry = recipeCase.parse(content);
  const path = join(folder, entry.recipe);
  const method = /^merge_method:\s*(\S+)/m.exec(readFileSync(path, "utf8"))?.[1] ?? "";
  if (findMethod(method) === undefined) return skipped(`the method ${method}`);
  const { tensors, config } = await runMerge(folder, readFileSync(path, "utf8"), undefined);
  const wrong = compareConfig(config, entry.expected_config ?? {});
  if (wrong !== undefined) return failed(wrong);
  const extra = [...tensors.keys()].filter((name) => !entry.tensors.includes(name));
  if (extra.length > 0) return failed(`unexpected tensors: ${extra.join(", ")}`);
  return compareAll(folder, tensors, entry.tensors, entry.expected, entry.tolerance);
}

const multiCase = z.object({
  id: z.string(),
  kind: z.literal("recipe-multi"),
  recipe: z.string(),
  tensors: z.array(z.string()),
  tolerance: z.unknown(),
  expected: z.string(),
  intermediate_expected: z.record(z.string(), z.string()),
});

/**
 * Several documents: the output, and every result that it uses. An expected intermediate may hold a few tensors only.
 */
export async function runMulti(folder: string, content: unknown): Promise<Verdict> {
  const entry = multiCase.parse(content);
  const { tensors, intermediate } = await runMerge(folder, readFileSync(join(folder, entry.recipe), "utf8"));
  for (const [name, file] of Object.entries(entry.intermediate_expected)) {
    const got = intermediate.get(name);
    if (got === undefined) return failed(`no result of the document ${name}`);
    const listed = await listTensors(folder, file);
    const verdict = await compareAll(folder, got, listed, file, entry.tolerance);
    if (verdict.status !== "passed") return verdict;
  }
  return compareAll(folder, tensors, entry.tensors, entry.expected, entry.tolerance);
}

/** The vocabulary, and embeddings re-indexed to it; the models' tokenizers are stand-ins. */
export async function runTokenizer(folder: string, content: unknown): Promise<Verdict> {
  const entry = tokenizerCase.parse(content);
  const recipe = readFileSync(join(folder, entry.recipe), "utf8");
  const options = { readTokenizer: readPlainTokenizer };
  const { tensors, config, sideText } = await runMerge(folder, recipe, undefined, options);
  const ids = plainIds(sideText("tokenizer.json") ?? "{}");
  const expected = Object.entries(entry.expected_vocab);
  const other = expected.find(([token, id]) => ids.get(token) !== id);
  if (other !== undefined) return failed(`token ${other[0]} has id ${ids.get(other[0])}, expected ${other[1]}`);
  if (ids.size !== expected.length) return failed(`${ids.size} tokens, expected ${expected.length}`);
  const wrong = compareConfig(config, entry.expected_config);
  if (wrong !== undefined) return failed(wrong);
  return compareAll(folder, tensors, entry.tensors, entry.expected, entry.tolerance);
}
