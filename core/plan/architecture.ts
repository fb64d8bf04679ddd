// What a checkpoint's tensor names and config say of its build: layers, embeddings, heads. There is no file per
// architecture: names with `.<number>.` are layers, and embeddings are known by their names, shapes and vocabulary.
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import { isJsonObject } from "../json.ts";

/** A tensor of a layer: `prefix` ends before the number, `suffix` starts after it, dots included. */
export type LayerName = { readonly prefix: string; readonly layer: number; readonly suffix: string };

/** Digits that a layer number may have; longer ones are part of a name. */
const LAYER_PATTERN = /^((?:.*?\.)?)(\d{1,6})(\..+)$/;

/**
 * The layer that a tensor belongs to: its first part that is a number. `model.layers.3.mlp.experts.7.w1.weight` is in
 * layer 3 of the stack `model.layers.`. Undefined for tensors outside layers.
 */
export function parseLayerName(name: string): LayerName | undefined {
  const [, prefix, layer, suffix] = LAYER_PATTERN.exec(name) ?? [];
  if (prefix === undefined || layer === undefined || suffix === undefined) return undefined;
  // `007` would be written back as `7`: such a number is no layer.
  return String(Number(layer)) === layer ? { prefix, layer: Number(layer), suffix } : undefined;
}

/** embedding: one row for each token on the way in; head: one row for each token on the way out. */
export type TensorRole = "embedding" | "head" | undefined;

export type Architecture = {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** Layers of each stack of equal layers (highest number plus one), by prefix, in the order of first mention. */
  readonly stacks: ReadonlyMap<string, number>;
  /** The stack that layer ranges mean: the only one, or the only one as long as the config says. */
  readonly mainStack: string | undefined;
  /** Rows of the vocabulary by the config. */
  readonly vocabulary: number | undefined;
  /** False when the config says that input and output embeddings are two tensors. */
  readonly maybeTied: boolean;
};

/** Models of a recipe, by the names that it has for them. */
export type ModelsByName = ReadonlyMap<string, Architecture>;

/** Config keys of the number of layers, in the order they are tried. Source: configs of transformers' model classes. */
export const LAYER_COUNT_KEYS = ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"] as const;

/** Parts of a config that describe the language model of a model of several parts. */
export const TEXT_CONFIG_KEYS = ["text_config", "language_config", "llm_config", "decoder"] as const;

/** Reads names and config; costs one pass over the tensors. */
export function describeArchitecture(checkpoint: Checkpoint): Architecture {
  const stacks = listStacks(checkpoint.tensors);
  const counts = configNumbers(checkpoint.config, LAYER_COUNT_KEYS);
  return {
    tensors: new Map(checkpoint.tensors.map((entry) => [entry.name, entry])),
    stacks,
    mainStack: findMainStack(stacks, counts),
    vocabulary: configNumbers(checkpoint.config, ["vocab_size"])[0],
    maybeTied: !configSections(checkpoint.config).some((section) => section.tie_word_embeddings === false),
  };
}

/** The part of a model that `belongs` tells: what is only its stack of layers there is its main one. */
export function narrowArchitecture(model: Architecture, belongs: (entry: TensorEntry) => boolean): Architecture {
  const tensors = [...model.tensors.values()].filter(belongs);
  const stacks = listStacks(tensors);
  const whole = model.mainStack !== undefined && stacks.has(model.mainStack) ? model.mainStack : undefined;
  return {
    ...model,
    tensors: new Map(tensors.map((entry) => [entry.name, entry])),
    stacks,
    mainStack: findMainStack(stacks, []) ?? whole,
  };
}

function listStacks(tensors: readonly TensorEntry[]): ReadonlyMap<string, number> {
  const stacks = new Map<string, number>();
  for (const { name } of tensors) {
    const place = parseLayerName(name);
    if (place !== undefined) stacks.set(place.prefix, Math.max(stacks.get(place.prefix) ?? 0, place.layer + 1));
  }
  return stacks;
}

/** The only stack, else the only one of one of these lengths. */
function findMainStack(stacks: ReadonlyMap<string, number>, counts: readonly number[]): string | undefined {
  const fitting = [...stacks].filter(([, layers]) => counts.includes(layers));
  const candidates = stacks.size === 1 ? [...stacks] : fitting;
  return candidates.length === 1 ? candidates[0]?.[0] : undefined;
}

/** Numbers under any of `keys`, first of the config itself, then of the config of its language part. */
function configNumbers(config: Checkpoint["config"], keys: readonly string[]): readonly number[] {
  return configSections(config).flatMap((section) =>
    keys.map((key) => section[key]).filter((value) => typeof value === "number"),
  );
}

/** The config, and the sub-configs of its language part, as objects. */
export function configSections(config: Checkpoint["config"]): readonly Readonly<Record<string, unknown>>[] {
  if (config === undefined) return [];
  return [config, ...TEXT_CONFIG_KEYS.map((key) => config[key]).filter(isJsonObject)];
}

/** Last parts of names that always mean a role; source: parameter names of transformers' model classes. */
const EMBEDDING_NAMES = "embed_tokens embed_in wte word_embeddings tok_embeddings token_embedding shared".split(" ");
const HEAD_NAMES = "lm_head embed_out".split(" ");
/** Last parts that mean a role when the rows are the vocabulary. */
const EMBEDDING_NAMES_MAYBE = "embeddings embedding embed".split(" ");
const HEAD_NAMES_MAYBE = "output head decoder predictions".split(" ");

/** The role of a 2-D tensor outside layers, by its name and, for names that mean several things, by its rows. */
export function tensorRole(entry: TensorEntry, vocabulary: number | undefined): TensorRole {
  if (entry.shape.length !== 2 || parseLayerName(entry.name) !== undefined) return undefined;
  const part =
    entry.name
      .replace(/\.(?:weight|embedding)$/, "")
      .split(".")
      .at(-1) ?? "";
  if (EMBEDDING_NAMES.includes(part)) return "embedding";
  if (HEAD_NAMES.includes(part)) return "head";
  if (vocabulary === undefined || entry.shape[0] !== vocabulary) return undefined;
  if (EMBEDDING_NAMES_MAYBE.includes(part)) return "embedding";
  return HEAD_NAMES_MAYBE.includes(part) ? "head" : undefined;
}

/**
 * Where a tensor outside layers stands in the model's order, by its name. Only layer stacking asks: what stands before
 * the layers comes from the first slice, what stands after them from the last. Undefined: the name does not say.
 */
export function tensorSide(name: string): "before" | "after" | undefined {
  if (/(?:^|[._])(?:lm_head|embed_out)(?:[._]|$)/.test(name)) return "after";
  if (/embed|(?:^|[._])(?:w[tp]e|shared|cls_token|conv_in|patch\w*|pre_\w+)(?:[._]|$)/i.test(name)) return "before";
  const after =
    /(?:^|[._])(?:norm\w*|\w*layer_?norm|ln_?\w*|head|heads|classifier|score|pooler|output|final\w*)(?:[._]|$)/i;
  return after.test(name) ? "after" : undefined;
}

/**
 * The tensor of `model` that stands in for an embedding or head that the model does not store because it is tied to
 * another: its embedding, else its head. Undefined when the config says that they are not tied.
 */
export function findTied(model: Architecture, missing: TensorEntry): TensorEntry | undefined {
  if (!model.maybeTied) return undefined;
  const roles = [...model.tensors.values()].flatMap((entry) => {
    const role = tensorRole(entry, model.vocabulary);
    return role === undefined || entry.shape[1] !== missing.shape[1] ? [] : [{ entry, role }];
  });
  return (roles.find(({ role }) => role === "embedding") ?? roles[0])?.entry;
}

/** Order of names in which numbers count as numbers: `layers.2.` before `layers.10.`. */
export function compareNames(a: string, b: string): number {
  const left = a.split(/(\d+)/);
  const right = b.split(/(\d+)/);
  for (let index = 0; index < Math.min(left.length, right.length); index++) {
    const [x = "", y = ""] = [left[index], right[index]];
    if (x === y) continue;
    const numeric = index % 2 === 1 ? Number(x) - Number(y) : 0;
    if (numeric !== 0) return numeric;
    return x < y ? -1 : 1;
  }
  return left.length - right.length || (a < b ? -1 : a > b ? 1 : 0);
}
