// Golden cases of methods that look at whole models: a case becomes a recipe, whose rounds run as those of any merge.
import { z } from "zod";
import { findMethod } from "../../core/methods/registry.ts";
import { skipped, type Verdict } from "./case.ts";
import { compareAll } from "./compare.ts";
import { runMerge } from "./run-merge.ts";

const globalCase = z.object({
  kind: z.literal("global"),
  method: z.string(),
  parameters: z.record(z.string(), z.union([z.number(), z.string()])),
  models: z.array(z.string()),
  base_model: z.string(),
  tensors: z.array(z.string()),
  /** Where the expected file holds only some of the tensors. */
  compared: z.array(z.string()).optional(),
  tolerance: z.unknown(),
  expected: z.string(),
});
type GlobalCase = z.output<typeof globalCase>;

/** One merged model of all the case's tensors. */
export async function runGlobal(folder: string, document: unknown): Promise<Verdict> {
  const entry = globalCase.parse(document);
  if (findMethod(entry.method) === undefined) return skipped(`the method ${entry.method}`);
  const { tensors } = await runMerge(folder, JSON.stringify(toRecipe(entry)), entry.tensors);
  return compareAll(folder, tensors, entry.compared ?? entry.tensors, entry.expected, entry.tolerance);
}

/** Words of a case may say more than their first: `release (pcb-merging.py)`. */
function toRecipe({ method, models, base_model, parameters }: GlobalCase): Record<string, unknown> {
  const own = Object.entries(parameters).map(([name, value]) => [
    name,
    typeof value === "string" ? value.split(" ")[0] : value,
  ]);
  return {
    merge_method: method,
    base_model,
    models: models.map((model) => ({ model })),
    parameters: Object.fromEntries(own),
  };
}
