// `tokenizer.json` of the Hugging Face tokenizers library: its vocabulary read, and written back with another one.
// Everything else in the file (normalizer, pre-tokenizer, post-processor, decoder) is kept as it is and never run.
// Source of the form: the library's serialisation, version "1.0".
import * as z from "zod";
import { type ErrorPlace, MergeyardError } from "../error.ts";
import { parseJsonDocument } from "../formats/json-scan.ts";
import { TOKENIZER_LIMITS } from "../limits.ts";
import { parseAs } from "../parse-as.ts";
import type { AddedToken, Tokenizer, TokenPair, Vocabulary } from "./tokenizer.ts";

const tokenId = z.int().nonnegative().max(TOKENIZER_LIMITS.tokens);
const addedTokenSchema = z.looseObject({
  id: tokenId,
  content: z.string(),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  normalized: z.boolean().default(true),
  special: z.boolean().default(false),
});

/** `merges` are pairs, or in older files both tokens with a space between them. */
const mergeSchema = z.union([z.tuple([z.string(), z.string()]), z.string().regex(/^[^ ]+ [^ ]+$/)]);

/** Token to id; Unigram models have a list of tokens and scores instead. Read by hand: zod drops `__proto__`. */
const vocabSchema = z.unknown().transform((value, context): Map<string, number> | readonly [string, number][] => {
  const list = z.array(z.tuple([z.string(), z.number()])).safeParse(value);
  if (list.success) return list.data;
  const entries = typeof value === "object" && value !== null && !Array.isArray(value) ? Object.entries(value) : [];
  const wrong = entries.find(([, id]) => !tokenId.safeParse(id).success);
  if (entries.length > 0 && wrong === undefined) return new Map(entries);
  context.addIssue({ code: "custom", message: wrong === undefined ? "no tokens" : `id ${String(wrong[1])}` });
  return z.NEVER;
});

const modelSchema = z.looseObject({
  type: z.string().nullish(),
  vocab: vocabSchema,
  merges: z.array(mergeSchema).nullish(),
  continuing_subword_prefix: z.string().nullish(),
});

const documentSchema = z.looseObject({
  added_tokens: z.array(addedTokenSchema).nullish(),
  model: modelSchema,
});

type TokenizerDocument = z.output<typeof documentSchema>;

/** Parts that decide where text is cut before the model sees it. */
const SPLITTING_KEYS = ["normalizer", "pre_tokenizer"] as const;

/** A tokenizer.json as it is; `where` is its place in errors. Throws PlanTokenizerInvalid. */
export function parseTokenizerJson(bytes: Uint8Array, where: ErrorPlace): TokenizerDocument {
  const value = parseJsonDocument(bytes, {
    refuse: ({ offset, found, expected }) =>
      new MergeyardError("PlanTokenizerInvalid", { where: { ...where, offset }, found, expected }),
  });
  return parseAs(
    documentSchema,
    value,
    (field, found) => new MergeyardError("PlanTokenizerInvalid", { where: { ...where, field }, found }),
  );
}

/** Reads a tokenizer.json; `where` is its place in errors. Throws PlanTokenizerInvalid. */
export function readTokenizerJson(bytes: Uint8Array, where: ErrorPlace): Tokenizer {
  return describeTokenizer(parseTokenizerJson(bytes, where));
}

export function describeTokenizer(document: TokenizerDocument): Tokenizer {
  const model = modelName(document);
  const prefix = document.model.continuing_subword_prefix ?? "";
  return {
    vocabulary: readVocabulary(document),
    model,
    takesTokens: document.model.vocab instanceof Map,
    merges: (document.model.merges ?? []).map(readMerge),
    join: ([left, right]) => left + (right.startsWith(prefix) ? right.slice(prefix.length) : right),
    splitting: JSON.stringify(SPLITTING_KEYS.map((key) => document[key] ?? null)),
    write: (vocabulary, merges) => writeDocument(document, vocabulary, merges),
  };
}

/** Old files leave the type out; only byte-pair models have merges. */
function modelName({ model }: TokenizerDocument): string {
  return model.type ?? (model.merges == null ? "WordLevel" : "BPE");
}

function readVocabulary({ model, added_tokens: listed }: TokenizerDocument): Vocabulary {
  const ids = new Map<string, number>();
  if (model.vocab instanceof Map) for (const [token, id] of model.vocab) ids.set(token, id);
  else model.vocab.forEach(([token], id) => void ids.set(token, id));
  const added = (listed ?? []).map(({ id, content, single_word, lstrip, rstrip, normalized, special }): AddedToken => {
    // The library gives an added token the id that the model has for it, whatever the list says.
    if (!ids.has(content)) ids.set(content, id);
    const flags = { single_word, lstrip, rstrip, normalized, special };
    return { content, id: ids.get(content) ?? id, flags };
  });
  return { ids, added: added.sort((a, b) => a.id - b.id) };
}

function readMerge(merge: TokenPair | string): TokenPair {
  if (typeof merge !== "string") return merge;
  const space = merge.indexOf(" ");
  return [merge.slice(0, space), merge.slice(space + 1)];
}

/**
 * The document with another vocabulary. Added tokens are listed in the model's vocabulary too: the library gives one
 * that is not in it the next free id instead of the one that the file says.
 */
function writeDocument(document: TokenizerDocument, vocabulary: Vocabulary, merges: readonly TokenPair[]): string {
  const { vocab } = document.model;
  const byId = [...vocabulary.ids].sort((a, b) => a[1] - b[1]);
  const model: Record<string, unknown> = { ...document.model };
  // A list's ids are its places: it is never longer, and only loses what no row stands for.
  model.vocab = vocab instanceof Map ? Object.fromEntries(byId) : vocab.slice(0, (byId.at(-1)?.[1] ?? -1) + 1);
  if (document.model.merges != null) model.merges = writeMerges(document.model.merges, merges);
  const added = vocabulary.added.map(({ id, content, flags }) => ({ id, content, ...flags }));
  return `${JSON.stringify({ ...document, added_tokens: added, model })}\n`;
}

/** In the form of the file, unless a token with a space needs pairs. */
function writeMerges(own: readonly unknown[], merges: readonly TokenPair[]): readonly unknown[] {
  const asText = own.every((merge) => typeof merge === "string") && !merges.flat().some((token) => token.includes(" "));
  return asText ? merges.map((pair) => pair.join(" ")) : merges;
}
