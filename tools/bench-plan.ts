// Plans a merge of three synthetic models of Llama 3.1 405B's build, from headers made in memory, and prints what it
// takes. Nothing is read from disk: this measures the planner alone, plan file included.
// Run: node tools/bench-plan.ts [--models N] [--layers N]
import { parseArgs } from "node:util";
import type { Checkpoint, TensorEntry } from "../core/checkpoint.ts";
import { planPipeline } from "../core/plan/plan-pipeline.ts";
import { normaliseRecipe } from "../core/recipe/normalise.ts";
import { elementCount, type Shape } from "../core/tensor.ts";
import { readRecipe } from "../steps/read-recipe.ts";
import { llamaLayers } from "./bench/llama-layers.ts";

/** Sizes of Llama 3.1. Source: the models' published configs. */
export const BUILDS = Object.freeze({
  "8B": { layers: 32, hidden: 4096, inner: 14_336, keys: 1024, heads: 32 },
  "70B": { layers: 80, hidden: 8192, inner: 28_672, keys: 1024, heads: 64 },
  "405B": { layers: 126, hidden: 16_384, inner: 53_248, keys: 1024, heads: 128 },
});
type Build = (typeof BUILDS)[keyof typeof BUILDS];
const VOCABULARY = 128_256;
/** Bytes of one file, as published. */
const FILE_BYTES = 4.25e9;

/** Headers of a model of a build in BF16. */
function syntheticModel(build: Build): Checkpoint {
  const { layers, hidden, inner, heads } = build;
  const vocabulary = VOCABULARY;
  const shapes = [
    ["model.embed_tokens.weight", [vocabulary, hidden]],
    ...llamaLayers(build),
    ["model.norm.weight", [hidden]],
    ["lm_head.weight", [vocabulary, hidden]],
  ] as const;
  return {
    format: "safetensors",
    ...placeTensors(shapes),
    sideFiles: [{ name: "config.json", bytes: 800 }],
    metadata: new Map([["format", "pt"]]),
    config: {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: hidden,
      intermediate_size: inner,
      num_attention_heads: heads,
      num_hidden_layers: layers,
      num_key_value_heads: 8,
      tie_word_embeddings: false,
      torch_dtype: "bfloat16",
      vocab_size: vocabulary,
    },
  };
}

function placeTensors(shapes: readonly (readonly [string, Shape])[]): Pick<Checkpoint, "tensors" | "tensorFiles"> {
  const tensors: TensorEntry[] = [];
  const sizes: number[] = [];
  for (const [name, shape] of shapes) {
    const bytes = 2 * elementCount(shape);
    const last = sizes.at(-1);
    if (last === undefined || last + bytes > FILE_BYTES) sizes.push(4096);
    const index = sizes.length - 1;
    const offset = sizes[index] ?? 0;
    const file = `model-${String(index + 1).padStart(5, "0")}.safetensors`;
    tensors.push({ name, dtype: "BF16", shape, ranges: [{ file, offset, bytes }] });
    sizes[index] = offset + bytes;
  }
  const files = sizes.map((bytes, index) => ({
    name: `model-${String(index + 1).padStart(5, "0")}.safetensors`,
    bytes,
  }));
  return { tensors, tensorFiles: files };
}

export type SyntheticOptions = {
  readonly build?: Build;
  /** Bytes of tensors in one output file. */
  readonly shardBytes?: number;
  /** False: every source still has to be adopted. */
  readonly adopted?: boolean;
};

/** Plans a task arithmetic merge of `count` models of a build (405B unless said), the first the base. */
export function planSynthetic(count: number, options: SyntheticOptions = {}) {
  const { build = BUILDS["405B"], shardBytes, adopted = false } = options;
  const names = Array.from({ length: count }, (_, index) => (index === 0 ? "base" : `tune-${index}`));
  const models = names.slice(1).map((name) => `  - model: ${name}\n    parameters: {weight: [0.2, 0.5, 0.8]}\n`);
  const text = `merge_method: task_arithmetic\nbase_model: base\ndtype: bfloat16\nmodels:\n${models.join("")}`;
  const parsed = readRecipe(new TextEncoder().encode(text), "synthetic.yaml");
  const recipe = normaliseRecipe(parsed);
  const checkpoints = new Map(names.map((name) => [name, syntheticModel(build)]));
  const yard = "memory://synthetic";
  const source = (model: string) => ({
    model,
    store: yard,
    prefix: adopted ? `checkpoints/${model}/1/` : `incoming/${model}/1/`,
    format: "safetensors",
    fingerprint: `sha256:${"0".repeat(64)}`,
    state: adopted ? ("adopted" as const) : ("pending" as const),
  });
  const pipelineModels = recipe.sources.map((model) => ({
    source: source(model),
    checkpoint: checkpoints.get(model) ?? syntheticModel(build),
    checkpointName: model,
  }));
  return planPipeline({ parsed, recipe, models: pipelineModels, yard }, { shardBytes });
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      models: { type: "string", default: "3" },
      layers: { type: "string", default: String(BUILDS["405B"].layers) },
    },
  });
  const started = performance.now();
  const plan = planSynthetic(Number(values.models), { build: { ...BUILDS["405B"], layers: Number(values.layers) } });
  const planned = performance.now();
  const lines = [plan.header, ...plan.units].map((line) => `${JSON.stringify(line)}\n`);
  const written = performance.now();
  const tensors = plan.units.reduce((sum, unit) => sum + (unit.op === "merge" ? unit.tensors.length : 0), 0);
  console.log(`${tensors} tensors, ${plan.units.length} units in ${plan.header.stages.length} stages`);
  console.log(
    `planned in ${((planned - started) / 1000).toFixed(2)} s, encoded in ${((written - planned) / 1000).toFixed(2)} s`,
  );
  console.log(`plan file ${(lines.reduce((sum, line) => sum + line.length, 0) / 1e6).toFixed(1)} MB`);
  console.log(`peak RSS ${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`);
}
