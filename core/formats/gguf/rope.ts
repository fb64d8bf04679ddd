// Scaled rotary embeddings in a GGUF file: entries of the metadata for linear and yarn scaling, and for Llama 3's and
// Phi 3's tensors by which readers divide each frequency. Used by the writer and, to find the config again, by the
// reader.
// Source: llama.cpp, convert_hf_to_gguf.py: LlamaModel.generate_extra_tensors; transformers, modeling_rope_utils.py.
import * as z from "zod";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import type { GgufValue } from "./type-codes.ts";

/** The tensor of Llama 3's scaling. */
export const FREQUENCIES = "rope_freqs.weight";
/** Those of Phi 3's, for long texts and for short ones. */
export const LONG_FACTORS = ["rope_factors_long.weight", "rope_factors_short.weight"] as const;

/** A tensor that no checkpoint stores: float32, one axis. */
export type GgufConstant = { readonly name: string; readonly values: Float32Array };

export type RopeScaling = {
  /** By key, without the architecture. */
  readonly entries: readonly (readonly [string, GgufValue])[];
  readonly constants: readonly GgufConstant[];
};

/** What config.json says of rotary embeddings, and how many values of a head are turned. */
export type RopeConfig = {
  readonly scaling: Readonly<Record<string, unknown>> | null | undefined;
  readonly theta: number;
  readonly headSize: number;
  /** Tokens that the model takes, and that it was made for before scaling. */
  readonly context: number;
  readonly original: number | null | undefined;
  /** True where readers of the family know factors for short and long texts. */
  readonly takesLong: boolean;
};

const NONE: RopeScaling = Object.freeze({ entries: [], constants: [] });
const positive = z.number().positive();
const context = z.int().positive();
const llama3Schema = z.looseObject({
  factor: positive,
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: context,
});
type Llama3 = z.output<typeof llama3Schema>;

/** Throws QuantizeModelUnsupported for a kind or a setting that readers would not follow. */
export function planScaling(config: RopeConfig): RopeScaling {
  const { scaling } = config;
  const kind = scaling?.rope_type ?? scaling?.type ?? "default";
  const kinds: Readonly<Record<string, Plan>> = config.takesLong
    ? { ...KINDS, longrope: planLong, su: planLong }
    : KINDS;
  const plan = typeof kind === "string" && Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
  if (plan === undefined) throw unsupported(String(kind), Object.keys(kinds).join(", "));
  return plan({ ...config, scaling: scaling ?? {} });
}

type Plan = (config: RopeConfig & { readonly scaling: Readonly<Record<string, unknown>> }) => RopeScaling;

const KINDS: Readonly<Record<string, Plan>> = {
  default: () => NONE,
  linear: ({ scaling }) => ({ entries: factorEntries("linear", scaling.factor), constants: [] }),
  yarn({ scaling: { factor, original_max_position_embeddings: original, ...rest } }) {
    const entries = factorEntries("yarn", factor);
    const known = context.safeParse(original);
    if (!known.success) {
      throw unsupported(`original_max_position_embeddings ${original}`, "the context before scaling");
    }
    for (const [key, value] of Object.entries(rest)) {
      const usual = YARN_USUAL.get(key);
      if (key === "type" || key === "rope_type" || key === "rope_theta" || value == null || value === usual) continue;
      throw unsupported(`${key} ${value}`, usual === undefined ? "none" : String(usual));
    }
    const stated = [...YARN_USUAL].filter(([key]) => rest[key] != null);
    const betas = stated.map(([key, value]) => [`rope.scaling.yarn_${key}`, { kind: "f32", value } as const] as const);
    return {
      entries: [...entries, ["rope.scaling.original_context_length", { kind: "u32", value: known.data }], ...betas],
      constants: [],
    };
  },
  llama3({ scaling, theta, headSize }) {
    const numbers = parseAs(llama3Schema, scaling, (field, found) =>
      unsupported(`${field}: ${found}`, "the numbers of Llama 3's scaling"),
    );
    if (numbers.low_freq_factor === numbers.high_freq_factor) {
      throw unsupported("low_freq_factor and high_freq_factor of one value", "two values");
    }
    return { entries: [], constants: [{ name: FREQUENCIES, values: llama3Factors(numbers, theta, headSize) }] };
  },
};

/** Factors for texts of the length before scaling, and for longer ones; and what attention is multiplied by. */
function planLong({ scaling, headSize, context: after, original: before }: Parameters<Plan>[0]): RopeScaling {
  const numbers = parseAs(longSchema(headSize / 2), scaling, (field, found) =>
    unsupported(`${field}: ${found}`, `${headSize / 2} factors for short and for long texts`),
  );
  const factor = after / (before ?? after);
  if (before == null || numbers.attention_factor != null || (numbers.factor ?? factor) !== factor) {
    throw unsupported("a factor of its own", "original_max_position_embeddings, and what follows from it");
  }
  const scale = factor > 1 ? Math.sqrt(1 + Math.log(factor) / Math.log(before)) : 1;
  return {
    entries: [["rope.scaling.attn_factor", { kind: "f32", value: Math.fround(scale) }]],
    constants: [
      { name: LONG_FACTORS[0], values: new Float32Array(numbers.long_factor) },
      { name: LONG_FACTORS[1], values: new Float32Array(numbers.short_factor) },
    ],
  };
}

const longSchema = (count: number) => {
  const factors = z.array(positive).length(count);
  const own = { factor: positive.nullish(), attention_factor: positive.nullish() };
  return z.looseObject({ long_factor: factors, short_factor: factors, ...own });
};

/** What readers take without an entry; those of some families look for none. */
export const YARN_USUAL: ReadonlyMap<string, number> = new Map([
  ["beta_fast", 32],
  ["beta_slow", 1],
]);

function factorEntries(kind: string, factor: unknown): RopeScaling["entries"] {
  const known = positive.safeParse(Number(factor));
  if (!known.success) throw unsupported(`factor ${factor}`, "a number above 0");
  return [
    ["rope.scaling.type", { kind: "string", value: kind }],
    ["rope.scaling.factor", { kind: "f32", value: Math.fround(known.data) }],
  ];
}

/**
 * What each frequency is divided by: 1 for short waves, the factor for long ones, in between from one to the other.
 * Every operation rounds to float32, as the reference's do; its power may differ in the last place.
 */
function llama3Factors(
  { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: before }: Llama3,
  theta: number,
  headSize: number,
): Float32Array {
  const f = Math.fround;
  return Float32Array.from({ length: headSize / 2 }, (_, i) => {
    const frequency = f(1 / f(theta ** f((2 * i) / headSize)));
    const wave = f((2 * Math.PI) / frequency);
    if (wave < before / high) return 1;
    if (wave > before / low) return factor;
    const smooth = f(f(f(before / wave) - low) / (high - low));
    return f(1 / f(f(f(1 - smooth) / factor) + smooth));
  });
}

/** Numbers that all models of this scaling have. */
const USUAL = { low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
/** Relative: the power of another library. */
const TOLERANCE = 1e-5;

/** The scaling, as config.json has it, that these factors come from; undefined when they come from another. */
export function findLlama3(values: Float32Array, theta: number): Readonly<Record<string, unknown>> | undefined {
  const scaling = { factor: values.reduce((most, value) => Math.max(most, value), 0), ...USUAL };
  const expected = llama3Factors(scaling, theta, 2 * values.length);
  const isSame = values.every((value, i) => Math.abs(value - (expected[i] ?? 0)) <= TOLERANCE * Math.abs(value));
  return isSame && scaling.factor > 1 ? { rope_type: "llama3", ...scaling } : undefined;
}

function unsupported(found: string, expected: string): MergeyardError {
  const where = { file: "config.json", field: "rope_scaling" };
  return new MergeyardError("QuantizeModelUnsupported", { where, found, expected });
}
