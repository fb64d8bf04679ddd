// A checkpoint as a GGUF model: metadata from its config, names, the order of tensors, which rows move,
// and the scheme of every tensor. Known from headers alone; no byte of weights is read.
// Source: llama.cpp's converter and llama-quantize c392e509; quantization reference sections 2 and 3.4.
import * as z from "zod";
import type { Checkpoint, TensorEntry } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import { chooseScheme, type Mix, type MixPlace } from "../../schemes/mixes.ts";
import type { BlockSchemeId } from "../../schemes/registry.ts";
import { elementCount, type Shape } from "../../tensor.ts";
import { compareUtf8 } from "../../utf8-order.ts";
import { GGUF_FAMILIES } from "./families.ts";
import { checkFamily, describeFamily } from "./family-config.ts";
import { describeWindows, LOCAL_BASE } from "./gemma.ts";
import { type GgufExperts, type GgufFamily, stackOf } from "./names.ts";
import { type GgufSizes, type Named, namesOf, nameTensor, partsOf, SHARED_ROUTER } from "./parts.ts";
import { type GgufConstant, planScaling, type RopeScaling } from "./rope.ts";
import { findFamily, textConfigOf, textNameOf } from "./text-model.ts";
import type { GgufMetadata, GgufValue } from "./type-codes.ts";

const positive = z.int().positive();
/** Real models have at most 512. */
const expertNumber = positive.max(4096);
const part = z.number().positive().max(1);
const ropeSchema = z.looseObject({
  original_max_position_embeddings: positive.nullish(),
  rope_theta: z.number().positive().nullish(),
  partial_rotary_factor: part.nullish(),
});
const configSchema = z.looseObject({
  model_type: z.string(),
  hidden_size: positive,
  intermediate_size: positive,
  moe_intermediate_size: positive.nullish(),
  num_local_experts: expertNumber.nullish(),
  num_experts: expertNumber.nullish(),
  num_experts_per_tok: expertNumber.nullish(),
  num_hidden_layers: positive,
  num_attention_heads: positive,
  num_key_value_heads: positive.nullish(),
  head_dim: positive.nullish(),
  vocab_size: positive,
  max_position_embeddings: positive,
  original_max_position_embeddings: positive.nullish(),
  rms_norm_eps: z.number().positive().nullish(),
  rope_theta: z.number().positive().nullish(),
  rope_scaling: ropeSchema.nullish(),
  // Both in one, since transformers 5.
  rope_parameters: ropeSchema
    .extend({ full_attention: ropeSchema.nullish(), sliding_attention: ropeSchema.nullish() })
    .nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  partial_rotary_factor: part.nullish(),
});
type Config = z.output<typeof configSchema> & {
  readonly theta: number;
  readonly statesHeadSize: boolean;
  /** The part of a head that is turned. */
  readonly rotary: number;
};

/** Where a config says nothing. */
const THETA = 10000;

export type GgufModelTensor = {
  readonly name: string;
  readonly shape: Shape;
  readonly scheme: BlockSchemeId;
  /** What the scheme was chosen by; undefined of vectors, which stay F32. */
  readonly place: MixPlace | undefined;
  readonly source: TensorEntry;
  /** True of the experts of a layer: `source` is all of them, [experts, rows, columns], one after the other. */
  readonly isStack: boolean;
  /** Heads whose rows [2, rows / 2] become [rows / 2, 2]; undefined: rows stay in place. */
  readonly permutedHeads: number | undefined;
  /** What every value is more in the file. */
  readonly shift: number;
};

export type GgufModel = {
  readonly metadata: GgufMetadata;
  /** Tensors that are no checkpoint's: they go before all others of a file. */
  readonly constants: readonly GgufConstant[];
  readonly tensors: readonly GgufModelTensor[];
  /** How many of the checkpoint's tensors are not of the text model. */
  readonly leftOut: number;
};

/** Kept in older files; made from the config by every reader. */
const IGNORED = /\.rotary_emb\.inv_freq$/;

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
  const known = readModel(checkpoint.config);
  const { config, family, experts } = known;
  const sizes = sizesOf(known);
  const parts = partsOf(family, sizes);
  const isTied = config.tie_word_embeddings ?? family.tiedByDefault === true;
  const renamed = checkpoint.tensors.flatMap((source) => {
    const name = textNameOf(source.name, checkpoint.config);
    if (name === undefined || IGNORED.test(name) || (isTied && name === "lm_head.weight")) return [];
    return [{ source, ...nameTensor({ ...source, name }, family, sizes, parts) }];
  });
  const named = stackExperts(renamed, experts?.count ?? 0).sort(compareNames);
  checkComplete(named, namesOf(family, sizes, parts, isTied));
  const byKind = Map.groupBy(named, ({ kind }) => kind);
  const indexes = new Map(
    [...byKind.values()].flatMap((alike) => alike.map(({ name }, index) => [name, index] as const)),
  );
  const isHeadTied = !byKind.has("output");
  const tensors = named.map(({ source, name, kind, heads, staysFloat, expert, layer }): GgufModelTensor => {
    // Experts and the one that sees every token are two in a layer.
    const isDown = kind === "ffn_down";
    const place = {
      name,
      kind,
      index: isDown ? layer : (indexes.get(name) ?? 0),
      count: isDown ? sizes.layers : (byKind.get(kind)?.length ?? 0),
      sharing: sizes.heads / sizes.keyHeads,
      experts: sizes.experts,
      isWeighted,
      isTied: isHeadTied,
    };
    const isMatrix = source.shape.length > 1 && !staysFloat;
    const scheme = isMatrix ? chooseScheme(mix, place, source.shape.at(-1) ?? 1) : "f32";
    const permutedHeads = family.permutes ? heads : undefined;
    const shift = name.endsWith("norm.weight") ? (family.normShift ?? 0) : 0;
    return {
      name,
      shape: name.includes(SHARED_ROUTER) ? source.shape.slice(1) : source.shape,
      scheme,
      place: isMatrix ? place : undefined,
      source,
      isStack: expert !== undefined,
      permutedHeads,
      shift,
    };
  });
  checkPlanned(mix, tensors);
  const metadata = describeModel(known, mix, sizeLabel(tensors, sizes.experts), tokenizer);
  const leftOut = checkpoint.tensors.filter(({ name }) => textNameOf(name, checkpoint.config) === undefined).length;
  return { metadata, constants: known.scaling.constants, tensors, leftOut };
}

/** A plan of another model would go unnoticed where names agree; one that is misspelt would be forgotten. */
function checkPlanned({ planned }: Mix, tensors: readonly GgufModelTensor[]): void {
  const matrices = new Set(tensors.filter(({ place }) => place !== undefined).map(({ name }) => name));
  const tensor = [...(planned?.keys() ?? [])].find((name) => !matrices.has(name));
  if (tensor === undefined) return;
  const expected = "only matrices of this model";
  throw new MergeyardError("BitPlanInvalid", { where: { tensor }, found: "no such matrix", expected });
}

type Experts = { readonly count: number; readonly used: number; readonly inner: number };

/** A config, what the format makes of its kind, and the experts of a layer where there are any. */
type Known = {
  readonly config: Config;
  readonly family: GgufFamily;
  readonly experts: Experts | undefined;
  readonly scaling: RopeScaling;
  /** Entries of layers that see a window. */
  readonly windows: readonly (readonly [string, GgufValue])[];
};

function readModel(value: Checkpoint["config"]): Known {
  if (value === undefined) {
    const [where, expected] = [{ file: "config.json" }, "a config.json of the model"];
    throw new MergeyardError("QuantizeModelUnsupported", { where, found: "no such file", expected });
  }
  const family = findFamily(value);
  const stated = parseAs(configSchema, { ...family?.defaults, ...textConfigOf(value) }, (field, found) =>
    unsupported({ field }, found, "a config.json of the model"),
  );
  if (family === undefined) {
    const written = [...new Set(GGUF_FAMILIES.map(({ modelType }) => modelType))].join(", ");
    throw unsupported({ field: "model_type" }, stated.model_type, written);
  }
  const { rope_theta, rope_parameters, rope_scaling } = stated;
  // By kinds of layers where there are several.
  const rope = rope_parameters?.full_attention ?? rope_parameters;
  const theta = rope_theta ?? rope?.rope_theta ?? family.theta ?? THETA;
  const original = rope_scaling?.original_max_position_embeddings ?? rope?.original_max_position_embeddings;
  const config = checkHeads({
    ...stated,
    statesHeadSize: stated.head_dim != null,
    head_dim: stated.head_dim ?? family.headSize,
    theta,
    original_max_position_embeddings: stated.original_max_position_embeddings ?? original,
    rotary: stated.partial_rotary_factor ?? rope?.partial_rotary_factor ?? family.rotary ?? 1,
  });
  checkFamily(config, family);
  const scaling = planScaling({
    scaling: rope_scaling ?? rope,
    theta,
    headSize: rotaryOf(config),
    context: config.max_position_embeddings,
    original: config.original_max_position_embeddings,
    takesLong: family.takesLong === true,
  });
  const windows = family.windows === undefined ? [] : describeWindows(config, family.windows);
  return { config, family, experts: readExperts(config, family), scaling, windows };
}

function readExperts(config: Config, { experts }: GgufFamily): Experts | undefined {
  if (experts === undefined) return undefined;
  const need = (field: "num_experts_per_tok" | GgufExperts["countKey"] | GgufExperts["innerKey"]) => {
    // Transformers 5 saves every family's count under one key.
    const value = config[field] ?? (field === experts.countKey ? config.num_local_experts : undefined);
    if (value == null) throw unsupported({ field }, "nothing", "a number above 0");
    return value;
  };
  for (const [field, expected] of Object.entries(experts.fixed)) {
    if (config[field] !== expected) throw unsupported({ field }, String(config[field]), String(expected));
  }
  return { count: need(experts.countKey), used: need("num_experts_per_tok"), inner: need(experts.innerKey) };
}

/** Rotary embeddings turn pairs of values. */
function checkHeads(config: Config): Config {
  const size = headSizeOf(config);
  if (size % 2 === 0) return config;
  throw unsupported({ field: "num_attention_heads" }, `heads of ${size} values`, "heads of an even number");
}

type NamedSource = Named & { readonly source: TensorEntry };

/** The experts of a layer as one tensor, in their order: its bytes are theirs, one after the other. */
function stackExperts(named: readonly NamedSource[], count: number): NamedSource[] {
  return [...Map.groupBy(named, ({ name }) => name).values()].flatMap((same) => {
    const experts = same.toSorted((a, b) => (a.expert ?? 0) - (b.expert ?? 0));
    const [first] = experts;
    if (first?.expert === undefined) return same;
    const { source } = first;
    if (experts.length !== count) {
      throw unsupported({ tensor: source.name }, `${experts.length} of the layer's experts`, `${count}`);
    }
    for (const { source: other } of experts) checkAlike(other, source);
    const name = stackOf(source.name)?.stack ?? source.name;
    const ranges = experts.flatMap((each) => each.source.ranges);
    return [{ ...first, source: { ...source, name, shape: [count, ...source.shape], ranges } }];
  });
}

/** Bytes of experts can follow each other where all are stored in the same way, row by row. */
function checkAlike({ name, dtype, packing, gather }: TensorEntry, first: TensorEntry): void {
  const isPlain = packing?.parts === undefined && gather === undefined;
  if (isPlain && dtype === first.dtype && packing?.scheme === first.packing?.scheme) return;
  const found = isPlain ? (packing?.scheme ?? dtype) : "an expert in several parts";
  throw unsupported({ tensor: name }, found, `${first.packing?.scheme ?? first.dtype}, as other experts of the layer`);
}

/** As llama-quantize orders them: outside the layers by name, then by layer, then by name. */
function compareNames(a: Named, b: Named): number {
  return a.layer - b.layer || compareUtf8(a.name, b.name);
}

function checkComplete(named: readonly Named[], expected: readonly string[]): void {
  const names = new Set(named.map(({ name }) => name));
  const missing = expected.find((name) => !names.has(name));
  if (missing !== undefined) throw unsupported({ tensor: missing }, "no such tensor", "every tensor of the model");
}

function sizesOf({ config, family, experts }: Known): GgufSizes {
  const heads = config.num_attention_heads;
  const sharedKey = family.experts?.sharedKey;
  return {
    layers: config.num_hidden_layers,
    hidden: config.hidden_size,
    heads,
    keyHeads: config.num_key_value_heads ?? heads,
    headSize: headSizeOf(config),
    inner: experts?.inner ?? config.intermediate_size,
    shared: sharedKey === undefined ? 0 : Number(config[sharedKey] ?? 0),
    experts: experts?.count ?? 0,
    vocabulary: config.vocab_size,
  };
}

/** Values of a head that are turned. */
function rotaryOf(config: Config): number {
  return Math.floor(headSizeOf(config) * config.rotary);
}

function headSizeOf(config: Config): number {
  return config.head_dim ?? config.hidden_size / config.num_attention_heads;
}

const u32 = (value: number): GgufValue => ({ kind: "u32", value });
const f32 = (value: number): GgufValue => ({ kind: "f32", value: Math.fround(value) });
const text = (value: string): GgufValue => ({ kind: "string", value });

function describeModel(
  { config, family, experts, scaling, windows }: Known,
  { fileType, base }: Mix,
  label: string,
  tokenizer: GgufMetadata,
): GgufMetadata {
  const { architecture } = family;
  const metadata = new Map<string, GgufValue>();
  const of = (key: string) => `${architecture}.${key}`;
  metadata.set("general.architecture", text(architecture));
  metadata.set("general.type", text("model"));
  metadata.set("general.size_label", text(label));
  metadata.set(of("block_count"), u32(config.num_hidden_layers));
  metadata.set(of("context_length"), u32(config.max_position_embeddings));
  metadata.set(of("embedding_length"), u32(config.hidden_size));
  metadata.set(of("feed_forward_length"), u32(config.intermediate_size));
  metadata.set(of("attention.head_count"), u32(config.num_attention_heads));
  metadata.set(of("attention.head_count_kv"), u32(config.num_key_value_heads ?? config.num_attention_heads));
  metadata.set(of("rope.freq_base"), f32(config.theta));
  if (experts !== undefined) {
    metadata.set(of("expert_count"), u32(experts.count));
    metadata.set(of("expert_used_count"), u32(experts.used));
  }
  const headSize = headSizeOf(config);
  const isUsual = headSize * config.num_attention_heads === config.hidden_size;
  if (family.statesHeadSize === true || config.statesHeadSize || !isUsual) {
    metadata.set(of("attention.key_length"), u32(headSize));
    metadata.set(of("attention.value_length"), u32(headSize));
  }
  if (experts !== undefined && family.experts?.innerKey === "moe_intermediate_size") {
    metadata.set(of("expert_feed_forward_length"), u32(experts.inner));
  }
  if (family.statesVocabulary === true) metadata.set(of("vocab_size"), u32(config.vocab_size));
  if (family.rotary !== undefined) metadata.set(of("rope.dimension_count"), u32(rotaryOf(config)));
  const own = describeFamily(config, family);
  const local = family.ropeByKinds === true ? config.rope_parameters?.sliding_attention?.rope_theta : undefined;
  if (local != null) metadata.set(of(LOCAL_BASE), f32(local));
  for (const [key, value] of [...own, ...scaling.entries, ...windows]) metadata.set(of(key), value);
  for (const [key, value] of tokenizer) metadata.set(key, value);
  metadata.set("general.quantization_version", u32(2));
  if (fileType !== undefined) metadata.set("general.file_type", u32(fileType));
  else metadata.set("general.description", text(`every matrix is ${base.toUpperCase()}`));
  return metadata;
}

/** Parameters as model names have them, two digits at least: 837K, 1.1B, 7B; 8x7B of 8 experts, one of them counted. */
function sizeLabel(tensors: readonly GgufModelTensor[], experts: number): string {
  const elements = tensors.reduce(
    (sum, { shape, isStack }) => sum + elementCount(shape) / (isStack ? (shape[0] ?? 1) : 1),
    0,
  );
  const [unit, suffix] =
    elements > 1e12 ? [1e12, "T"] : elements > 1e9 ? [1e9, "B"] : elements > 1e6 ? [1e6, "M"] : [1e3, "K"];
  const scaled = elements / unit;
  const digits = String(Math.round(scaled)).replace(/^0+/, "").length;
  const size = `${scaled.toFixed(Math.max(0, 2 - digits))}${suffix}`;
  return experts === 0 ? size : `${experts}x${size}`;
}

function unsupported(where: { tensor?: string; field?: string }, found: string, expected: string): MergeyardError {
  const file = where.field === undefined ? {} : { file: "config.json" };
  return new MergeyardError("QuantizeModelUnsupported", { where: { ...where, ...file }, found, expected });
}
