// Golden cases of merging: each becomes a recipe, is planned as any recipe is, runs through the engine with the
// WebAssembly kernels, and every listed tensor is compared. Source of the form: merge reference, section 15.
import * as z from "zod";
import { hasCode, MergeyardError } from "../../core/error.ts";
import { findMethod } from "../../core/methods/registry.ts";
import { runAdamerging } from "./adamerging.ts";
import { runAlignment } from "./alignment.ts";
import { failed, type GoldenCase, type GoldenSet, PASSED, skipped, type Verdict } from "./case.ts";
import { compareAll } from "./compare.ts";
import { runWithStatistics } from "./given-statistics.ts";
import { runLora } from "./lora.ts";
import { runMoe } from "./moe.ts";
import { runMulti, runRecipe, runTokenizer } from "./recipes.ts";
import { runMerge } from "./run-merge.ts";
import { runStatistical } from "./statistical.ts";
import { runEmr, runGlobal } from "./whole-model.ts";

const parameters = z.record(z.string(), z.unknown());
const methodCase = z.object({
  id: z.string(),
  kind: z.enum(["method", "edge"]),
  method: z.string(),
  parameters,
  models: z.array(z.object({ model: z.string().optional(), file: z.string().optional(), parameters })),
  base_model: z.string().nullable(),
  dtype: z.string().nullish(),
  out_dtype: z.string().nullish(),
  tensors: z.array(z.string()),
  tolerance: z.unknown().optional(),
  expected: z.string().optional(),
  expect_error: z.string().optional(),
  expect_absent: z.boolean().optional(),
  expected_rescalers: z.unknown().optional(),
});
const documentSchema = z.object({ cases: z.array(z.object({ id: z.string(), kind: z.string() }).loose()) });
type MethodCase = z.output<typeof methodCase>;
type Entry = z.output<typeof documentSchema>["cases"][number];

/** Sets whose cases have a `kind`. */
export const mergeSet: GoldenSet = {
  id: "merge",
  open(folder, content) {
    const parsed = documentSchema.safeParse(content);
    if (!parsed.success) return undefined;
    return parsed.data.cases.map((entry): GoldenCase => {
      const run = async () => KINDS.get(entry.kind)?.(folder, entry) ?? skipped(`the kind ${entry.kind}`);
      return { id: entry.id, run };
    });
  },
};

const KINDS: ReadonlyMap<string, (folder: string, entry: Entry) => Promise<Verdict>> = new Map(
  Object.entries({
    activations: runWithStatistics,
    adamerging: runAdamerging,
    alignment: runAlignment,
    edge: runMethod,
    global: runGlobal,
    lora: runLora,
    method: runMethod,
    moe: runMoe,
    recipe: runRecipe,
    "recipe-multi": runMulti,
    "recipe-tokenizer": runTokenizer,
    statistical: runStatistical,
  }),
);

/** A method case as a recipe. Cases with a result pin the reference's own behaviour, so they ask for it. */
function toRecipe(entry: MethodCase): Record<string, unknown> {
  const compat = { mergekit_compat: "strict", non_finite: "propagate", on_mismatch: "skip" };
  return {
    merge_method: entry.method,
    models: entry.models.map((model) => ({ model: model.model ?? model.file, parameters: model.parameters })),
    parameters: entry.parameters,
    ...(entry.base_model === null ? {} : { base_model: entry.base_model }),
    ...(entry.dtype == null ? {} : { dtype: entry.dtype }),
    ...(entry.out_dtype == null ? {} : { out_dtype: entry.out_dtype }),
    ...(entry.expect_error === undefined ? compat : {}),
    ...(entry.expect_absent === true ? { allow_unlisted: "drop" } : {}),
  };
}

async function runMethod(folder: string, document: unknown): Promise<Verdict> {
  const entry = methodCase.parse(document);
  if (findMethod(entry.method) === undefined) return skipped(`the method ${entry.method}`);
  if (entry.expected_rescalers !== undefined) return runEmr(folder, entry);
  if (entry.expect_error !== undefined) return expectRefusal(folder, entry);
  if (entry.expect_absent === true) return expectAbsent(folder, entry);
  const { tensors } = await runMerge(folder, JSON.stringify(toRecipe(entry)), entry.tensors);
  return compareAll(folder, tensors, entry.tensors, entry.expected ?? "", entry.tolerance);
}

/** Left out of the output; with nothing else in the case, there is no output then. */
async function expectAbsent(folder: string, entry: MethodCase): Promise<Verdict> {
  try {
    await runMerge(folder, JSON.stringify(toRecipe(entry)), entry.tensors);
  } catch (error) {
    if (hasCode(error, "PlanNothingToMerge")) return PASSED;
    throw error;
  }
  return failed("a tensor where none is expected");
}

async function expectRefusal(folder: string, entry: MethodCase): Promise<Verdict> {
  try {
    await runMerge(folder, JSON.stringify(toRecipe(entry)), entry.tensors);
  } catch (error) {
    return error instanceof MergeyardError ? PASSED : failed(`not a typed error: ${String(error)}`);
  }
  return failed(`accepted, where the reference raises ${entry.expect_error}`);
}
