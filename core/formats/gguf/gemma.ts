// What a Gemma's config.json says beyond the llama family's, as entries of a GGUF file and back: layers that see a
// window, and caps of logits. Readers of GGUF take several numbers as given: a model with others is refused. Called by
// model.ts and config.ts.
// Source: llama.cpp, convert_hf_to_gguf.py (GemmaModel, Gemma2Model, Gemma3Model) and the models' hyperparameters in
// llama-model.cpp; transformers, modeling_gemma2.py and modeling_gemma3.py.
import * as z from "zod";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import type { GgufWindows } from "./names.ts";
import type { GgufValue } from "./type-codes.ts";

const LOCAL_THETA = 10000;
const positive = z.number().positive();

const configSchema = z.looseObject({
  num_hidden_layers: z.int().positive(),
  hidden_size: z.int().positive(),
  num_attention_heads: z.int().positive(),
  head_dim: z.int().positive(),
  sliding_window: z.int().positive(),
  sliding_window_pattern: z.int().positive().nullish(),
  layer_types: z.array(z.string()).nullish(),
  query_pre_attn_scalar: positive,
  attn_logit_softcapping: positive.nullish(),
  final_logit_softcapping: positive.nullish(),
  rope_local_base_freq: positive.nullish(),
  rope_parameters: z.looseObject({ sliding_attention: z.looseObject({ rope_theta: positive }).nullish() }).nullish(),
  use_bidirectional_attention: z.boolean().nullish(),
});
type Config = z.output<typeof configSchema>;

/** Keys of config.json and of the file, after the architecture. */
const CAPS = [
  ["attn_logit_softcapping", "attn_logit_softcapping"],
  ["final_logit_softcapping", "final_logit_softcapping"],
] as const;
const WINDOW = "attention.sliding_window";
/** The base of rotary embeddings in layers of windows. */
export const LOCAL_BASE = "rope.freq_base_swa";

/** Entries without the architecture. Throws QuantizeModelUnsupported: a number that readers would not follow. */
export function describeWindows(value: unknown, windows: GgufWindows): readonly (readonly [string, GgufValue])[] {
  const config = parseAs(configSchema, value, (field, found) => unsupported(field, found, "a number above 0"));
  checkFixed(config, windows);
  const caps = CAPS.flatMap(([field, key]) => {
    const cap = config[field];
    if (cap == null && windows.capped) throw unsupported(field, "nothing", "a number above 0");
    if (cap != null && !windows.capped) throw unsupported(field, String(cap), "nothing");
    return cap == null ? [] : [[key, { kind: "f32", value: Math.fround(cap) }] as const];
  });
  const theta = Math.fround(localThetaOf(config));
  const bases = windows.localTheta ? [[LOCAL_BASE, { kind: "f32", value: theta }] as const] : [];
  return [...caps, [WINDOW, { kind: "u32", value: config.sliding_window }], ...bases];
}

/** What the root of is the scale of attention: readers know it by the number of layers. */
function scalarOf(
  config: Pick<Config, "num_hidden_layers" | "hidden_size" | "num_attention_heads" | "head_dim">,
  { largeLayers }: GgufWindows,
): number {
  return config.num_hidden_layers === largeLayers ? config.hidden_size / config.num_attention_heads : config.head_dim;
}

/** The base of rotary embeddings in layers that see a window. */
function localThetaOf({ rope_local_base_freq: own, rope_parameters: rope }: Config): number {
  return own ?? rope?.sliding_attention?.rope_theta ?? LOCAL_THETA;
}

function checkFixed(config: Config, windows: GgufWindows): void {
  const { pattern } = windows;
  const isWide = (layer: number) => (layer + 1) % pattern === 0;
  const types = Array.from({ length: config.num_hidden_layers }, (_, layer) =>
    isWide(layer) ? "full_attention" : "sliding_attention",
  );
  const { layer_types: stated } = config;
  const fixed: readonly (readonly [string, unknown, unknown])[] = [
    ["sliding_window_pattern", config.sliding_window_pattern ?? pattern, pattern],
    ["layer_types", (stated ?? types).join(), types.join()],
    ["query_pre_attn_scalar", config.query_pre_attn_scalar, scalarOf(config, windows)],
    ["use_bidirectional_attention", config.use_bidirectional_attention ?? false, false],
  ];
  for (const [field, found, expected] of fixed) {
    if (found !== expected) throw unsupported(field, String(found), String(expected));
  }
}

type Sizes = Parameters<typeof scalarOf>[0];

/** The same as config.json has it; `number` reads an entry. */
export function readWindows(
  number: (key: string) => number | undefined,
  sizes: Sizes,
  windows: GgufWindows,
): Readonly<Record<string, unknown>> {
  const { pattern, localTheta } = windows;
  const caps = CAPS.map(([field, key]) => [field, number(key) ?? null] as const);
  return {
    sliding_window: number(WINDOW) ?? windows.window,
    query_pre_attn_scalar: scalarOf(sizes, windows),
    ...Object.fromEntries(caps),
    ...(localTheta ? { sliding_window_pattern: pattern, rope_local_base_freq: number(LOCAL_BASE) ?? LOCAL_THETA } : {}),
  };
}

function unsupported(field: string, found: string, expected: string): MergeyardError {
  const where = { file: "config.json", field };
  return new MergeyardError("QuantizeModelUnsupported", { where, found, expected });
}
