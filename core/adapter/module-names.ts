// Names that modules have in checkpoints, and those that transformers gives them: adapters trained under it have these.
// Source: transformers 5.18, conversion_mapping.py.

/** What transformers 5 made of names, turned round; a name has at most one of each that a checkpoint has too. */
const OLDER: readonly (readonly [RegExp, string])[] = [
  [/^lm_head\./, "embed_out."], // GPT-NeoX
  [/\.mlp\.router\./, ".block_sparse_moe.gate."], // PhiMoE
  [/\.mlp\./, ".block_sparse_moe."], // Mixtral, MiniMax
  [/\.block_sparse_moe\.router\./, ".block_sparse_moe.router.layer."], // GraniteMoE
  [/^model\.language_model\./, "language_model.model."], // LLaVA and its kin
  [/^model\.language_model\./, "model."], // Qwen2-VL
  [/^model\./, "backbone."], // Nemotron-H
];

/** The names that a tensor, or a module with a dot behind it, may have in a checkpoint instead. */
export function olderNames(name: string): readonly string[] {
  return OLDER.map(([newer, older]) => name.replace(newer, older)).filter((older) => older !== name);
}

/** Models of a language model inside, and towers beside it. */
const LLAVA = [
  "AriaForConditionalGeneration",
  "AyaVisionForConditionalGeneration",
  "FuyuForCausalLM",
  "Gemma3ForConditionalGeneration",
  "GotOcr2ForConditionalGeneration",
  "InternVLForConditionalGeneration",
  "LlavaForConditionalGeneration",
  "LlavaNextForConditionalGeneration",
  "LlavaNextVideoForConditionalGeneration",
  "LlavaOnevisionForConditionalGeneration",
  "Mistral3ForConditionalGeneration",
  "MllamaForConditionalGeneration",
  "PaliGemmaForConditionalGeneration",
  "VideoLlavaForConditionalGeneration",
  "VipLlavaForConditionalGeneration",
];
const QWEN = ["Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"];

type Rules = readonly (readonly [RegExp, string])[];

const LLAVA_RULES: Rules = [
  [/^language_model\.lm_head(?=\.|$)/, "lm_head"],
  [/^language_model\.(?:model\.)?/, "model.language_model."],
  [/^(?:vision|image|video)_(?:tower|model|embed_tokens)(?=\.|$)|^multi_modal_projector(?=\.|$)/, "model.$&"],
];
const QWEN_RULES: Rules = [
  [/^visual(?=\.|$)/, "model.visual"],
  [/^model\.(?!language_model\.|visual\.)/, "model.language_model."],
];
/** Checkpoints of a model without its head, whose names lack the part that a model with a head has in front. */
const HEADLESS: readonly (readonly [architecture: string, Rules])[] = [
  ["BloomForCausalLM", [[/^(?:word_embeddings(?:_layernorm)?|h|ln_f)(?=\.|$)/, "transformer.$&"]]],
  ["GPT2LMHeadModel", [[/^(?:wte|wpe|h|ln_f)(?=\.|$)/, "transformer.$&"]]],
  ["OPTForCausalLM", [[/^decoder\./, "model.decoder."]]],
];
const NEWER: ReadonlyMap<unknown, Rules> = new Map([
  ...HEADLESS,
  ...LLAVA.map((architecture) => [architecture, LLAVA_RULES] as const),
  ...QWEN.map((architecture) => [architecture, QWEN_RULES] as const),
]);

/**
 * What transformers calls a module or tensor where checkpoints do not: of models of several inputs since 4.52, 5
 * included, and of models that are published without their head's part. PEFT finds no other names.
 */
export function newerName(architecture: unknown, name: string): string {
  const rule = NEWER.get(architecture)?.find(([older]) => older.test(name));
  return rule === undefined ? name : name.replace(rule[0], rule[1]);
}
