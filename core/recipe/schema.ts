// What a user writes: a mergekit configuration (the `merge` part, also on its own), and a pipeline file around it. The
// zod schemas are the only definition. They say what the grammar is; supported.ts says what is not executed yet.
// Source of the grammar: mergekit's configuration, reference section 5.
import * as z from "zod";
import { NAME, NAME_WORDS } from "../artifact/key.ts";
import { RECIPE_LIMITS } from "../limits.ts";
import { settingsSchema } from "./setting.ts";

/**
 * A strict object. The message of its unknown-key issue lists the known keys, from which parse.ts takes the nearest:
 * the issue itself does not say which schema it comes from.
 */
function closed<Shape extends z.ZodRawShape>(shape: Shape) {
  const known = Object.keys(shape).join(",");
  return z.strictObject(shape, { error: (issue) => (issue.code === "unrecognized_keys" ? known : undefined) });
}

const layerIndex = z.int().nonnegative().max(RECIPE_LIMITS.layers);
/** mergekit also takes whole numbers in quotes. */
const layerRange = z.preprocess(
  (value) => (Array.isArray(value) ? value.map(unquoted) : value),
  z.tuple([layerIndex, layerIndex]),
);

function unquoted(value: unknown): unknown {
  return typeof value === "string" && /^\d{1,9}$/.test(value) ? Number(value) : value;
}

const text = z.string().min(1).max(RECIPE_LIMITS.textCharacters);

/** A model reference: what lies where, at which revision, and the adapter to merge into it first. */
export type ModelReference = {
  /** `path[@revision][+lora[@revision]]`: the canonical spelling, which identifies the model in plans and receipts. */
  readonly model: string;
  /** `path[@revision]`: the model without its adapter. */
  readonly base: string;
  /** `lora[@revision]`. */
  readonly adapter: string | undefined;
  readonly path: string;
  readonly revision: string | undefined;
  readonly lora: { readonly path: string; readonly revision: string | undefined } | undefined;
  /** Replaces `architectures` of the model's config. */
  readonly overrideArchitecture: string | undefined;
};

const referencePartSchema = z.union([
  text.transform((part) => ({ path: part, revision: undefined })),
  closed({ path: text, revision: text.nullish() }),
]);

const referenceTextSchema = text.transform((spelling, context): ModelReference => {
  const parts = spelling.split("+");
  const [model, lora] = parts.map(splitRevision);
  if (model === undefined || parts.length > 2 || [model, lora].some((part) => part === null)) {
    context.addIssue({
      code: "custom",
      message: "path[@revision][+lora[@revision]]",
      params: { found: spelling, hint: "for a path with more than one `@` or `+`, give it a name under `models:`" },
    });
    return z.NEVER;
  }
  return makeReference(model ?? { path: spelling, revision: undefined }, lora ?? undefined, undefined);
});

const referenceMapSchema = closed({
  model: referencePartSchema,
  lora: referencePartSchema.nullish(),
  override_architecture: text.nullish(),
}).transform((map) => {
  const lora = map.lora ?? undefined;
  return makeReference(clean(map.model), lora && clean(lora), map.override_architecture ?? undefined);
});

/** `path[@revision][+lora[@revision]]`, or the map form with `model`, `lora` and `override_architecture`. */
const modelReferenceSchema = z.union([referenceTextSchema, referenceMapSchema]);

type Located = { readonly path: string; readonly revision: string | undefined };

/** null: malformed. */
function splitRevision(part: string): Located | null {
  const [path = "", revision, ...more] = part.split("@");
  if (path === "" || revision === "" || more.length > 0) return null;
  return { path, revision };
}

function clean(part: { path: string; revision?: string | null | undefined }): Located {
  return { path: part.path, revision: part.revision ?? undefined };
}

function makeReference(model: Located, lora: Located | undefined, architecture: string | undefined): ModelReference {
  const spell = ({ path, revision }: Located) => (revision === undefined ? path : `${path}@${revision}`);
  const [base, adapter] = [spell(model), lora && spell(lora)];
  const spelling = adapter === undefined ? base : `${base}+${adapter}`;
  return { model: spelling, base, adapter, ...model, lora, overrideArchitecture: architecture };
}

const dtypeName = ["float32", "float16", "bfloat16", "int64"] as const;
/** mergekit's dtype names, with or without `torch.` in front. */
const dtypeSchema = z.preprocess(
  (name) => (typeof name === "string" ? name.replace(/^torch\./, "") : name),
  z.enum(dtypeName),
);

const modelEntrySchema = closed({
  model: modelReferenceSchema,
  /** Ours: what was measured of the model elsewhere, tensors by name, for methods that take it. */
  statistics: modelReferenceSchema.nullish(),
  parameters: settingsSchema.nullish(),
});

const sourceSchema = closed({
  model: modelReferenceSchema,
  layer_range: layerRange.nullish(),
  statistics: modelReferenceSchema.nullish(),
  parameters: settingsSchema.nullish(),
});

const sliceSchema = closed({
  sources: z.array(sourceSchema).min(1).max(RECIPE_LIMITS.models),
  base_model: modelReferenceSchema.nullish(),
  parameters: settingsSchema.nullish(),
  residual_weight: z.number().nullish(),
});

const models = z.array(modelEntrySchema).max(RECIPE_LIMITS.models).nullish();
const slices = z.array(sliceSchema).max(RECIPE_LIMITS.slices).nullish();

const moduleSchema = closed({ models, slices, parameters: settingsSchema.nullish() });

const tokenSourceSchema = z.union([
  modelReferenceSchema,
  closed({
    kind: z.literal("model_token"),
    model: modelReferenceSchema,
    token: z.string().nullish(),
    token_id: z.int().nonnegative().nullish(),
  }),
  closed({ kind: z.literal("zero") }),
]);

const tokenizerSchema = closed({
  source: z.union([z.enum(["union", "base"]), modelReferenceSchema]).default("union"),
  tokens: z
    .record(z.string(), closed({ source: tokenSourceSchema.nullish(), force: z.boolean().default(false) }))
    .nullish(),
  pad_to_multiple_of: z.int().positive().nullish(),
});

/** One mergekit configuration, with our extensions last. */
export const mergeSchema = closed({
  merge_method: text,
  models,
  slices,
  modules: z.record(z.string(), moduleSchema).nullish(),
  base_model: modelReferenceSchema.nullish(),
  parameters: settingsSchema.nullish(),
  dtype: dtypeSchema.nullish(),
  out_dtype: dtypeSchema.nullish(),
  tokenizer_source: z.union([z.enum(["union", "base"]), modelReferenceSchema]).nullish(),
  tokenizer: tokenizerSchema.nullish(),
  chat_template: z.string().min(1).max(RECIPE_LIMITS.templateCharacters).nullish(),
  /** Name of this document's result in a file of several documents. */
  name: text.nullish(),

  /** What to do with a tensor that not every model has: refuse (default), take it from one model, or leave it out. */
  allow_unlisted: z.enum(["copy", "drop"]).nullish(),
  /** What to do when models' shapes differ: refuse (default), or merge without the models that differ. */
  on_mismatch: z.enum(["error", "skip"]).default("error"),
  /** NaN and infinity in an input or in the output: fail (default), or pass on. */
  non_finite: z.enum(["error", "propagate"]).default("error"),
  /** `strict` reproduces the reference's documented defects and only warns of keys that it would ignore. */
  mergekit_compat: z.enum(["default", "strict"]).default("default"),
  /** Seed of random methods; the mask is a function of it, the tensor, the model and the element alone. */
  random_seed: z.int().nonnegative().default(0),
  /** The parent whose config.json describes the result when the parents' differ in size or kind. */
  config_source: z.union([z.literal("base"), modelReferenceSchema]).nullish(),
});
export type MergeConfig = z.output<typeof mergeSchema>;

const prompts = z.array(z.string().min(1).max(RECIPE_LIMITS.promptCharacters)).max(RECIPE_LIMITS.prompts).nullish();

const expertSchema = closed({
  source_model: modelReferenceSchema,
  positive_prompts: prompts,
  negative_prompts: prompts,
  /** Factor of the expert's last matrix, whose results are added to the hidden states. */
  residual_scale: z.number().nullish(),
  /** Standard deviation of what is added to the expert's weights. */
  noise_scale: z.number().nonnegative().nullish(),
});

const gateModes = ["hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random"] as const;

/**
 * A configuration of mergekit-moe: dense models become the experts of one model. Source: its documentation; the last
 * three keys are ours, as in a merge.
 */
export const moeSchema = closed({
  base_model: modelReferenceSchema,
  gate_mode: z.enum(gateModes).default("hidden"),
  dtype: dtypeSchema.nullish(),
  experts_per_token: z.int().positive().default(2),
  experts: z.array(expertSchema).min(1).max(RECIPE_LIMITS.models),
  shared_experts: z.array(expertSchema).max(RECIPE_LIMITS.models).nullish(),
  architecture: text.nullish(),
  name: text.nullish(),
  non_finite: z.enum(["error", "propagate"]).default("error"),
  random_seed: z.int().nonnegative().default(0),
});
export type MoeConfig = z.output<typeof moeSchema>;

const nameSchema = z.string().refine((name) => NAME.test(name), NAME_WORDS);

/** One artifact of the merge. `tokenizer: false`: a GGUF file without one. */
const outputSchema = closed({
  format: text,
  scheme: text.nullish(),
  tokenizer: z.boolean().nullish(),
  imatrix: text.nullish(),
  hessian: text.nullish(),
});

/** A pipeline file. Source: the design's section "A pipeline". */
export const pipelineSchema = closed({
  name: nameSchema,
  on: closed({ upload: z.array(text).max(100).nullish(), schedule: text.nullish() }).nullish(),
  models: z.record(text, text).nullish(),
  merge: mergeSchema,
  outputs: z
    .array(outputSchema)
    .min(1)
    .max(16)
    .default([{ format: "safetensors" }]),
  checks: closed({ max_nonfinite: z.int().nonnegative().default(0) }).default({ max_nonfinite: 0 }),
  /** Measure how the models' changes agree and disagree, for statistics.json. */
  statistics: z.boolean().default(false),
  publish: closed({
    model: nameSchema,
    channel: nameSchema.default("latest"),
    keep: z.int().positive().nullish(),
  }).nullish(),
});
export type Pipeline = z.output<typeof pipelineSchema>;

/** A pipeline file whose merge makes a mixture of experts. */
export const moePipelineSchema = closed({ ...pipelineSchema.shape, merge: moeSchema });
