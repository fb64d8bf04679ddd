// The output's config.json: the donor's, with what the merge changed. Keys that are not named here stay as they are.
// Source: reference `checkpoint-formats.md` section 1.5.
import type { Checkpoint } from "../checkpoint.ts";
import { stringifyPython } from "../json.ts";
import { FLOAT_NAMES, type FloatDtype, isFloatDtype } from "../ops/cast.ts";
import { elementCount } from "../tensor.ts";
import { LAYER_COUNT_KEYS, TEXT_CONFIG_KEYS, tensorRole } from "./architecture.ts";
import type { LayerOrigin, StackedLayers } from "./output-tensors.ts";
import type { PlannedTensor } from "./plan-tensor.ts";

type Config = NonNullable<Checkpoint["config"]>;

/** What the output's config is made from. */
export type OutputConfigParts = {
  readonly donor: Config;
  /** Replaces `architectures`, when the recipe says so of the donor. */
  readonly architecture: string | undefined;
  readonly tensors: readonly PlannedTensor[];
  /** Stacks of layers that were put together anew, with the donor's number of layers in each. */
  readonly stacks: readonly (StackedLayers & { readonly before: number | undefined })[];
  /** Config of any model of the recipe. */
  readonly configOf: (model: string) => Config | undefined;
  /** What the output's vocabulary calls a token id of the donor. */
  readonly renumber?: ((id: number) => number) | undefined;
  /** True when the head was merged from parents of which one does not tie it to the embedding. */
  readonly untied: boolean;
};

/** The text of config.json. Infinity is written as Python's JSON writes it, since real configs hold it. */
export function writeOutputConfig(parts: OutputConfigParts): string {
  const { donor, tensors, stacks } = parts;
  const { _name_or_path: _name, quantization_config: _quantization, ...kept } = donor;
  const quantized = donor.quantization_config !== undefined && tensors.every(({ method }) => method === "copy");
  const config: Record<string, unknown> = quantized
    ? { ...kept, quantization_config: donor.quantization_config }
    : kept;
  if (parts.architecture !== undefined) config.architectures = [parts.architecture];
  setDtype(config, dominantDtype(tensors));
  if (parts.untied) {
    for (const section of ownSections(config))
      if (section.tie_word_embeddings === true) section.tie_word_embeddings = false;
  }
  setVocabulary(config, tensors);
  for (const stack of stacks) {
    if (stack.isModule) setModuleLayers(config, stack, parts);
    else for (const key of [undefined, ...TEXT_CONFIG_KEYS]) setLayers(config, key, stack.origins, parts);
  }
  if (parts.renumber !== undefined) for (const section of ownSections(config)) setTokenIds(section, parts.renumber);
  return stringifyPython(config);
}

/** The text of a config.json whose weights are all in `dtype` now. */
export function configInDtype(donor: Config, dtype: FloatDtype): string {
  const { quantization_config: _, ...config } = donor;
  setDtype(config, dtype);
  return stringifyPython(config);
}

/** Under the key that the config has; newer ones call it `dtype`. */
function setDtype(config: Record<string, unknown>, dtype: FloatDtype | undefined): void {
  if (dtype === undefined) return;
  config["dtype" in config && !("torch_dtype" in config) ? "dtype" : "torch_dtype"] = FLOAT_NAMES[dtype];
}

/** The float dtype that most elements have. */
function dominantDtype(tensors: readonly PlannedTensor[]): FloatDtype | undefined {
  const elements = new Map<FloatDtype, number>();
  for (const { dtype, shape } of tensors) {
    if (isFloatDtype(dtype)) elements.set(dtype, (elements.get(dtype) ?? 0) + elementCount(shape));
  }
  return [...elements].reduce<[FloatDtype, number] | undefined>(
    (most, one) => (most && most[1] >= one[1] ? most : one),
    undefined,
  )?.[0];
}

/** The config and its language sections, to be changed. */
function ownSections(config: Record<string, unknown>): readonly Record<string, unknown>[] {
  return [config, ...TEXT_CONFIG_KEYS.map((key) => ownSection(config, key)).filter((part) => part !== undefined)];
}

/** `vocab_size` is the rows of the embedding, where the config has one at all. */
function setVocabulary(config: Record<string, unknown>, tensors: readonly PlannedTensor[]): void {
  const section = ownSections(config).find((part) => typeof part.vocab_size === "number");
  const vocabulary = typeof section?.vocab_size === "number" ? section.vocab_size : undefined;
  const embedding = tensors.find((tensor) => tensorRole({ ...tensor, ranges: [] }, vocabulary) === "embedding");
  const rows = embedding?.shape[0];
  if (section !== undefined && rows !== undefined) section.vocab_size = rows;
}

/** Keys of lists that say something of each layer, such as `layer_types`, `layers_block_type`, `no_rope_layers`. */
const LAYER_LIST = /layer|block/;

/** Keys of lists that hold numbers of layers. Source: configs of Bamba, Mllama, LFM2, Qwen's experts and Llama 4. */
const LAYER_NUMBERS: readonly string[] = [
  "attn_layer_indices",
  "cross_attention_layers",
  "full_attn_idxs",
  "mlp_only_layers",
  "moe_layers",
];

/**
 * The number of layers in the config or its section `key`, every list with one item a layer, each item from the config
 * of the layer's own model, and lists of the layers that some are: those whose own model has them there.
 */
function setLayers(
  config: Record<string, unknown>,
  key: string | undefined,
  origins: readonly LayerOrigin[],
  { donor, configOf }: OutputConfigParts,
): void {
  const before = layerCount(sectionOf(donor, key));
  const section = ownSection(config, key);
  if (section === undefined) return;
  for (const name of LAYER_COUNT_KEYS) if (typeof section[name] === "number") section[name] = origins.length;
  for (const [name, value] of Object.entries(section)) {
    if (LAYER_NUMBERS.includes(name) && Array.isArray(value)) {
      section[name] = origins.flatMap(({ model, layer }, index) => {
        const list = sectionOf(configOf(model), key)?.[name];
        return (Array.isArray(list) ? list : value).includes(layer) ? [index] : [];
      });
      continue;
    }
    if (!LAYER_LIST.test(name) || !Array.isArray(value) || value.length !== before) continue;
    section[name] = origins.map(({ model, layer }) => {
      const list = sectionOf(configOf(model), key)?.[name];
      return Array.isArray(list) ? list[layer] : value[layer];
    });
  }
}

/**
 * The same in the one section that describes a module: it counts as many layers as the donor has there, and where
 * several do, its name shares a word with the stack's. Models of an encoder and a decoder count a stack's layers under
 * a key that names it (`decoder_layers`, `num_decoder_layers`); their other counts mean the encoder.
 */
function setModuleLayers(
  config: Record<string, unknown>,
  { prefix, origins, before }: OutputConfigParts["stacks"][number],
  parts: OutputConfigParts,
): void {
  const fitting = [undefined, ...Object.keys(parts.donor)].filter(
    (key) => before !== undefined && layerCount(sectionOf(parts.donor, key)) === before,
  );
  const words = prefix.split(/[._]/);
  const halves = ["encoder", "decoder"].filter((half) => words.includes(half));
  const counts = halves.flatMap((half) => [`${half}_layers`, `num_${half}_layers`]);
  const counted = counts.filter((key) => before !== undefined && parts.donor[key] === before);
  for (const key of counted) config[key] = origins.length;
  if (counted.length > 0 && !halves.includes("encoder")) return;
  const named = fitting.filter((key) => key?.split("_").some((word) => word !== "config" && words.includes(word)));
  const text = fitting.filter((key) => key === undefined || TEXT_CONFIG_KEYS.some((known) => known === key));
  const [chosen] = named.length > 0 ? named : fitting.length > 1 ? text : fitting;
  if (fitting.length > 0) setLayers(config, chosen, origins, parts);
}

function layerCount(section: Config | undefined): number | undefined {
  return LAYER_COUNT_KEYS.map((key) => section?.[key]).find((value) => typeof value === "number");
}

/** The config itself, or its section under a key. */
function sectionOf(config: Config | undefined, key: string | undefined): Config | undefined {
  const section = key === undefined ? config : config?.[key];
  if (typeof section !== "object" || section === null || Array.isArray(section)) return undefined;
  return { ...section };
}

/** The same, to be changed: a nested section is copied first, since it is the donor's. */
function ownSection(config: Record<string, unknown>, key: string | undefined): Record<string, unknown> | undefined {
  if (key === undefined) return config;
  const section = sectionOf(config, key);
  if (section === undefined) return undefined;
  const own: Record<string, unknown> = { ...section };
  config[key] = own;
  return own;
}

/** Every id under a key such as `eos_token_id`, or in a list under one, as the output's vocabulary numbers it. */
export function setTokenIds(config: Record<string, unknown>, renumber: (id: number) => number): void {
  const map = (id: unknown): unknown =>
    typeof id === "number" && id >= 0 ? renumber(id) : Array.isArray(id) ? id.map(map) : id;
  for (const [key, value] of Object.entries(config)) if (/(?:^|_)token_id$/.test(key)) config[key] = map(value);
}
