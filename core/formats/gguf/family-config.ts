// What config.json says of a family beyond the usual numbers, as entries of a GGUF file and back, by the family's own
// entry in the table. Called by model.ts and config.ts.
import { MergeyardError } from "../../error.ts";
import type { GgufFamily } from "./names.ts";
import type { GgufValue } from "./type-codes.ts";

type Config = Readonly<Record<string, unknown>>;

type Numbers = {
  readonly num_hidden_layers: number;
  readonly hidden_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads?: number | null | undefined;
  readonly head_dim?: number | null | undefined;
};

function checkHeads(config: Config & Numbers, { fillsHidden, sharesHeads }: GgufFamily): void {
  const { hidden_size: hidden, num_attention_heads: heads, head_dim: size, num_key_value_heads: keys } = config;
  if (fillsHidden === true && size != null && size * heads !== hidden) {
    throw unsupported("head_dim", String(size), String(hidden / heads));
  }
  if (sharesHeads === false && keys != null && keys !== heads) {
    throw unsupported("num_key_value_heads", String(keys), String(heads));
  }
}

/** Throws QuantizeModelUnsupported: a setting that readers of this family would not follow. */
export function checkFamily(config: Config & Numbers, family: GgufFamily): void {
  checkHeads(config, family);
  for (const [field, expected] of Object.entries(family.fixed ?? {})) {
    const found = config[field];
    if (found != null && found !== expected) throw unsupported(field, String(found), String(expected));
  }
  for (const [field, repeated] of Object.entries(family.layers ?? {})) {
    const expected = layersOf(repeated, config.num_hidden_layers);
    const found = config[field];
    if (found != null && String(found) !== String(expected)) throw unsupported(field, String(found), String(expected));
  }
  if (family.tied !== undefined && (config.tie_word_embeddings ?? family.tiedByDefault === true) !== family.tied) {
    throw unsupported("tie_word_embeddings", String(!family.tied), String(family.tied));
  }
  if (family.rotary === undefined && config.rotary !== 1) {
    throw unsupported("partial_rotary_factor", String(config.rotary), "1");
  }
  const activation = config.hidden_activation ?? config.hidden_act ?? family.activation ?? ACTIVATIONS[0]?.[0];
  const alike = ACTIVATIONS.find((names) => names.includes(family.activation ?? "silu"));
  if (!alike?.includes(String(activation))) {
    throw unsupported("hidden_act", String(activation), alike?.join(", ") ?? "another");
  }
}

/** Names of one function each; readers compute GELU in one way only. */
const ACTIVATIONS: readonly (readonly string[])[] = [
  ["silu", "swish"],
  ["gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast"],
];

/** Entries without the architecture. Throws QuantizeModelUnsupported: a config without one of their numbers. */
export function describeFamily(config: Config, family: GgufFamily): readonly (readonly [string, GgufValue])[] {
  const { layerNorm } = family;
  const norm = layerNorm ?? "rms_norm_eps";
  const epsilon = [layerNorm === undefined ? EPSILON : "attention.layer_norm_epsilon", float(config, norm)] as const;
  const entries = (family.entries ?? []).map(({ field, key, kind, absent }) => {
    const value = numberOf(config, field) ?? absent;
    if (value === undefined) throw unsupported(field, String(config[field]), "a number");
    return [key, { kind, value: kind === "f32" ? Math.fround(value) : value }] as const;
  });
  const constants = Object.entries(family.constants ?? {}).map(([key, value]) => {
    return [key, { kind: "string", value }] as const;
  });
  return [epsilon, ...entries, ...constants, ...describeKinds(config, family)];
}

/** The kind of each layer: every one of them has one of the two values. */
function describeKinds(config: Config, { kinds }: GgufFamily): readonly (readonly [string, GgufValue])[] {
  if (kinds === undefined) return [];
  const { field, key, values } = kinds;
  const found: unknown = config[field];
  const stated: readonly unknown[] = Array.isArray(found) ? found : [];
  if (stated.length !== config.num_hidden_layers || stated.some((value) => !values.some((own) => own === value))) {
    throw unsupported(field, String(found), `${values.join(" or ")} for every layer`);
  }
  const flags = stated.map((value) => ({ kind: "bool", value: value === values[0] }) as const);
  return [[key, { kind: "array", element: "bool", values: flags }]];
}

const EPSILON = "attention.layer_norm_rms_epsilon";

function float(config: Config, field: string): GgufValue {
  const value = numberOf(config, field);
  if (value === undefined || !(value > 0)) throw unsupported(field, String(config[field]), "a number above 0");
  return { kind: "f32", value: Math.fround(value) };
}

function numberOf(config: Config, field: string): number | undefined {
  const value = config[field];
  return typeof value === "number" ? value : undefined;
}

export type GgufEntries = {
  readonly number: (key: string) => number | undefined;
  /** Undefined where there is no such entry. */
  readonly flags: (key: string) => readonly boolean[] | undefined;
  /** Whether there is such a tensor. */
  readonly has: (tensor: string) => boolean;
};

/** The same as config.json has it. */
export function readFamily(
  { number, flags, has }: GgufEntries,
  family: GgufFamily,
  shortest: (value: number) => number,
): Readonly<Record<string, unknown>> {
  const { layerNorm, activation, rotary } = family;
  const epsilon = number(layerNorm === undefined ? EPSILON : "attention.layer_norm_epsilon");
  const biases = Object.entries(family.biasFields ?? {}).filter(([part]) => has(`blk.0.${part}.bias`));
  const entries = (family.entries ?? []).map(({ field, key, absent }) => {
    const value = number(key);
    return [field, value === undefined || value === absent ? null : shortest(value)] as const;
  });
  const size =
    number("attention.key_length") ?? (number("embedding_length") ?? 0) / (number("attention.head_count") ?? 1);
  const turned = rotary === undefined ? undefined : number("rope.dimension_count");
  return {
    ...(activation === undefined ? { hidden_act: "silu" } : { hidden_act: activation, hidden_activation: activation }),
    ...(epsilon === undefined ? {} : { [layerNorm ?? "rms_norm_eps"]: shortest(epsilon) }),
    ...(turned === undefined || turned === size ? {} : { partial_rotary_factor: turned / size }),
    ...family.fixed,
    ...readLayers(number("block_count") ?? 0, family),
    ...Object.fromEntries(biases.map(([, field]) => [field, true])),
    ...Object.fromEntries(entries),
    ...readKinds(flags, family),
  };
}

/** What readers take as given of each layer. */
function layersOf(repeated: readonly unknown[], count: number): readonly unknown[] {
  return Array.from({ length: count }, (_, layer) => repeated[layer % repeated.length]);
}

function readLayers(count: number, { layers }: GgufFamily): Config {
  return Object.fromEntries(Object.entries(layers ?? {}).map(([field, values]) => [field, layersOf(values, count)]));
}

function readKinds(flags: GgufEntries["flags"], { kinds }: GgufFamily): Config {
  const found = kinds === undefined ? undefined : flags(kinds.key);
  return kinds === undefined || found === undefined
    ? {}
    : { [kinds.field]: found.map((flag) => kinds.values[flag ? 0 : 1]) };
}

function unsupported(field: string, found: string, expected: string): MergeyardError {
  const where = { file: "config.json", field };
  return new MergeyardError("QuantizeModelUnsupported", { where, found, expected });
}
