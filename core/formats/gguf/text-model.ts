// The text model inside of one that also sees images: its config, and its tensors' names as a text model has them. GGUF
// files hold the text model; what looks at images is another file's to readers.
// Source: llama.cpp v0.5.0, conversion/base.py, gemma.py and mistral3.py.
import { isJsonObject } from "../../json.ts";
import { GGUF_FAMILIES } from "./families.ts";
import type { GgufFamily } from "./names.ts";

type Config = Readonly<Record<string, unknown>>;

/** By the `model_type` of the whole: the architecture of its text model's file. */
const WHOLES: Readonly<Record<string, string>> = { gemma3: "gemma3", mistral3: "mistral3" };

/** The family of a model, or of the text model inside of it. */
export function findFamily(config: Config | undefined): GgufFamily | undefined {
  const inner = config?.text_config;
  const whole = isJsonObject(inner) ? WHOLES[String(config?.model_type)] : undefined;
  const modelType = whole === undefined || !isJsonObject(inner) ? config?.model_type : inner.model_type;
  return GGUF_FAMILIES.find(
    (family) => family.modelType === modelType && (whole === undefined || family.architecture === whole),
  );
}

/** The text model's config; special ids, and whether the embedding is the output, are the whole's where it says so. */
export function textConfigOf(config: Config | undefined): Config | undefined {
  const inner = config?.text_config;
  if (config === undefined || !isJsonObject(inner) || WHOLES[String(config.model_type)] === undefined) return config;
  const isWhole = (field: string) => field === "tie_word_embeddings" || field.endsWith("_token_id");
  const own = Object.entries(config).filter(([field, value]) => isWhole(field) && value != null);
  return { ...config, ...inner, ...Object.fromEntries(own) };
}

/** A tensor's name in a text model; undefined for what is none of it. */
export function textNameOf(name: string, config: Config | undefined): string | undefined {
  if (WHOLES[String(config?.model_type)] === undefined) return name;
  const [, rest] = /^(?:language_model\.model|model\.language_model)\.(.+)$/.exec(name) ?? [];
  if (rest !== undefined) return `model.${rest}`;
  return name.endsWith("lm_head.weight") ? "lm_head.weight" : undefined;
}
