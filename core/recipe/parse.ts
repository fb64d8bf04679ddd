// From YAML documents, already objects, to a checked recipe. A file is either a pipeline or a mergekit configuration on
// its own; the second is treated as a pipeline that has nothing but its `merge` part.
import type * as z from "zod";
import { MergeyardError } from "../error.ts";
import { RECIPE_LIMITS } from "../limits.ts";
import { type OrderedDocuments, orderDocuments, type ParsedDocument } from "./documents.ts";
import { fieldError, flattenIssues, type UnknownKey, unknownKeyError, unknownKeys, valueAt } from "./issues.ts";
import { describeField, type FieldPath, fieldPlace, originWithin, type RecipeOrigin } from "./origin.ts";
import { parseSchedule } from "./schedule.ts";
import { mergeSchema, moePipelineSchema, moeSchema, type Pipeline, pipelineSchema } from "./schema.ts";

/** One document of a recipe file. */
export type RecipeDocument = { readonly value: unknown; readonly origin: RecipeOrigin };

/** A recipe whose every field has a legal form. What they mean together is checked by normalise.ts and the plan. */
export type ParsedRecipe = {
  /** As the user wrote it. */
  readonly text: string;
  /** What is merged, as data; with the text's layout and comments gone it identifies the recipe. */
  readonly document: unknown;
  readonly pipeline: Omit<Pipeline, "merge">;
  /** Documents whose results the output uses, each before those that use it. */
  readonly stages: OrderedDocuments["stages"];
  /** The output's merge part. */
  readonly merge: ParsedDocument["merge"];
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
  ...Object.keys(moeSchema.shape),
  ..."layer_range lora model override_architecture path residual_weight revision sources".split(" "),
  ...MERGEKIT_PARAMETERS,
]);

/** Keys by which a document is taken for a pipeline even when its `merge` is missing or misspelt. */
const PIPELINE_KEYS = ["merge", "on", "outputs", "checks", "publish"];

/** Keys by which a merge is taken for one of mergekit-moe; it names no method. */
const MOE_KEYS = ["experts", "gate_mode", "experts_per_token", "shared_experts"];

/**
 * Checks a recipe file's documents. Unknown keys are refused with the nearest known key. In the merge part, a key that
 * mergekit knows from another place (and ignores here) is a warning, and under `mergekit_compat: strict` every unknown
 * key is. Throws RecipeUnknownKey, RecipeFieldInvalid, RecipeScheduleInvalid, RecipeNameInvalid, RecipeCycle.
 */
export function parseRecipe(documents: readonly RecipeDocument[], text: string): ParsedRecipe {
  if (documents.length === 0)
    throw new MergeyardError("RecipeFieldInvalid", { found: "no document", expected: "a recipe" });
  const parsed = documents.map(parseDocument);
  const [pipeline, second] = parsed.filter(({ frame }) => frame !== undefined);
  if (second !== undefined) {
    throw new MergeyardError("RecipeFieldInvalid", {
      where: fieldPlace(documents[parsed.indexOf(second)]?.origin ?? second.origin, []),
      found: "a second pipeline",
      expected: "one document with `merge`; the others are merges on their own",
    });
  }
  const taken = Object.keys(pipeline?.frame?.models ?? {});
  const { stages, output, warnings } = orderDocuments(parsed, pipeline, taken);
  const merges = [...stages, output].map(({ value }) => value);
  return {
    text,
    document: merges.length === 1 ? output.value : merges,
    pipeline: pipeline?.frame ?? makeFrame(output.name),
    stages,
    merge: output.merge,
    origin: output.origin,
    warnings: [...output.warnings, ...warnings],
  };
}

type Frame = Omit<Pipeline, "merge">;

function parseDocument({ value: document, origin }: RecipeDocument): ParsedDocument & { readonly frame?: Frame } {
  if (!hasPipelineKey(document)) {
    const schema = isMoe(document) ? moeSchema : mergeSchema;
    const { value: merge, warnings } = parseTolerant<typeof mergeSchema | typeof moeSchema>(
      schema,
      document,
      origin,
      [],
    );
    return { name: merge.name ?? undefined, value: document, merge, origin, warnings };
  }
  const schema = isMoe(valueAt(document, ["merge"])) ? moePipelineSchema : pipelineSchema;
  const { value, warnings } = parseTolerant<typeof pipelineSchema | typeof moePipelineSchema>(
    schema,
    document,
    origin,
    ["merge"],
  );
  const { merge, ...frame } = value;
  const schedule = frame.on?.schedule;
  if (schedule != null) parseSchedule(schedule, fieldPlace(origin, ["on", "schedule"]));
  const name = merge.name ?? undefined;
  return { name, value: document, merge, origin: originWithin(origin, "merge"), warnings, frame };
}

/** What surrounds a merge that stands on its own; a name that a folder cannot have is left out. */
function makeFrame(name: string | undefined): Frame {
  const named = frameSchema.safeParse({ name });
  return named.success ? named.data : frameSchema.parse({ name: "merge" });
}

const frameSchema = pipelineSchema.omit({ merge: true });

function hasPipelineKey(value: unknown): boolean {
  return hasSome(value, PIPELINE_KEYS);
}

function isMoe(value: unknown): boolean {
  return hasSome(value, MOE_KEYS) && !hasSome(value, ["merge_method"]);
}

function hasSome(value: unknown, keys: readonly string[]): boolean {
  return typeof value === "object" && value !== null && keys.some((key) => Object.hasOwn(value, key));
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
    if (!inMerge || !(strict || MERGEKIT_KEYS.has(unknown.key))) {
      // Without a pipeline's keys the document was taken for a merge on its own; the key may be one of them, misspelt.
      const known = mergePath.length + unknown.path.length === 0 ? [...unknown.known, ...PIPELINE_KEYS] : unknown.known;
      throw unknownKeyError({ ...unknown, known }, origin);
    }
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
  const place = MERGEKIT_PARAMETERS.includes(key) ? "; a parameter belongs under `parameters`" : "";
  return `${describeField(origin, [...path, key])} is ignored here, as mergekit ignores it${place}`;
}
