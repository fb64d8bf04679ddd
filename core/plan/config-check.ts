// Whether the parents of a merge are of one build, by their configs. Shapes would often tell too, but not always (heads
// can be cut in several ways from one matrix), and never as clearly.
import type { Checkpoint } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import { LAYER_COUNT_KEYS } from "./architecture.ts";
import type { Notes } from "./notes.ts";

/** Values that decide what the weights mean. A key that one of two configs lacks is not compared. */
const BUILD_KEYS = [
  "model_type",
  "architectures",
  "hidden_size",
  "n_embd",
  "d_model",
  "num_attention_heads",
  "n_head",
  "num_heads",
  "num_key_value_heads",
  "head_dim",
  "num_local_experts",
  "num_experts",
  "n_routed_experts",
] as const;

/** Values that differ between parents that can be merged, but change what the result computes: worth a warning. */
const BEHAVIOUR_KEYS = ["rope_theta", "hidden_act", "rms_norm_eps", "layer_norm_eps", "sliding_window"] as const;

export type NamedConfig = { readonly model: string; readonly config: NonNullable<Checkpoint["config"]> };

/**
 * Compares every config with the first. Throws PlanConfigMismatch unless the recipe names a `config_source`; then, and
 * for values that only change behaviour, warns.
 */
export function checkConfigs(recipe: Recipe, configs: readonly NamedConfig[], notes: Notes): void {
  const [first, ...others] = configs;
  if (first === undefined) return;
  const build = recipe.restacks ? BUILD_KEYS : [...BUILD_KEYS, ...LAYER_COUNT_KEYS];
  for (const other of others) {
    const differing = build.find((key) => differs(first, other, key));
    if (differing !== undefined && recipe.configSource === undefined) {
      throw mismatch(recipe, first, other, differing);
    }
    for (const key of [...build, ...BEHAVIOUR_KEYS]) {
      if (differs(first, other, key)) notes.add(`${key} differs between ${first.model} and ${other.model}`);
    }
  }
}

/**
 * Quantized parents can only be copied: their numbers mean nothing without their scales. Throws PlanDtypeNotMergeable.
 */
export function checkQuantization(recipe: Recipe, configs: readonly NamedConfig[]): void {
  const quantized = configs.find(({ config }) => config.quantization_config != null);
  if (quantized === undefined) return;
  const { quantization_config: how } = quantized.config;
  const method =
    typeof how === "object" && how !== null && "quant_method" in how ? String(how.quant_method) : "unnamed";
  throw new MergeyardError("PlanDtypeNotMergeable", {
    where: {
      ...fieldPlace(recipe.origin, fieldOf(recipe, quantized.model)),
      model: quantized.model,
      file: "config.json",
    },
    found: `quantization_config (${method})`,
    expected: "F32, F16, BF16 or F64 weights",
    hint: "merge the models that it was quantized from",
  });
}

function fieldOf(recipe: Recipe, model: string) {
  return recipe.slices.flatMap(({ sources }) => sources).find((source) => source.model === model)?.field ?? [];
}

function differs(first: NamedConfig, other: NamedConfig, key: string): boolean {
  const [a, b] = [first.config[key], other.config[key]];
  return a != null && b != null && JSON.stringify(a) !== JSON.stringify(b);
}

function mismatch(recipe: Recipe, first: NamedConfig, other: NamedConfig, key: string): MergeyardError {
  return new MergeyardError("PlanConfigMismatch", {
    where: { ...fieldPlace(recipe.origin, fieldOf(recipe, other.model)), model: other.model, file: "config.json" },
    found: `${key} ${JSON.stringify(other.config[key])}`,
    expected: `${JSON.stringify(first.config[key])}, as in ${first.model}`,
    hint: "merge models of one build, or write `config_source` with the parent whose config describes the result",
  });
}
