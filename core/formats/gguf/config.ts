// The config.json of a model that lies in a GGUF file, from the file's metadata: what model.ts writes, read back.
import { MergeyardError } from "../../error.ts";
import { GGUF_FAMILIES } from "./families.ts";
import { readFamily } from "./family-config.ts";
import { LOCAL_BASE, readWindows } from "./gemma.ts";
import type { GgufTensor } from "./gguf.ts";
import type { GgufFamily } from "./names.ts";
import { YARN_USUAL } from "./rope.ts";
import type { GgufMetadata } from "./type-codes.ts";

/** The model's family and what the rest of reading needs of its config. */
export type GgufConfig = {
  readonly family: GgufFamily;
  readonly layers: number;
  readonly heads: number;
  readonly keyHeads: number;
  /** Experts of a layer; 0 without. */
  readonly experts: number;
  readonly config: Readonly<Record<string, unknown>>;
};

/** Throws GgufModelUnsupported: another architecture, or metadata without a number that every model has. */
export function readGgufConfig(
  metadata: GgufMetadata,
  tensors: ReadonlyMap<string, GgufTensor>,
  file: string,
): GgufConfig {
  const architecture = textOf(metadata, "general.architecture") ?? "none";
  const number = (key: string) => numberOf(metadata, `${architecture}.${key}`);
  const flags = (key: string) => flagsOf(metadata, `${architecture}.${key}`);
  const experts = number("expert_count") ?? 0;
  const family = GGUF_FAMILIES.find(
    (each) =>
      each.architecture === architecture &&
      (each.experts !== undefined) === experts > 0 &&
      (each.marker === undefined || number(each.marker) !== undefined),
  );
  if (family === undefined) {
    const expected = [...new Set(GGUF_FAMILIES.map((each) => each.architecture))].join(", ");
    throw unsupported(
      file,
      "general.architecture",
      experts > 0 ? `${architecture} with experts` : architecture,
      expected,
    );
  }
  const need = (key: string): number => {
    const value = number(key);
    if (value !== undefined && value > 0) return value;
    throw unsupported(file, `${architecture}.${key}`, String(value ?? "nothing"), "a number above 0");
  };
  const [layers, heads] = [need("block_count"), need("attention.head_count")];
  const keyHeads = number("attention.head_count_kv") ?? heads;
  const hidden = need("embedding_length");
  const statedSize = number("attention.key_length");
  const headSize = statedSize ?? hidden / heads;
  const inner = number("feed_forward_length");
  const sizes = { num_hidden_layers: layers, hidden_size: hidden, num_attention_heads: heads, head_dim: headSize };
  const config = {
    architectures: [family.className],
    model_type: family.modelType,
    hidden_size: hidden,
    ...(inner === undefined ? {} : { intermediate_size: inner }),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: keyHeads,
    ...(statedSize === undefined && family.headSize === undefined ? {} : { head_dim: headSize }),
    ...(family.windows === undefined ? {} : readWindows(number, sizes, family.windows)),
    max_position_embeddings: need("context_length"),
    ...readFamily({ number, flags, has: (name) => tensors.has(name) }, family, shortest),
    ...ropeOf(metadata, architecture, family),
    vocab_size: tensors.get("token_embd.weight")?.shape[0] ?? need("vocab_size"),
    tie_word_embeddings: !tensors.has("output.weight"),
    ...expertsOf(number, family, experts),
    ...specialTokens(metadata),
  };
  return { family, layers, heads, keyHeads, experts, config };
}

function expertsOf(number: (key: string) => number | undefined, { experts: known }: GgufFamily, experts: number) {
  if (known === undefined) return {};
  const inner = number("expert_feed_forward_length");
  return {
    [known.countKey]: experts,
    num_experts_per_tok: number("expert_used_count") ?? 1,
    ...(inner === undefined ? {} : { [known.innerKey]: inner }),
    ...known.fixed,
  };
}

/** Theta and scaling; where windows have their own, both by kinds of layers, since scaling is not theirs. */
function ropeOf(metadata: GgufMetadata, architecture: string, { ropeByKinds }: GgufFamily) {
  const number = (key: string) => numberOf(metadata, `${architecture}.${key}`);
  const theta = shortest(number("rope.freq_base") ?? 10000);
  const { rope_scaling: scaling } = scalingOf(metadata, architecture);
  if (ropeByKinds !== true) return { rope_theta: theta, ...(scaling === undefined ? {} : { rope_scaling: scaling }) };
  const { type: _, ...full } = scaling ?? { type: "default", rope_type: "default" };
  const local = shortest(number(LOCAL_BASE) ?? theta);
  return {
    rope_parameters: {
      full_attention: { ...full, rope_theta: theta },
      sliding_attention: { rope_type: "default", rope_theta: local },
    },
  };
}

function scalingOf(metadata: GgufMetadata, architecture: string) {
  const kind = textOf(metadata, `${architecture}.rope.scaling.type`);
  const factor = numberOf(metadata, `${architecture}.rope.scaling.factor`);
  if (kind === undefined || kind === "none" || factor === undefined) return {};
  const before = numberOf(metadata, `${architecture}.rope.scaling.original_context_length`);
  const original = before === undefined ? {} : { original_max_position_embeddings: before };
  const betas = [...YARN_USUAL.keys()].flatMap((key) => {
    const value = numberOf(metadata, `${architecture}.rope.scaling.yarn_${key}`);
    return value === undefined ? [] : [[key, shortest(value)] as const];
  });
  const scaling = { rope_type: kind, type: kind, factor: shortest(factor), ...original };
  return { rope_scaling: { ...scaling, ...Object.fromEntries(betas) } };
}

/** Keys of config.json and of the tokenizer's metadata. */
const SPECIAL = [
  ["bos_token_id", "tokenizer.ggml.bos_token_id"],
  ["eos_token_id", "tokenizer.ggml.eos_token_id"],
  ["pad_token_id", "tokenizer.ggml.padding_token_id"],
  ["unk_token_id", "tokenizer.ggml.unknown_token_id"],
] as const;

function specialTokens(metadata: GgufMetadata): Readonly<Record<string, number>> {
  return Object.fromEntries(
    SPECIAL.flatMap(([key, from]) => {
      const value = numberOf(metadata, from);
      return value === undefined ? [] : [[key, value] as const];
    }),
  );
}

/** The shortest decimal with the same float32: 1e-5, where the file holds 0.000009999999747378752. */
export function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return short;
  }
  return value;
}

/** A number of the metadata; undefined when there is none of that key. */
export function numberOf(metadata: GgufMetadata, key: string): number | undefined {
  const entry = metadata.get(key);
  if (entry === undefined || entry.kind === "string" || entry.kind === "bool" || entry.kind === "array")
    return undefined;
  return Number(entry.value);
}

/** Yes or no for each layer. */
function flagsOf(metadata: GgufMetadata, key: string): readonly boolean[] | undefined {
  const entry = metadata.get(key);
  return entry?.kind === "array" && entry.element === "bool"
    ? entry.values.map((item) => item.kind === "bool" && item.value)
    : undefined;
}

/** A text of the metadata; undefined when there is none of that key. */
export function textOf(metadata: GgufMetadata, key: string): string | undefined {
  const entry = metadata.get(key);
  return entry?.kind === "string" ? entry.value : undefined;
}

function unsupported(file: string, field: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("GgufModelUnsupported", { where: { file, field }, found, expected });
}
