// Which pipelines an event should start, and under which names: what the steps on-upload and on-schedule share, and
// `serve`. A start has a name made of what caused it, so that the same event told twice, late or out of order starts
// nothing twice.
import * as z from "zod";
import { digestJson } from "../core/artifact/digest.ts";
import { shortDigest } from "../core/artifact/layout.ts";
import { isVerdict } from "../core/error.ts";
import { RECIPE_LIMITS } from "../core/limits.ts";
import type { ParsedRecipe } from "../core/recipe/parse.ts";
import { readAll } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";
import { describeError } from "./error-record.ts";
import { readRecipe } from "./read-recipe.ts";
import { errorRecordSchema } from "./schemas.ts";
import type { StepDeps } from "./step.ts";

/** An execution to start. A name is at most 80 characters of letters, digits, `-` and `_`. */
const startSchema = z.strictObject({
  name: z.string().regex(/^[A-Za-z0-9_-]{1,80}$/),
  input: z.strictObject({
    yard: z.string(),
    pipeline: z.strictObject({ store: z.string(), key: z.string() }),
  }),
});
export type Start = z.infer<typeof startSchema>;

/** `unreadable` are the pipelines that nobody can know the triggers of. */
export const startsSchema = z.strictObject({
  starts: z.array(startSchema),
  unreadable: z.array(z.strictObject({ pipeline: z.string(), error: errorRecordSchema })),
});
export type Starts = z.infer<typeof startsSchema>;

/** A pipeline of the yard. `digest` is that of its text. */
export type StoredPipeline = {
  readonly key: string;
  /** Its file's name without `.yaml`. */
  readonly name: string;
  readonly digest: string;
  readonly recipe: ParsedRecipe;
};

/** What asks for a start. The same cause of the same pipeline is the same start; `words` begin its name. */
export type StartCause = { readonly cause: string; readonly words: string };

const PIPELINES = "pipelines/";
/** Characters of a pipeline's name in an execution's. */
const NAME_CHARACTERS = 40;

/**
 * A start of every pipeline of the yard for each cause that `causesOf` gives. A pipeline that cannot be read does not
 * keep the others from starting; it is listed and logged, for somebody waits for it.
 */
export async function findStarts(
  yard: ObjectStore,
  deps: StepDeps,
  causesOf: (pipeline: StoredPipeline) => readonly StartCause[] | Promise<readonly StartCause[]>,
): Promise<Starts> {
  const { signal } = deps;
  const starts: Start[] = [];
  const unreadable: Starts["unreadable"] = [];
  for await (const { key } of yard.list(PIPELINES, { signal })) {
    if (!/^pipelines\/[^/]+\.yaml$/.test(key)) continue;
    try {
      const pipeline = await readPipeline(yard, key, signal);
      for (const cause of await causesOf(pipeline)) starts.push(makeStart(yard, pipeline, cause));
    } catch (cause) {
      if (!isVerdict(cause)) throw cause;
      const error = describeError(cause);
      deps.log({ event: "pipeline-unreadable", pipeline: key, error });
      unreadable.push({ pipeline: key, error });
    }
  }
  return { starts, unreadable };
}

async function readPipeline(yard: ObjectStore, key: string, signal: AbortSignal): Promise<StoredPipeline> {
  const bytes = await readAll(yard, key, RECIPE_LIMITS.bytes + 1, { signal });
  const recipe = readRecipe(bytes, key);
  return { key, name: key.slice(PIPELINES.length, -".yaml".length), digest: digestJson(recipe.text), recipe };
}

function makeStart(yard: ObjectStore, { key, name, digest }: StoredPipeline, { cause, words }: StartCause): Start {
  const slug = name.replace(/[^A-Za-z0-9_-]+/g, "-").slice(0, NAME_CHARACTERS);
  // The pipeline's text is part of the name: corrected, it may be started by the same cause again.
  const unique = shortDigest(digestJson({ pipeline: key, digest, cause }));
  return { name: `${words}-${slug}-${unique}`, input: { yard: yard.uri, pipeline: { store: yard.uri, key } } };
}
