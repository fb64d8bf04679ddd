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
const REST = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

type GgufSplit = {
  /** Value of `tokenizer.ggml.pre`. */
  readonly name: string;
  /** Where text is split; absent: where the byte-level step itself does. */
  readonly pattern?: string;
  /** What the models with this splitting have besides. */
  readonly normalizer?: string;
  readonly ignoresMerges: boolean;
};

/** Ways of splitting text that have a name. */
export const GGUF_SPLITS: readonly GgufSplit[] = Object.freeze([
  { name: "gpt-2", ignoresMerges: false },
  { name: "llama-bpe", pattern: `${CONTRACTIONS}|${WORDS}|\\p{N}{1,3}|${REST}`, ignoresMerges: true },
  { name: "qwen2", pattern: `${CONTRACTIONS}|${WORDS}|\\p{N}|${REST}`, normalizer: "NFC", ignoresMerges: false },
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

const byteLevel = z.looseObject({ type: z.literal("ByteLevel"), use_regex: z.boolean().default(true) });
const sequence = z.looseObject({
  type: z.literal("Sequence"),
  pretokenizers: z.tuple([
    z.looseObject({
      type: z.literal("Split"),
      pattern: z.object({ Regex: z.string() }),
      behavior: z.literal("Isolated"),
      invert: z.literal(false),
    }),
    byteLevel,
  ]),
});

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
  const { model, added_tokens: added, normalizer, pre_tokenizer: splitting } = parseAs(tokenizerSchema, value, refuse);
  if (model.type !== "BPE" || model.byte_fallback === true) {
    const found = model.byte_fallback === true ? "BPE with byte fallback" : model.type;
    throw unsupported("model.type", found, "byte-level BPE");
  }
  if (normalizer != null && normalizer.type !== "NFC") throw unsupported("normalizer", normalizer.type, "NFC, or none");
  // Where nothing is merged, text is bytes however it is split.
  const isBytes = model.merges.length === 0 && model.ignore_merges !== true;
  const pre = nameSplitting(splitting, isBytes);
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

/** The name of where text is split; `isBytes`: it does not matter where. */
function nameSplitting(splitting: unknown, isBytes: boolean): string {
  const plain = byteLevel.safeParse(splitting);
  const parts = sequence.safeParse(splitting);
  const isPlain = plain.success && (plain.data.use_regex || isBytes);
  const isSplit = parts.success && !parts.data.pretokenizers[1].use_regex;
  const pattern = isSplit ? parts.data.pretokenizers[0].pattern.Regex : undefined;
  const known = isPlain || isSplit ? GGUF_SPLITS.find((split) => split.pattern === pattern) : undefined;
  if (known !== undefined) return known.name;
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
