// A llama-family checkpoint as a GGUF model: metadata from its config, names, the order of tensors, which rows move,
// and the scheme of every tensor. Known from headers alone; no byte of weights is read.
// Source: llama.cpp's converter and llama-quantize c392e509; quantization reference sections 2 and 3.4.
import { z } from "zod";
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { chooseScheme, type Mix, type MixPlace, type TensorKind } from "../schemes/mixes.ts";
import type { BlockSchemeId } from "../schemes/registry.ts";
import { elementCount, type Shape } from "../tensor.ts";
import { compareUtf8 } from "../utf8-order.ts";
import { GGUF_FAMILIES, GGUF_INSIDE, GGUF_OUTSIDE } from "./gguf-names.ts";
import type { GgufMetadata, GgufValue } from "./gguf-types.ts";

const positive = z.int().positive();
const configSchema = z.looseObject({
  model_type: z.string(),
  hidden_size: positive,
  intermediate_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  num_key_value_heads: positive.nullish(),
  head_dim: positive.nullish(),
  vocab_size: positive,
  max_position_embeddings: positive,
  rms_norm_eps: z.number().positive(),
  rope_theta: z.number().positive().default(10000),
  rope_scaling: z.looseObject({}).nullish(),
  tie_word_embeddings: z.boolean().nullish(),
});
type Config = z.output<typeof configSchema>;

export type GgufModelTensor = {
  readonly name: string;
  readonly shape: Shape;
  readonly scheme: BlockSchemeId;
  /** What the scheme was chosen by; undefined of vectors, which stay F32. */
  readonly place: MixPlace | undefined;
  readonly source: TensorEntry;
  /** Heads whose rows [2, rows / 2] become [rows / 2, 2]; undefined: rows stay in place. */
  readonly permutedHeads: number | undefined;
};

export type GgufModel = { readonly metadata: GgufMetadata; readonly tensors: readonly GgufModelTensor[] };

const LAYER = /^model\.layers\.(\d{1,5})\.(.+)$/;
/** Kept in older files; made from the config by every reader. */
const IGNORED = /\.rotary_emb\.inv_freq$/;
/** Tensors of a layer that may have a bias. */
const BIASED = new Set(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);

/**
 * The model that a GGUF file of this checkpoint holds. `tokenizer` are its metadata entries; `isWeighted`: there is an
 * importance matrix.
 * Throws QuantizeModelUnsupported: another architecture, a config that lacks a number, a tensor missing, unknown or of
 * another shape than the config says. Throws BitPlanInvalid: a plan that is not of this model.
 */
export function planGgufModel(
  checkpoint: Pick<Checkpoint, "tensors" | "config">,
  mix: Mix,
  tokenizer: GgufMetadata,
  isWeighted: boolean,
): GgufModel {
  const config = readConfig(checkpoint.config);
  const family = GGUF_FAMILIES.find(({ modelType }) => modelType === config.model_type);
  if (family === undefined || !family.canWrite) {
    const written = GGUF_FAMILIES.filter(({ canWrite }) => canWrite).map(({ modelType }) => modelType);
    throw unsupported({ field: "model_type" }, config.model_type, written.join(", "));
  }
  const isTied = config.tie_word_embeddings === true;
  const entries = checkpoint.tensors.filter(
    ({ name }) => !IGNORED.test(name) && !(isTied && name === "lm_head.weight"),
  );
  const named = entries.map((source) => ({ source, ...rename(source, config) })).sort(compareNames);
  checkComplete(named, config, isTied);
  const places = Map.groupBy(named, ({ kind }) => kind);
  const tensors = named.map(({ source, name, kind, heads }): GgufModelTensor => {
    const place = {
      name,
      kind,
      index: (places.get(kind) ?? []).findIndex((other) => other.name === name),
      count: places.get(kind)?.length ?? 0,
      sharing: config.num_attention_heads / (config.num_key_value_heads ?? config.num_attention_heads),
      isWeighted,
      isTied: !named.some((other) => other.kind === "output"),
    };
    const isMatrix = source.shape.length === 2;
    const scheme = isMatrix ? chooseScheme(mix, place, source.shape.at(-1) ?? 1) : "f32";
    const permutedHeads = family.permutes ? heads : undefined;
    return { name, shape: source.shape, scheme, place: isMatrix ? place : undefined, source, permutedHeads };
  });
  checkPlanned(mix, tensors);
  const elements = tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  return { metadata: describeModel(config, family.architecture, mix, elements, tokenizer), tensors };
}

/** A plan of another model would go unnoticed where names agree; one that is misspelt would be forgotten. */
function checkPlanned({ planned }: Mix, tensors: readonly GgufModelTensor[]): void {
  const matrices = new Set(tensors.filter(({ place }) => place !== undefined).map(({ name }) => name));
  const tensor = [...(planned?.keys() ?? [])].find((name) => !matrices.has(name));
  if (tensor === undefined) return;
  const expected = "only matrices of this model";
  throw new MergeyardError("BitPlanInvalid", { where: { tensor }, found: "no such matrix", expected });
}

function readConfig(value: unknown): Config {
  const parsed = configSchema.safeParse(value);
  if (parsed.success) return checkHeads(checkScaling(parsed.data));
  const issue = parsed.error.issues[0];
  throw unsupported(
    { field: issue?.path.join(".") ?? "" },
    issue?.message ?? "no config",
    "a config.json of the model",
  );
}

/** Scaled rotary embeddings: linear is two entries; others would need more than metadata. */
function checkScaling(config: Config): Config {
  const kind = scalingKind(config);
  if (kind === undefined || kind === "default" || kind === "linear") return config;
  throw unsupported({ field: "rope_scaling" }, String(kind), "default or linear");
}

/** Rotary embeddings turn pairs of values. */
function checkHeads(config: Config): Config {
  const size = headSizeOf(config);
  if (size % 2 === 0) return config;
  throw unsupported({ field: "num_attention_heads" }, `heads of ${size} values`, "heads of an even number");
}

function scalingKind({ rope_scaling: scaling }: Config): unknown {
  return scaling?.rope_type ?? scaling?.type;
}

type Named = { readonly name: string; readonly kind: TensorKind; readonly layer: number; readonly heads?: number };

/** The name in GGUF and what the tensor is to the rules. */
function rename({ name, shape, dtype }: TensorEntry, config: Config): Named {
  const heads = config.num_attention_heads;
  const keyHeads = config.num_key_value_heads ?? heads;
  const headSize = headSizeOf(config);
  const outside = GGUF_OUTSIDE[name];
  const refuse = (expected: string) => unsupported({ tensor: name }, `${dtype} [${shape}]`, expected);
  const check = (...expected: readonly number[]) => {
    if (shape.join() !== expected.join()) throw refuse(`[${expected}]`);
  };
  const [hidden, inner] = [config.hidden_size, config.intermediate_size];
  if (outside !== undefined) {
    if (outside === "output_norm.weight") check(hidden);
    else check(config.vocab_size, hidden);
    const kind = outside === "output.weight" ? "output" : outside === "token_embd.weight" ? "embedding" : "other";
    return { name: outside, kind, layer: -1 };
  }
  const [, layer = "", rest = ""] = LAYER.exec(name) ?? [];
  const [, part = "", suffix = ""] = /^(.+)\.(weight|bias)$/.exec(rest) ?? [];
  const inside = GGUF_INSIDE[part];
  if (inside === undefined || (suffix === "bias" && !BIASED.has(part)) || Number(layer) >= config.num_hidden_layers) {
    throw refuse(`a tensor of ${config.model_type} with ${config.num_hidden_layers} layers`);
  }
  const [rows, columns] = {
    attn_norm: [hidden],
    ffn_norm: [hidden],
    attn_q: [heads * headSize, hidden],
    attn_k: [keyHeads * headSize, hidden],
    attn_v: [keyHeads * headSize, hidden],
    attn_output: [hidden, heads * headSize],
    ffn_gate: [inner, hidden],
    ffn_up: [inner, hidden],
    ffn_down: [hidden, inner],
  }[inside] ?? [0];
  if (suffix === "bias" || columns === undefined) check(rows ?? 0);
  else check(rows ?? 0, columns);
  const isRuled = inside === "attn_v" || inside === "attn_output" || inside === "ffn_down";
  const kind = isRuled && suffix === "weight" ? inside : "other";
  const moved = inside === "attn_q" ? heads : inside === "attn_k" ? keyHeads : undefined;
  const named = { name: `blk.${layer}.${inside}.${suffix}`, kind, layer: Number(layer) } as const;
  return moved === undefined ? named : { ...named, heads: moved };
}

/** As llama-quantize orders them: outside the layers by name, then by layer, then by name. */
function compareNames(a: Named, b: Named): number {
  return a.layer - b.layer || compareUtf8(a.name, b.name);
}

function checkComplete(named: readonly Named[], { num_hidden_layers: layers }: Config, isTied: boolean): void {
  const names = new Set(named.map(({ name }) => name));
  const inLayers = Array.from({ length: layers }, (_, layer) =>
    Object.values(GGUF_INSIDE).map((part) => `blk.${layer}.${part}.weight`),
  );
  const outside = isTied ? ["token_embd.weight", "output_norm.weight"] : Object.values(GGUF_OUTSIDE);
  const missing = [...outside, ...inLayers.flat()].find((name) => !names.has(name));
  if (missing !== undefined) throw unsupported({ tensor: missing }, "no such tensor", "every tensor of the model");
}

function headSizeOf(config: Config): number {
  return config.head_dim ?? config.hidden_size / config.num_attention_heads;
}

const u32 = (value: number): GgufValue => ({ kind: "u32", value });
const f32 = (value: number): GgufValue => ({ kind: "f32", value: Math.fround(value) });
const text = (value: string): GgufValue => ({ kind: "string", value });

function describeModel(
  config: Config,
  architecture: string,
  { fileType, base }: Mix,
  elements: number,
  tokenizer: GgufMetadata,
): GgufMetadata {
  const metadata = new Map<string, GgufValue>();
  const of = (key: string) => `${architecture}.${key}`;
  metadata.set("general.architecture", text(architecture));
  metadata.set("general.type", text("model"));
  metadata.set("general.size_label", text(sizeLabel(elements)));
  metadata.set(of("block_count"), u32(config.num_hidden_layers));
  metadata.set(of("context_length"), u32(config.max_position_embeddings));
  metadata.set(of("embedding_length"), u32(config.hidden_size));
  metadata.set(of("feed_forward_length"), u32(config.intermediate_size));
  metadata.set(of("attention.head_count"), u32(config.num_attention_heads));
  metadata.set(of("attention.head_count_kv"), u32(config.num_key_value_heads ?? config.num_attention_heads));
  metadata.set(of("rope.freq_base"), f32(config.rope_theta));
  metadata.set(of("attention.layer_norm_rms_epsilon"), f32(config.rms_norm_eps));
  const headSize = headSizeOf(config);
  if (headSize * config.num_attention_heads !== config.hidden_size) {
    metadata.set(of("attention.key_length"), u32(headSize));
    metadata.set(of("attention.value_length"), u32(headSize));
  }
  if (scalingKind(config) === "linear") {
    metadata.set(of("rope.scaling.type"), text("linear"));
    metadata.set(of("rope.scaling.factor"), f32(Number(config.rope_scaling?.factor)));
  }
  if (architecture === "llama") {
    metadata.set(of("vocab_size"), u32(config.vocab_size));
    metadata.set(of("rope.dimension_count"), u32(headSize));
  }
  for (const [key, value] of tokenizer) metadata.set(key, value);
  metadata.set("general.quantization_version", u32(2));
  if (fileType !== undefined) metadata.set("general.file_type", u32(fileType));
  else metadata.set("general.description", text(`every matrix is ${base.toUpperCase()}`));
  return metadata;
}

/** Parameters as model names have them, two digits at least: 837K, 1.1B, 7B. */
function sizeLabel(elements: number): string {
  const [unit, suffix] =
    elements > 1e12 ? [1e12, "T"] : elements > 1e9 ? [1e9, "B"] : elements > 1e6 ? [1e6, "M"] : [1e3, "K"];
  const scaled = elements / unit;
  const digits = String(Math.round(scaled)).replace(/^0+/, "").length;
  return `${scaled.toFixed(Math.max(0, 2 - digits))}${suffix}`;
}

function unsupported(where: { tensor?: string; field?: string }, found: string, expected: string): MergeyardError {
  const file = where.field === undefined ? {} : { file: "config.json" };
  return new MergeyardError("QuantizeModelUnsupported", { where: { ...where, ...file }, found, expected });
}
