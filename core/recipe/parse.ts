// From YAML documents, already objects, to a checked recipe. A file is either a pipeline or a mergekit configuration on
// its own; the second is treated as a pipeline that has nothing but its `merge` part.
import type { z } from "zod";
import { MergeyardError } from "../error.ts";
import { RECIPE_LIMITS } from "../limits.ts";
import { fieldError, flattenIssues, type UnknownKey, unknownKeyError, unknownKeys, valueAt } from "./issues.ts";
import { type FieldPath, fieldPlace, originWithin, type RecipeOrigin } from "./origin.ts";
import { parseSchedule } from "./schedule.ts";
import { type MergeConfig, mergeSchema, type Pipeline, pipelineSchema } from "./schema.ts";

/** One document of a recipe file. */
export type RecipeDocument = { readonly value: unknown; readonly origin: RecipeOrigin };

/** A recipe whose every field has a legal form. What they mean together is checked by normalise.ts and the plan. */
export type ParsedRecipe = {
  /** As the user wrote it. */
  readonly text: string;
  /** The document as data; with the text's layout and comments gone it identifies the recipe. */
  readonly document: unknown;
  readonly pipeline: Omit<Pipeline, "merge">;
  readonly merge: MergeConfig;
  /** Places of the merge part's fields. */
  readonly origin: RecipeOrigin;
  readonly warnings: readonly string[];
};

/** Parameter names of mergekit's methods: known words, even where the method at hand ignores them. */
export const MERGEKIT_PARAMETERS: readonly string[] = Object.freeze(
  (
    "alpha density eps epsilon filter_wise gamma int8_mask lambda max_iter normalize normalize_weights " +
    "nuslerp_flatten nuslerp_row_wise r rescale scale select_topk t tol weight"
  ).split(" "),
);

const MERGEKIT_KEYS = new Set([
  ...Object.keys(mergeSchema.shape),
  ..."layer_range lora model override_architecture path residual_weight revision sources".split(" "),
  ...MERGEKIT_PARAMETERS,
]);

/** Keys by which a document is taken for a pipeline even when its `merge` is missing or misspelt. */
const PIPELINE_KEYS = ["merge", "on", "outputs", "checks", "publish"];

/**
 * Checks a recipe file's documents. Unknown keys are refused with the nearest known key. In the merge part, a key that
 * mergekit knows from another place (and ignores here) is a warning, and under `mergekit_compat: strict` every unknown
 * key is. Throws RecipeUnknownKey, RecipeFieldInvalid, RecipeScheduleInvalid, RecipeNotSupported (several documents).
 */
export function parseRecipe(documents: readonly RecipeDocument[], text: string): ParsedRecipe {
  const [first, second] = documents;
  if (first === undefined)
    throw new MergeyardError("RecipeFieldInvalid", { found: "no document", expected: "a recipe" });
  if (second !== undefined) {
    throw new MergeyardError("RecipeNotSupported", {
      where: fieldPlace(second.origin, []),
      found: `${documents.length} documents`,
      expected: "one document",
      hint: "write each document to its own file and merge them one after the other",
    });
  }
  const { value: document, origin } = first;
  if (!hasPipelineKey(document)) {
    const { value: merge, warnings } = parseTolerant(mergeSchema, document, origin, []);
    const pipeline = frameSchema.parse({ name: merge.name ?? "merge" });
    return { text, document, pipeline, merge, origin, warnings };
  }
  const { value, warnings } = parseTolerant(pipelineSchema, document, origin, ["merge"]);
  const { merge, ...pipeline } = value;
  const schedule = pipeline.on?.schedule;
  if (schedule != null) parseSchedule(schedule, fieldPlace(origin, ["on", "schedule"]));
  return { text, document, pipeline, merge, origin: originWithin(origin, "merge"), warnings };
}

const frameSchema = pipelineSchema.omit({ merge: true });

function hasPipelineKey(value: unknown): boolean {
  return typeof value === "object" && value !== null && PIPELINE_KEYS.some((key) => Object.hasOwn(value, key));
}

/** Parses; unknown keys of the merge part that may be ignored are taken out, one round each, and reported. */
function parseTolerant<Schema extends z.ZodType>(
  schema: Schema,
  document: unknown,
  origin: RecipeOrigin,
  mergePath: FieldPath,
): { value: z.output<Schema>; warnings: string[] } {
  const warnings: string[] = [];
  const strict = valueAt(document, [...mergePath, "mergekit_compat"]) === "strict";
  const copy: unknown = structuredClone(document);
  for (let round = 0; round < RECIPE_LIMITS.ignoredKeys; round++) {
    const result = schema.safeParse(copy);
    if (result.success) return { value: result.data, warnings };
    const issues = flattenIssues(result.error.issues);
    const [unknown] = unknownKeys(issues);
    if (unknown === undefined) throw fieldError(issues, document, origin);
    const inMerge = mergePath.every((part, index) => unknown.path[index] === part);
    if (!inMerge || !(strict || MERGEKIT_KEYS.has(unknown.key))) throw unknownKeyError(unknown, origin);
    const holder = valueAt(copy, unknown.path);
    if (typeof holder === "object" && holder !== null) Reflect.deleteProperty(holder, unknown.key);
    warnings.push(ignoredKeyWarning(unknown, origin));
  }
  throw new MergeyardError("RecipeFieldInvalid", {
    where: fieldPlace(origin, mergePath),
    found: `more than ${RECIPE_LIMITS.ignoredKeys} unknown keys`,
    expected: "a recipe",
  });
}

function ignoredKeyWarning({ path, key }: UnknownKey, origin: RecipeOrigin): string {
  const { field, line } = fieldPlace(origin, [...path, key]);
  const place = MERGEKIT_PARAMETERS.includes(key) ? "; a parameter belongs under `parameters`" : "";
  return `${field}${line === undefined ? "" : ` (line ${line})`} is ignored here, as mergekit ignores it${place}`;
}
