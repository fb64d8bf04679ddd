// The parts of tokenizer.json that decide how text becomes tokens, as far as text is encoded here: byte-pair models
// behind the normalizers and pre-tokenizers that the tokenizers of Llama, Mistral, Qwen and their like have.
// Source: the tokenizers library's serialisation, version "1.0", and its defaults.
import * as z from "zod";
import { type ErrorPlace, MergeyardError } from "../../error.ts";
import { isJsonObject } from "../../json.ts";
import { TOKENIZER_LIMITS } from "../../limits.ts";
import { parseAs } from "../../parse-as.ts";

/** Put into the text, perhaps at every space of it. */
const inserted = z.string().max(TOKENIZER_LIMITS.insertedCharacters);
const literal = z.strictObject({ String: z.string().min(1) });
const unicodeForms = ["NFC", "NFD", "NFKC", "NFKD"] as const;

const normalizerSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("Prepend"), prepend: inserted }),
  z.strictObject({ type: z.literal("Replace"), pattern: literal, content: inserted }),
  z.strictObject({ type: z.enum(unicodeForms) }),
  z.strictObject({ type: z.literal("Lowercase") }),
]);
export type Normalizer = z.output<typeof normalizerSchema>;

const preTokenizerSchema = z.discriminatedUnion("type", [
  z.strictObject({
    type: z.literal("Split"),
    pattern: z.union([literal, z.strictObject({ Regex: z.string() })]),
    behavior: z.enum(["Isolated", "Removed"]),
    invert: z.boolean(),
  }),
  z.strictObject({
    type: z.literal("ByteLevel"),
    add_prefix_space: z.boolean(),
    trim_offsets: z.boolean().optional(),
    use_regex: z.boolean().default(true),
  }),
  z.strictObject({
    type: z.literal("Metaspace"),
    replacement: inserted.min(1),
    str_rep: inserted.optional(),
    prepend_scheme: z.enum(["always", "first", "never"]).optional(),
    /** Of older files, in place of the scheme. */
    add_prefix_space: z.boolean().default(true),
    split: z.boolean().default(true),
  }),
  z.strictObject({ type: z.literal("Digits"), individual_digits: z.boolean().default(false) }),
]);
export type PreTokenizer = z.output<typeof preTokenizerSchema>;

const modelSchema = z.object({
  type: z.literal("BPE").nullish(),
  dropout: z.literal(0).nullish(),
  unk_token: z.string().nullish(),
  continuing_subword_prefix: z.literal("").nullish(),
  end_of_word_suffix: z.literal("").nullish(),
  fuse_unk: z.boolean().nullish(),
  byte_fallback: z.boolean().nullish(),
  ignore_merges: z.boolean().nullish(),
});
export type BytePairOptions = z.output<typeof modelSchema>;

export type EncodingParts = {
  readonly normalizers: readonly Normalizer[];
  readonly preTokenizers: readonly PreTokenizer[];
  readonly model: BytePairOptions;
};

/** Throws PlanTokenizerNotSupported for a part of another kind, by its field. */
export function readEncodingParts(
  { normalizer, pre_tokenizer: preTokenizer, model }: Readonly<Record<string, unknown>>,
  where: ErrorPlace,
): EncodingParts {
  const parse = <Schema extends z.ZodType>(schema: Schema, value: unknown, key: string): z.output<Schema> =>
    parseAs(schema, value, (field, found) => {
      const place = { ...where, field: [key, field].filter((part) => part !== "").join(".") };
      return new MergeyardError("PlanTokenizerNotSupported", { where: place, found });
    });
  const steps = <Step extends z.ZodType>(step: Step) => z.array(step).max(TOKENIZER_LIMITS.steps);
  return {
    normalizers: parse(steps(normalizerSchema), stepsOf(normalizer, "normalizers"), "normalizer"),
    preTokenizers: parse(steps(preTokenizerSchema), stepsOf(preTokenizer, "pretokenizers"), "pre_tokenizer"),
    model: parse(modelSchema, model, "model"),
  };
}

/** A step, the steps of a sequence, or none. */
function stepsOf(part: unknown, key: string): unknown {
  if (part == null) return [];
  return isJsonObject(part) && part.type === "Sequence" ? part[key] : [part];
}
