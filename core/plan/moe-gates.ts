// Gates from hidden states: the stage before the experts that runs the base on their prompts, one tensor that is all
// routers of all layers. Which tokens and weights that takes is decided here; the pass is core/moe/forward.ts.
import * as z from "zod";
import { MergeyardError } from "../error.ts";
import { isJsonObject } from "../json.ts";
import { moe_gates } from "../methods/moe_gates.ts";
import { denseConfig } from "../moe/architectures.ts";
import { type ForwardSizes, layerParts } from "../moe/forward.ts";
import { isFloatDtype } from "../ops/cast.ts";
import { parseAs } from "../parse-as.ts";
import type { MoeExpert } from "../recipe/moe.ts";
import { fieldPlace } from "../recipe/origin.ts";
import { sameShape } from "../tensor.ts";
import { createTokens } from "./moe-prompts.ts";
import { type BaseTask, EMBEDDING, inputOf, layerNames, needTensor, STACK } from "./moe-task.ts";
import type { PlannedTensor } from "./plan-tensor.ts";
import type { RowGather } from "./schema.ts";

/** Name of the tensor, [layers * experts, hidden]: experts in the order of `gatedExperts`, layer by layer. */
export const GATES = "gates";

/** Experts whose gates are made of prompts. */
export function gatedExperts({ moe }: BaseTask): readonly MoeExpert[] {
  return [...moe.experts, ...moe.shared.filter(({ positive }) => positive.length > 0)];
}

const count = z.int().positive();
const configSchema = z.looseObject({
  num_attention_heads: count,
  head_dim: count.nullish(),
  rms_norm_eps: z.number().positive(),
  hidden_act: z.literal("silu").nullish(),
  rope_theta: z.number().positive().nullish(),
  rope_parameters: z.looseObject({ rope_theta: z.number().positive().nullish() }).nullish(),
  rope_scaling: z.looseObject({}).nullish(),
  sliding_window: count.nullish(),
  use_sliding_window: z.boolean().nullish(),
});
type DenseConfig = z.output<typeof configSchema>;

/**
 * Throws what createTokens throws, PlanTensorMissing, PlanShapeMismatch, PlanDtypeNotMergeable, and RecipeNotSupported
 * for other models.
 */
export function planGates(task: BaseTask): PlannedTensor {
  const { moe, layers } = task;
  const tokensOf = createTokens(task);
  const experts = gatedExperts(task);
  const prompts = experts.map((expert) =>
    [expert.positive, expert.negative].map((texts) => texts.map((text) => tokensOf(text, expert))),
  );
  const tokens = prompts.flat(3);
  const lengths = prompts.map((lists) => lists.map((list) => list.map((ids) => ids.length)));
  if (lengths.flat(2).includes(0)) throw unsupported(task, "a prompt of no tokens", "prompts that have tokens");
  const layer = (part: string): string => `${STACK}0.${part}`;
  const has = (part: string): boolean => task.base.tensors.has(layer(part));
  const parts = { biased: has("self_attn.q_proj.bias"), normed: has("self_attn.q_norm.weight") };
  const own = sizesOf(task);
  const sizes = { ...own, layers, tokens: tokens.length };
  // What comes after the last layer is not asked for.
  const names = layerNames(layers - 1, layerParts(parts));
  checkTensors(task, names, own);
  const { epsilon, frequencies } = rotationOf(task, sizes.headSize, Math.max(...lengths.flat(2)));
  return {
    name: GATES,
    dtype: "F32",
    shape: [layers * experts.length, sizes.hidden],
    method: moe_gates.id,
    parameters: {
      ...{ ...sizes, ...parts, epsilon, average: moe.gateMode === "hidden_avg" },
      ...{ prompts: JSON.stringify(lengths), frequencies: JSON.stringify(frequencies) },
    },
    seed: 0,
    inputs: [inputOf(task, EMBEDDING, tokenRows(task, tokens)), ...names.map((name) => inputOf(task, name))],
  };
}

/** Rows of the embedding, one for each token. */
function tokenRows(task: BaseTask, tokens: readonly number[]): RowGather {
  const { dtype } = needTensor(task.recipe, task.moe.base, task.base, EMBEDDING);
  return { dtype, others: [], means: [], runs: tokens.map((token) => [0, token, 1]) };
}

/** Sizes by the config and the first layer's shapes. */
function sizesOf(task: BaseTask): Omit<ForwardSizes, "layers" | "tokens"> {
  const { recipe, moe, base } = task;
  const rowsOf = (part: string): number => needTensor(recipe, moe.base, base, `${STACK}0.${part}.weight`).shape[0] ?? 0;
  const [query, key, inner] = [rowsOf("self_attn.q_proj"), rowsOf("self_attn.k_proj"), rowsOf("mlp.gate_proj")];
  const [, hidden = 0] = needTensor(recipe, moe.base, base, EMBEDDING).shape;
  const { num_attention_heads: heads, head_dim: said } = readConfig(task);
  const headSize = said ?? query / heads;
  const keyHeads = key / headSize;
  if (headSize % 2 !== 0 || !Number.isInteger(keyHeads) || heads % keyHeads !== 0) {
    throw unsupported(task, `${heads} heads of ${headSize}, keys of ${key}`, "whole heads of an even size");
  }
  return { hidden, inner, heads, keyHeads, headSize };
}

/** The tensors that are read must have the sizes that are told of them. */
function checkTensors(
  { recipe, moe, base }: BaseTask,
  names: readonly string[],
  { hidden, inner, heads, keyHeads, headSize }: Omit<ForwardSizes, "layers" | "tokens">,
): void {
  const [query, key] = [heads * headSize, keyHeads * headSize];
  const expected: Readonly<Record<string, readonly number[]>> = {
    "input_layernorm.weight": [hidden],
    "self_attn.q_proj.weight": [query, hidden],
    "self_attn.q_proj.bias": [query],
    "self_attn.q_norm.weight": [headSize],
    "self_attn.k_proj.weight": [key, hidden],
    "self_attn.k_proj.bias": [key],
    "self_attn.k_norm.weight": [headSize],
    "self_attn.v_proj.weight": [key, hidden],
    "self_attn.v_proj.bias": [key],
    "self_attn.o_proj.weight": [hidden, query],
    "post_attention_layernorm.weight": [hidden],
    "mlp.gate_proj.weight": [inner, hidden],
    "mlp.up_proj.weight": [inner, hidden],
    "mlp.down_proj.weight": [hidden, inner],
  };
  for (const name of [EMBEDDING, ...names]) {
    const { dtype, shape } = needTensor(recipe, moe.base, base, name);
    const where = { ...fieldPlace(recipe.origin, moe.base.field), model: base.reference.model, tensor: name };
    const wanted = expected[name.replace(/^model\.layers\.\d+\./, "")] ?? shape;
    if (!sameShape(shape, wanted)) {
      throw new MergeyardError("PlanShapeMismatch", {
        where,
        found: `[${shape.join(", ")}]`,
        expected: `[${wanted.join(", ")}], by config.json and the first layer`,
      });
    }
    if (isFloatDtype(dtype)) continue;
    throw new MergeyardError("PlanDtypeNotMergeable", {
      where,
      found: dtype,
      expected: "F32, F16, BF16 or F64 weights of a model that is run",
    });
  }
}

/** Frequencies of rotary positions; and that nothing of a prompt is out of sight. */
function rotationOf(task: BaseTask, headSize: number, longest: number) {
  const config = readConfig(task);
  const { sliding_window: window, use_sliding_window: slides, rms_norm_eps: epsilon } = config;
  if (window != null && slides !== false && longest > window) {
    throw unsupported(task, `a prompt of ${longest} tokens, a sliding window of ${window}`, "shorter prompts");
  }
  const theta = config.rope_theta ?? config.rope_parameters?.rope_theta ?? 10_000;
  const plain = Array.from({ length: headSize / 2 }, (_, i) => theta ** ((-2 * i) / headSize));
  return { epsilon, frequencies: plain.map(scalingOf(task, config)) };
}

const llama3Schema = z.looseObject({
  factor: z.number().positive(),
  low_freq_factor: z.number().positive(),
  high_freq_factor: z.number().positive(),
  original_max_position_embeddings: count,
});

/** What becomes of each frequency. Source: transformers' modeling_rope_utils.py. */
function scalingOf(task: BaseTask, config: DenseConfig): (frequency: number) => number {
  const scaling = config.rope_scaling ?? config.rope_parameters ?? {};
  const kind = String(scaling.rope_type ?? scaling.type ?? "default");
  const { factor } = scaling;
  if (kind === "default") return (frequency) => frequency;
  if (kind === "linear" && typeof factor === "number" && factor > 0) return (frequency) => frequency / factor;
  const known = llama3Schema.safeParse(scaling);
  if (kind !== "llama3" || !known.success) {
    throw unsupported(task, `rotary positions scaled by ${kind}`, "default, linear or llama3, with their numbers");
  }
  const { factor: by, low_freq_factor: low, high_freq_factor: high } = known.data;
  return (frequency) => {
    // Waves of the first context length: short ones stay, long ones are stretched, those between in between.
    const waves = (known.data.original_max_position_embeddings * frequency) / (2 * Math.PI);
    const share = Math.min(1, Math.max(0, (waves - low) / (high - low)));
    return frequency * (share + (1 - share) / by);
  };
}

function readConfig(task: BaseTask): DenseConfig {
  const { config } = task.base.own.model.checkpoint;
  const dense = isJsonObject(config) ? denseConfig(config) : {};
  return parseAs(configSchema, dense, (field, found) =>
    unsupported(task, `config.json of the base: ${field}: ${found}`, "the config of a Llama-like model"),
  );
}

function unsupported({ recipe, base }: BaseTask, found: string, expected: string): MergeyardError {
  const where = { ...fieldPlace(recipe.origin, ["gate_mode"]), model: base.reference.model };
  const hint = "gate_mode: cheap_embed needs only embeddings, random nothing";
  return new MergeyardError("RecipeNotSupported", { where, found, expected, hint });
}
