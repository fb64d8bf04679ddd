// Headers of made-up checkpoints, and short ways to plan recipes over them. No weights exist.
import type { Checkpoint, CheckpointFile, TensorEntry } from "../../../core/checkpoint.ts";
import type { MergeModel, MergeOptions } from "../../../core/plan/merge-task.ts";
import type { MergePlan } from "../../../core/plan/plan-merge.ts";
import { planRecipe } from "../../../core/plan/plan-recipe.ts";
import type { MergeUnit, PlanSource, UnitTensor } from "../../../core/plan/schema.ts";
import { listSources, normaliseRecipe } from "../../../core/recipe/normalise.ts";
import { type Dtype, tensorBytes } from "../../../core/tensor.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";

export type Shapes = Readonly<Record<string, readonly number[] | { dtype: Dtype; shape: readonly number[] }>>;

export type CheckpointParts = {
  readonly dtype?: Dtype;
  readonly config?: Record<string, unknown>;
  readonly sideFiles?: readonly CheckpointFile[];
};

/** A checkpoint of one file with these tensors. */
export function makeCheckpoint(
  shapes: Shapes,
  { dtype = "F32", config = {}, sideFiles = [] }: CheckpointParts = {},
): Checkpoint {
  let offset = 1000;
  const tensors = Object.entries(shapes).map(([name, value]): TensorEntry => {
    const entry = "dtype" in value ? value : { dtype, shape: value };
    const bytes = tensorBytes(entry.dtype, entry.shape);
    const ranges = [{ file: "model.safetensors", offset, bytes }];
    offset += bytes;
    return { name, ...entry, ranges };
  });
  return {
    format: "safetensors",
    tensorFiles: [{ name: "model.safetensors", bytes: offset }],
    sideFiles,
    tensors,
    metadata: new Map(),
    config,
  };
}

export type LlamaParts = CheckpointParts & {
  readonly layers?: number;
  readonly vocabulary?: number;
  /** Leaves the head out; the config then says what `tied` says. */
  readonly head?: boolean;
  readonly tied?: boolean;
};

/** The tensors and the config of a very small llama: hidden 4, two heads. */
export function makeLlama(parts: LlamaParts = {}): Checkpoint {
  const { layers = 3, vocabulary = 10, head = true, tied = false } = parts;
  const shapes: Record<string, readonly number[]> = { "model.embed_tokens.weight": [vocabulary, 4] };
  for (let layer = 0; layer < layers; layer++) {
    shapes[`model.layers.${layer}.input_layernorm.weight`] = [4];
    shapes[`model.layers.${layer}.mlp.up_proj.weight`] = [6, 4];
    shapes[`model.layers.${layer}.self_attn.q_proj.weight`] = [4, 4];
  }
  shapes["model.norm.weight"] = [4];
  if (head) shapes["lm_head.weight"] = [vocabulary, 4];
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: 4,
    num_attention_heads: 2,
    num_hidden_layers: layers,
    vocab_size: vocabulary,
    tie_word_embeddings: tied,
    torch_dtype: "float32",
  };
  return makeCheckpoint(shapes, { ...parts, config: { ...config, ...parts.config } });
}

type DenseParts = { type?: string; layers?: number; inner?: number; more?: Shapes; config?: Record<string, unknown> };

/** A model with all tensors of a llama, or of another dense model like it: hidden 4, two heads. */
export function makeDense({
  type = "llama",
  layers = 2,
  inner = 6,
  more = {},
  config = {},
}: DenseParts = {}): Checkpoint {
  const shapes: Record<string, Shapes[string]> = {
    "model.embed_tokens.weight": [10, 4],
    "model.norm.weight": [4],
    "lm_head.weight": [10, 4],
  };
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `model.layers.${layer}`;
    for (const norm of ["input", "post_attention"]) shapes[`${prefix}.${norm}_layernorm.weight`] = [4];
    for (const part of "qkvo") shapes[`${prefix}.self_attn.${part}_proj.weight`] = [4, 4];
    for (const part of ["gate", "up"]) shapes[`${prefix}.mlp.${part}_proj.weight`] = [inner, 4];
    shapes[`${prefix}.mlp.down_proj.weight`] = [4, inner];
  }
  const own = { model_type: type, hidden_size: 4, intermediate_size: inner, num_attention_heads: 2, vocab_size: 10 };
  return makeCheckpoint({ ...shapes, ...more }, { config: { ...own, num_hidden_layers: layers, ...config } });
}

/** A source as a plan names it. */
export function makeSource(model: string, state: PlanSource["state"] = "foreign"): PlanSource {
  return {
    model,
    store: "memory://models",
    prefix: `${model}/`,
    format: "safetensors",
    fingerprint: `sha256:${"a".repeat(64)}`,
    state,
  };
}

export type Models = Readonly<Record<string, Checkpoint>>;

/** Small documents beside the weights of models, by model and file name. */
export type Documents = Readonly<Record<string, Readonly<Record<string, Uint8Array>>>>;

/** The models that a recipe names, in its order. */
function modelsOf(sources: readonly string[], models: Models, documents: Documents): MergeModel[] {
  return sources.map((model) => {
    const checkpoint = models[model];
    if (checkpoint === undefined) throw new Error(`the test has no model ${model}`);
    return { source: makeSource(model), checkpoint, documents: new Map(Object.entries(documents[model] ?? {})) };
  });
}

/** Parses, normalises and plans a recipe text. */
export function planText(
  text: string,
  models: Models,
  options: MergeOptions = {},
  documents: Documents = {},
): MergePlan {
  return planDocuments(text, models, documents, options).output;
}

/** Plans a recipe of several documents. */
export function planDocuments(text: string, models: Models, documents: Documents = {}, options: MergeOptions = {}) {
  const recipe = normaliseRecipe(readRecipe(new TextEncoder().encode(text), "recipe.yaml"));
  return planRecipe({ name: "test", recipe, text, models: modelsOf(listSources(recipe), models, documents) }, options);
}

/** All output tensors of a plan, by name, in file order. */
export function tensorsOf({ units }: { units: readonly MergeUnit[] }): ReadonlyMap<string, UnitTensor> {
  return new Map(units.flatMap(({ tensors }) => tensors.map((tensor) => [tensor.name, tensor] as const)));
}

/** The output tensor of that name; the test fails when there is none. */
export function tensorOf(plan: MergePlan, name: string): UnitTensor {
  const tensor = tensorsOf(plan).get(name);
  if (tensor === undefined) throw new Error(`the plan has no tensor ${name}`);
  return tensor;
}

/** Parsed config.json of the output. */
export function configOf({ sideFiles }: MergePlan): Record<string, unknown> {
  const file = sideFiles.find(({ name }) => name === "config.json");
  if (file?.from !== "text") throw new Error("the plan writes no config.json");
  const config: Record<string, unknown> = JSON.parse(file.text);
  return config;
}
