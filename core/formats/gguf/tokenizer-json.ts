// The tokenizer of a GGUF file as the files that models have: tokenizer.json for byte-level BPE with a named splitting,
// the way back of tokenizer.ts, or a SentencePiece model. For every other the caller says what is lost.
import { textOf } from "./config.ts";
import { GGUF_SPLITS } from "./tokenizer.ts";
import { rebuildSentencePiece } from "./tokenizer-model.ts";
import { type GgufMetadata, type GgufValue, TOKEN_TYPES } from "./type-codes.ts";

/** `documents`: files by name. `lost`: the tokenizer that cannot be written. */
export type RebuiltTokenizer = {
  readonly documents: readonly (readonly [string, Uint8Array])[];
  readonly lost: string | undefined;
};

/** The tokenizer's files; nothing at all for a file without one. */
export function rebuildTokenizer(metadata: GgufMetadata): RebuiltTokenizer {
  const model = textOf(metadata, "tokenizer.ggml.model");
  if (model === undefined || model === NONE) return { documents: [], lost: undefined };
  const pre = textOf(metadata, "tokenizer.ggml.pre") ?? "default";
  const splitting = splittingOf(pre);
  const tokens = textsOf(metadata, "tokenizer.ggml.tokens");
  const merges = textsOf(metadata, "tokenizer.ggml.merges");
  const lost = { documents: [], lost: `${model}, ${pre}` };
  if (model === SENTENCE_PIECE) {
    const documents = tokens && rebuildModel(metadata, tokens);
    return documents === undefined ? lost : { documents, lost: undefined };
  }
  if (model !== BYTE_LEVEL || splitting === undefined || tokens === undefined || merges === undefined) return lost;
  const types = numbersOf(metadata, "tokenizer.ggml.token_type");
  const pairs = merges.map((merge) => merge.split(" "));
  if (pairs.some((pair) => pair.length !== 2) || (types !== undefined && types.length !== tokens.length)) return lost;
  const typeOf = (id: number) => types?.[id] ?? TOKEN_TYPES.normal;
  const ids = tokens.map((content, id) => ({ content, id, type: typeOf(id) }));
  const isAdded = ({ type }: { type: number }) => type === TOKEN_TYPES.control || type === TOKEN_TYPES["user-defined"];
  const document = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: ids.filter(isAdded).map(({ content, id, type }) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: type === TOKEN_TYPES.control,
    })),
    normalizer: splitting.normalizer,
    pre_tokenizer: splitting.pre,
    post_processor: postProcessor(metadata, tokens),
    decoder: { ...LEVEL, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: splitting.ignoresMerges,
      vocab: vocabularyOf(ids.filter((token) => !isAdded(token) && token.type !== TOKEN_TYPES.unused)),
      merges: pairs,
    },
  };
  return {
    documents: [
      ["tokenizer.json", encodeJson(document)],
      [SETTINGS, encodeJson({ ...settingsOf(metadata, tokens), tokenizer_class: "PreTrainedTokenizerFast" })],
    ],
    lost: undefined,
  };
}

const NONE = "no_vocab";
const BYTE_LEVEL = "gpt2";
const SENTENCE_PIECE = "llama";
const SETTINGS = "tokenizer_config.json";
const LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };

function encodeJson(value: object): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
}

/** tokenizer.model and its settings; undefined for tokens that make none. */
function rebuildModel(metadata: GgufMetadata, texts: readonly string[]): RebuiltTokenizer["documents"] | undefined {
  const scores = numbersOf(metadata, "tokenizer.ggml.scores");
  const types = numbersOf(metadata, "tokenizer.ggml.token_type");
  if (scores?.length !== texts.length || types?.length !== texts.length) return undefined;
  const tokens = texts.map((text, id) => ({ text, score: scores[id] ?? 0, type: types[id] ?? 0 }));
  const prefix = metadata.get("tokenizer.ggml.add_space_prefix");
  const idOf = (key: string) => specialToken(metadata, key, texts)?.id;
  const rebuilt = rebuildSentencePiece({
    tokens,
    addsPrefix: prefix?.kind !== "bool" || prefix.value,
    unk: idOf("unknown_token_id"),
    bos: idOf("bos_token_id"),
    eos: idOf("eos_token_id"),
  });
  if (rebuilt === undefined) return undefined;
  const settings = {
    ...settingsOf(metadata, texts),
    ...(prefix?.kind === "bool" ? { add_prefix_space: prefix.value } : {}),
    added_tokens_decoder: rebuilt.added,
    tokenizer_class: "LlamaTokenizer",
  };
  return [
    ["tokenizer.model", rebuilt.model],
    [SETTINGS, encodeJson(settings)],
  ];
}

/** How a named pre-tokenizer is spelled out. */
function splittingOf(name: string) {
  const known = GGUF_SPLITS.find((split) => split.name === name);
  if (known === undefined) return undefined;
  const { pattern, splitsDigits, normalizer, ignoresMerges } = known;
  const digits = splitsDigits === true ? [{ type: "Digits", individual_digits: true }] : [];
  const split = { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
  const own = pattern === undefined ? [] : [split];
  const steps = [...digits, ...own, { ...LEVEL, use_regex: pattern === undefined }];
  const pre = steps.length === 1 ? steps[0] : { type: "Sequence", pretokenizers: steps };
  return { pre, normalizer: normalizer === undefined ? null : { type: normalizer }, ignoresMerges };
}

/** Token to id, without a prototype: a token may be named `__proto__`. */
function vocabularyOf(tokens: readonly { readonly content: string; readonly id: number }[]): Record<string, number> {
  const vocabulary: Record<string, number> = Object.create(null);
  for (const { content, id } of tokens) vocabulary[content] = id;
  return vocabulary;
}

/** Puts the first token before every text, where the file says so. */
function postProcessor(metadata: GgufMetadata, tokens: readonly string[]) {
  const adds = metadata.get("tokenizer.ggml.add_bos_token");
  const bos = specialToken(metadata, "bos_token_id", tokens);
  if (adds?.kind !== "bool" || !adds.value || bos === undefined) return { ...LEVEL, use_regex: true };
  const sequence = (id: string, type: number) => ({ Sequence: { id, type_id: type } });
  const isParted = metadata.has("tokenizer.ggml.add_sep_token");
  const first = (type: number) => ({ SpecialToken: { id: bos.content, type_id: type } });
  return {
    type: "TemplateProcessing",
    single: [first(0), sequence("A", 0)],
    pair: [first(0), sequence("A", 0), ...(isParted ? [first(1)] : []), sequence("B", 1)],
    special_tokens: { [bos.content]: { id: bos.content, ids: [bos.id], tokens: [bos.content] } },
  };
}

function specialToken(metadata: GgufMetadata, key: string, tokens: readonly string[]) {
  const entry = metadata.get(`tokenizer.ggml.${key}`);
  if (entry?.kind !== "u32") return undefined;
  const content = tokens[entry.value];
  return content === undefined ? undefined : { id: entry.value, content };
}

function settingsOf(metadata: GgufMetadata, tokens: readonly string[]): Record<string, unknown> {
  const named = [
    ["bos_token", "bos_token_id"],
    ["eos_token", "eos_token_id"],
    ["unk_token", "unknown_token_id"],
    ["pad_token", "padding_token_id"],
  ] as const;
  const special = named.flatMap(([name, key]) => {
    const token = specialToken(metadata, key, tokens);
    return token === undefined ? [] : [[name, token.content] as const];
  });
  const adds = ["add_bos_token", "add_eos_token", "add_sep_token"].flatMap((name) => {
    const entry = metadata.get(`tokenizer.ggml.${name}`);
    return entry?.kind === "bool" ? [[name, entry.value] as const] : [];
  });
  const template = textOf(metadata, "tokenizer.chat_template");
  return {
    ...Object.fromEntries(adds),
    ...Object.fromEntries(special),
    ...(template === undefined ? {} : { chat_template: template }),
  };
}

function itemsOf(metadata: GgufMetadata, key: string): readonly GgufValue[] | undefined {
  const entry = metadata.get(key);
  return entry?.kind === "array" ? entry.values : undefined;
}

function textsOf(metadata: GgufMetadata, key: string): readonly string[] | undefined {
  const items = itemsOf(metadata, key);
  const texts = items?.flatMap((item) => (item.kind === "string" ? [item.value] : []));
  return texts?.length === items?.length ? texts : undefined;
}

function numbersOf(metadata: GgufMetadata, key: string): readonly number[] | undefined {
  return itemsOf(metadata, key)?.map((item) => ("value" in item ? Number(item.value) : 0));
}
