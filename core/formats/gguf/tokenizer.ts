// A tokenizer.json as metadata of a GGUF file. Readers of GGUF know tokenizers by name, not by rule, so only those
// whose rules are exactly a named one's can be expressed; any other is refused, not written as something near it.
// Source: llama.cpp's converter; quantization reference section 2.
import * as z from "zod";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import { parseJsonDocument } from "../json-scan.ts";
import { describeSpecialTokens, looksSpecial } from "./special-tokens.ts";
import { type GgufMetadata, type GgufValue, TOKEN_TYPES } from "./type-codes.ts";

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const WORDS = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
const SPACES = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const REST = ` ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${SPACES}`;
const UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const START = "[^\\r\\n\\p{L}\\p{N}]?";
/** Words that begin again where a lower case letter is followed by an upper case one; `end` may follow each. */
const cased = (end: string) => `${START}${UPPER}*${LOWER}+${end}|${START}${UPPER}+${LOWER}*${end}`;
const SLASHED = ` ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${SPACES}`;
const MARKED = `${CONTRACTIONS}|${START}[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|${SPACES}`;

type GgufSplit = {
  /** Value of `tokenizer.ggml.pre`. */
  readonly name: string;
  /** Where text is split; absent: where the byte-level step itself does. */
  readonly pattern?: string;
  /** True where every digit is a part of its own, before that. */
  readonly splitsDigits?: boolean;
  /** What the models with this splitting have besides; readers do not run it. */
  readonly normalizer?: string;
  /** True where a part that is a token stays whole: readers know it by the name. */
  readonly ignoresMerges: boolean;
};

/** Ways of splitting text that have a name. Of two that split alike, the first with the same normalizer is taken. */
export const GGUF_SPLITS: readonly GgufSplit[] = Object.freeze([
  { name: "gpt-2", ignoresMerges: false },
  { name: "llama-bpe", pattern: `${CONTRACTIONS}|${WORDS}|\\p{N}{1,3}|${REST}`, ignoresMerges: true },
  { name: "dbrx", pattern: `${CONTRACTIONS}|${WORDS}|\\p{N}{1,3}|${REST}`, ignoresMerges: false },
  { name: "qwen2", pattern: `${CONTRACTIONS}|${WORDS}|\\p{N}|${REST}`, normalizer: "NFC", ignoresMerges: false },
  { name: "qwen35", pattern: MARKED, normalizer: "NFC", ignoresMerges: false },
  { name: "smollm", splitsDigits: true, ignoresMerges: false },
  { name: "command-r", splitsDigits: true, normalizer: "NFC", ignoresMerges: false },
  { name: "tekken", pattern: `${cased("")}|\\p{N}|${SLASHED}`, ignoresMerges: true },
  { name: "gpt-4o", pattern: `${cased(`${CONTRACTIONS}?`)}|\\p{N}{1,3}|${SLASHED}`, ignoresMerges: false },
]);

const id = z.int().nonnegative().max(8_000_000);
const tokenizerSchema = z.looseObject({
  added_tokens: z.array(z.looseObject({ id, content: z.string(), special: z.boolean().default(false) })).nullish(),
  normalizer: z.looseObject({ type: z.string() }).nullish(),
  pre_tokenizer: z.looseObject({ type: z.string() }).nullish(),
  model: z.looseObject({
    type: z.string(),
    vocab: z.custom<Readonly<Record<string, number>>>(isVocabulary),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).default([]),
    byte_fallback: z.boolean().nullish(),
    ignore_merges: z.boolean().nullish(),
  }),
});

/** Token to id, kept as it is: a schema of its own would drop a token named `__proto__`. */
function isVocabulary(value: unknown): boolean {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  return Object.values(value).every((each) => id.safeParse(each).success);
}

const byteLevel = z.looseObject({
  type: z.literal("ByteLevel"),
  add_prefix_space: z.literal(false).nullish(),
  use_regex: z.boolean().default(true),
});
/** A pattern that finds every part of a text may say so of the parts or of what is between them. */
const splitting = { type: z.literal("Split"), pattern: z.object({ Regex: z.string() }) };
const step = z.union([
  byteLevel,
  z.looseObject({ ...splitting, behavior: z.literal("Isolated"), invert: z.literal(false) }),
  z.looseObject({ ...splitting, behavior: z.literal("Removed"), invert: z.literal(true) }),
  z.looseObject({ type: z.literal("Digits"), individual_digits: z.literal(true) }),
]);
const steps = z.union([
  step.transform((only) => [only]),
  z.looseObject({ type: z.literal("Sequence"), pretokenizers: z.array(step) }).transform((all) => all.pretokenizers),
]);

export type TokenizerSource = {
  readonly tokenizerJson: Uint8Array;
  /** Parsed tokenizer_config.json, when there is one. */
  readonly tokenizerConfig: Readonly<Record<string, unknown>> | undefined;
  readonly config: Readonly<Record<string, unknown>> | undefined;
};

/** What a file says that has no tokenizer: readers then take token ids only. */
export const NO_TOKENIZER: GgufMetadata = new Map([["tokenizer.ggml.model", { kind: "string", value: "no_vocab" }]]);

/**
 * Metadata of a byte-level BPE tokenizer; ids without a token become unused ones, up to the config's vocab_size.
 * Throws QuantizeTokenizerUnsupported: another kind, rules that have no name, or more tokens than the model has rows.
 */
export function describeTokenizer({ tokenizerJson, tokenizerConfig, config }: TokenizerSource): GgufMetadata {
  const value = parseJsonDocument(tokenizerJson, {
    refuse: ({ offset, found, expected }) =>
      new MergeyardError("QuantizeTokenizerUnsupported", { where: { file: FILE, offset }, found, expected }),
  });
  const refuse = (field: string) => unsupported(field, "another form", "a BPE tokenizer");
  const { model, added_tokens: added, normalizer, pre_tokenizer: splits } = parseAs(tokenizerSchema, value, refuse);
  if (model.type !== "BPE" || model.byte_fallback === true) {
    const found = model.byte_fallback === true ? "BPE with byte fallback" : model.type;
    throw unsupported("model.type", found, "byte-level BPE");
  }
  if (normalizer != null && normalizer.type !== "NFC") throw unsupported("normalizer", normalizer.type, "NFC, or none");
  // Where nothing is merged, text is bytes however it is split.
  const isBytes = model.merges.length === 0 && model.ignore_merges !== true;
  const pre = nameSplitting(splits, {
    normalizer: normalizer?.type,
    ignoresMerges: model.ignore_merges === true,
    isBytes,
  });
  const tokens = listTokens(model.vocab, added ?? [], config);
  const metadata = new Map<string, GgufValue>();
  metadata.set("tokenizer.ggml.model", text("gpt2"));
  metadata.set("tokenizer.ggml.pre", text(pre));
  metadata.set(
    "tokenizer.ggml.tokens",
    list(
      "string",
      tokens.map(({ content }) => text(content)),
    ),
  );
  metadata.set(
    "tokenizer.ggml.token_type",
    list(
      "i32",
      tokens.map(({ type }) => ({ kind: "i32", value: type })),
    ),
  );
  const merges = model.merges.map((merge) => text(typeof merge === "string" ? merge : joinMerge(merge)));
  metadata.set("tokenizer.ggml.merges", list("string", merges));
  const source = { tokenizerJson: value, settings: tokenizerConfig, config };
  for (const [key, entry] of describeSpecialTokens(source, tokens.length)) metadata.set(key, entry);
  return metadata;
}

const FILE = "tokenizer.json";

/** What a tokenizer without merges is called. */
const BYTES = "gpt-2";

type SplitRules = {
  readonly normalizer: string | undefined;
  readonly ignoresMerges: boolean;
  /** It does not matter where text is split. */
  readonly isBytes: boolean;
};

/** The name of where text is split. */
function nameSplitting(value: unknown, { normalizer, ignoresMerges, isBytes }: SplitRules): string {
  const parts = steps.safeParse(value).data ?? [];
  if (isBytes && parts.at(-1)?.type === "ByteLevel") return BYTES;
  const digits = parts[0]?.type === "Digits" ? 1 : 0;
  const [first, last = first, ...others] = parts.slice(digits);
  const pattern = first?.type === "Split" ? first.pattern.Regex : undefined;
  // The pattern, or the byte-level step itself.
  const isWhole = last?.type === "ByteLevel" && others.length === 0 && last.use_regex === (pattern === undefined);
  const isPaired = pattern === undefined ? first === last : first !== last;
  const alike = GGUF_SPLITS.filter(
    (split) =>
      split.pattern === pattern &&
      (split.splitsDigits === true) === (digits === 1) &&
      split.ignoresMerges === ignoresMerges,
  );
  const known = alike.find((split) => split.normalizer === normalizer) ?? alike[0];
  if (known !== undefined && isWhole && isPaired) return known.name;
  const names = GGUF_SPLITS.map(({ name }) => name).join(", ");
  throw unsupported("pre_tokenizer", "rules without a name", `the rules of ${names}`);
}

/** Spaces part the two tokens of a merge, so that none may be inside of one. */
function joinMerge([left, right]: readonly [string, string]): string {
  if (!left.includes(" ") && !right.includes(" ")) return `${left} ${right}`;
  throw unsupported("model.merges", JSON.stringify([left, right]), "tokens without spaces");
}

type Token = { readonly content: string; readonly type: number };

function listTokens(
  vocabulary: Readonly<Record<string, number>>,
  added: readonly { readonly id: number; readonly content: string; readonly special: boolean }[],
  config: TokenizerSource["config"],
): readonly Token[] {
  const tokens = new Map<number, Token>(
    Object.entries(vocabulary).map(([content, at]) => [at, { content, type: TOKEN_TYPES.normal }]),
  );
  for (const { id: at, content, special } of added) {
    const isControl = special || looksSpecial(content);
    const type = TOKEN_TYPES[isControl ? "control" : "user-defined"];
    tokens.set(at, { content: isControl ? content : content.replaceAll("\u2581", " "), type });
  }
  const rows = Number(config?.vocab_size);
  const largest = [...tokens.keys()].reduce((max, at) => Math.max(max, at), -1);
  if (largest >= rows) throw unsupported("model.vocab", `id ${largest}`, `ids below the model's ${rows} rows`);
  return Array.from({ length: rows }, (_, at) => tokens.get(at) ?? { content: `[PAD${at}]`, type: TOKEN_TYPES.unused });
}

function text(value: string): GgufValue {
  return { kind: "string", value };
}

function list(element: "string" | "i32", values: readonly GgufValue[]): GgufValue {
  return { kind: "array", element, values };
}

function unsupported(field: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("QuantizeTokenizerUnsupported", { where: { file: FILE, field }, found, expected });
}
