// A LoRA adapter as PEFT saves it: what its config says, and what each of its tensors is to the model. Nothing here
// knows the model's tensors; core/plan/adapter.ts matches the two.
// Source: peft at 5d602fdb, LoraConfig and the state dict that save_pretrained writes; reference section 12.
import * as z from "zod";
import { type ErrorPlace, MergeyardError } from "../error.ts";
import { parseAs } from "../parse-as.ts";
import { compilePattern } from "../universal/name-pattern.ts";

const patternValues = z.record(z.string(), z.number().positive());

/** Fields that decide the weights. Others (dropout, task, target modules) only matter while training. */
const configSchema = z.looseObject({
  peft_type: z.string(),
  r: z.int().positive(),
  lora_alpha: z.number(),
  use_rslora: z.boolean().nullish(),
  fan_in_fan_out: z.boolean().nullish(),
  rank_pattern: patternValues.nullish(),
  alpha_pattern: patternValues.nullish(),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
});

export type AdapterConfig = {
  /** True when the config says that weights are stored `[in, out]`, as GPT-2's are. */
  readonly storesInputFirst: boolean;
  /** True when it has factors of parameters, such as stacks of experts, too. */
  readonly targetsParameters: boolean;
  /** Rank and scale of the adapter on a module; `rank` is that of the stored tensors. */
  scaleOf(module: string, rank: number): { readonly expectedRank: number; readonly scale: number };
};

/** Kinds of adapter that change more than `W + scale B A`, by the field that asks for them. */
const UNSUPPORTED: readonly (readonly [field: string, what: string])[] = Object.freeze([
  ["use_dora", "DoRA, which rescales every row of the merged weight"],
  ["use_qalora", "QA-LoRA, which pools its inputs"],
  ["layer_replication", "an adapter on replicated layers"],
  ["alora_invocation_tokens", "an activated LoRA, which works on some tokens only"],
  ["trainable_token_indices", "an adapter with trained tokens"],
  ["use_bdlora", "an adapter of block-diagonal factors"],
  ["kasa_config", "KaSA, which cuts the model's own weights"],
  ["arrow_config", "a router among adapters"],
]);

/** Ways to start training that leave the model's weights as they are; others take what A B starts from out of them. */
const PLAIN_INITS: readonly unknown[] = [true, false, "gaussian", "eva", "mica", "orthogonal", null, undefined];

/** Reads adapter_config.json. Throws PlanAdapterInvalid, PlanAdapterNotSupported. */
export function readAdapterConfig(document: unknown, where: ErrorPlace): AdapterConfig {
  const config = parseAs(
    configSchema,
    document,
    (field, found) => new MergeyardError("PlanAdapterInvalid", { where: { ...where, field }, found }),
  );
  refuseKinds(config, where);
  const ranks = compilePatterns(config.rank_pattern ?? {}, { ...where, field: "rank_pattern" });
  const alphas = compilePatterns(config.alpha_pattern ?? {}, { ...where, field: "alpha_pattern" });
  return {
    storesInputFirst: config.fan_in_fan_out === true,
    targetsParameters: isAsked(config.target_parameters),
    scaleOf(module, rank) {
      const alpha = alphas(module) ?? config.lora_alpha;
      const divisor = config.use_rslora === true ? Math.sqrt(rank) : rank;
      return { expectedRank: ranks(module) ?? config.r, scale: alpha / divisor };
    },
  };
}

function refuseKinds(config: z.output<typeof configSchema>, where: ErrorPlace): void {
  const refuse = (field: string, found: string): never => {
    throw new MergeyardError("PlanAdapterNotSupported", { where: { ...where, field }, found, expected: "a LoRA" });
  };
  if (config.peft_type !== "LORA") refuse("peft_type", config.peft_type);
  const kind = UNSUPPORTED.find(([field]) => isAsked(config[field]));
  if (kind !== undefined) refuse(...kind);
  const init = config.init_lora_weights;
  if (!PLAIN_INITS.includes(init))
    refuse("init_lora_weights", `${String(init)}, which changes the model's own weights`);
}

function isAsked(value: unknown): boolean {
  if (value == null || value === false) return false;
  return !(typeof value === "object" && Object.keys(value).length === 0);
}

/**
 * The value of the first pattern that is a module's name or the end of it. Patterns are regular expressions in Python's
 * spelling. Source: peft's get_pattern_key.
 */
function compilePatterns(
  values: Readonly<Record<string, number>>,
  where: ErrorPlace,
): (module: string) => number | undefined {
  const patterns = Object.entries(values).map(([key, value]) => {
    try {
      return { pattern: compilePattern(`(?:.*\\.)?(?:${key})$`), value };
    } catch (cause) {
      if (!(cause instanceof MergeyardError)) throw cause;
      throw new MergeyardError("PlanAdapterInvalid", { where, found: key, expected: cause.expected, cause });
    }
  });
  return (module) => patterns.find(({ pattern }) => pattern.matches(module))?.value;
}

/** What a tensor of the adapter is: a factor of a module's update, the update of its bias, or a tensor of the model. */
export type AdapterPart =
  | { readonly kind: "factor"; readonly module: string; readonly side: "A" | "B"; readonly isEmbedding: boolean }
  | { readonly kind: "bias"; readonly module: string }
  | { readonly kind: "whole"; readonly name: string };

/** The part that a tensor is by its name. Throws PlanAdapterNotSupported for parts of other kinds of adapter. */
export function readAdapterPart(name: string, where: ErrorPlace): AdapterPart {
  const own = name.replace(/^base_model\.model\./, "");
  const [, module = "", side, kind] = /^(.+)\.lora_([AB])(?:\.[^.]+)??\.(weight|bias)$/.exec(own) ?? [];
  if (side === "A" || side === "B") {
    if (kind === "weight") return { kind: "factor", module, side, isEmbedding: false };
    if (side === "B") return { kind: "bias", module };
  }
  const [, embedding = "", half] = /^(.+)\.lora_embedding_([AB])(?:\.[^.]+)?$/.exec(own) ?? [];
  if (half === "A" || half === "B") return { kind: "factor", module: embedding, side: half, isEmbedding: true };
  if (/\.(?:lora_|token_adapter\.)/.test(own)) {
    throw new MergeyardError("PlanAdapterNotSupported", {
      where: { ...where, tensor: name },
      found: own.includes("magnitude") ? "DoRA" : "a part of an adapter that is not known",
      expected: "lora_A, lora_B, lora_embedding_A, lora_embedding_B, or tensors of the model",
    });
  }
  return { kind: "whole", name: own.replace(/\.(?:modules_to_save(?:\.[^.]+)?|base_layer)(?=\.[^.]+$)/, "") };
}
