// Which rows of two models stand for the same token, whatever their tokenizers write it as: ordinary tokens by the
// bytes of the text that they stand for, added ones by their text as it is, and special ones besides by what they are
// for.
// Source: mergekit, mergekit/tokenizer/normalization.py, which compares texts as they are written but for a mark of
// words' starts, and special tokens by purpose alone; what follows from the difference is in docs/transplant.md.
import { BYTE_CHARACTERS } from "../tokenizer/byte-level.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** A model's tokenizer, and what it uses tokens for: `eos_token` and the like, with the token's text. */
export type UsedTokenizer = {
  readonly tokenizer: Tokenizer;
  readonly roles: ReadonlyMap<string, string>;
};

/** By id of the donor's tokens: the base's row, or NO_ROW. */
export type TokenMatches = {
  /** 1 where the donor has a token of this id. */
  readonly isToken: Uint8Array;
  /** The same token. */
  readonly same: Int32Array;
  /** Where there is none: the same byte, of a byte token and an ordinary one, */
  readonly byte: Int32Array;
  /** or the longest text that the token's text begins with. */
  readonly prefix: Int32Array;
};

export const NO_ROW = -1;

/**
 * text: `key` is the bytes, as one character each. byte: a token such as `<0x0A>`, which stands for a byte that no text
 * covers; `key` is that byte. added: `key` is its text.
 */
type Token = { readonly kind: "text" | "byte" | "added"; readonly key: string; readonly isSpecial: boolean };

type Index = {
  readonly text: ReadonlyMap<string, number>;
  readonly byte: ReadonlyMap<string, number>;
  readonly added: ReadonlyMap<string, number>;
};

/** `rows` are those of the base's matrices: ids from there on stand for nothing. */
export function matchTokens(base: UsedTokenizer, donor: UsedTokenizer, rows: number): TokenMatches {
  const known = indexTokens(readTokens(base).filter(({ id }) => id < rows));
  const tokens = readTokens(donor);
  const size = tokens.reduce((most, { id }) => Math.max(most, id + 1), 0);
  const own = indexTokens(tokens);
  const empty = (): Int32Array => new Int32Array(size).fill(NO_ROW);
  const matches = { isToken: new Uint8Array(size), same: empty(), byte: empty(), prefix: empty() };
  const rolesOf = Map.groupBy(donor.roles, ([, text]) => text);
  for (const { id, token } of tokens) {
    matches.isToken[id] = 1;
    const roles = (rolesOf.get(token.key) ?? []).map(([role]) => role);
    const same = findSame(token, known, own) ?? findByRole(token, roles, base, known);
    matches.same[id] = same ?? NO_ROW;
    if (same !== undefined || token.isSpecial) continue;
    matches.byte[id] = (token.kind === "byte" ? known.text : known.byte).get(token.key) ?? NO_ROW;
    matches.prefix[id] = findPrefix(token, known) ?? NO_ROW;
  }
  return matches;
}

/** A byte token is also the text of its byte, in a vocabulary that has no other token for it. */
function findSame({ kind, key, isSpecial }: Token, known: Index, own: Index): number | undefined {
  if (kind === "added") return known.added.get(key) ?? (isSpecial ? undefined : known.text.get(bytesOf(key)));
  if (kind === "byte") return known.byte.get(key) ?? (own.text.has(key) ? undefined : known.text.get(key));
  return known.text.get(key) ?? known.byte.get(key);
}

function findByRole({ kind }: Token, roles: readonly string[], base: UsedTokenizer, known: Index): number | undefined {
  if (kind !== "added") return undefined;
  for (const role of roles) {
    const row = known.added.get(base.roles.get(role) ?? "");
    if (row !== undefined) return row;
  }
  return undefined;
}

/** Cut between characters; nothing but spaces says too little of what is more than that. */
function findPrefix({ kind, key }: Token, { text }: Index): number | undefined {
  const bytes = kind === "added" ? bytesOf(key) : key;
  for (let length = bytes.length - 1; length > 0; length--) {
    const begun = bytes.slice(0, length);
    if (isSpace(begun) && !isSpace(bytes)) return undefined;
    const isInside = (bytes.charCodeAt(length) & 0xc0) === 0x80;
    const row = isInside ? undefined : text.get(begun);
    if (row !== undefined) return row;
  }
  return undefined;
}

function isSpace(text: string): boolean {
  return /^[\t-\r ]*$/.test(text);
}

/** The lowest id counts where several tokens have one key; ordinary tokens go before added ones. */
function indexTokens(tokens: ReturnType<typeof readTokens>): Index {
  const maps = { text: new Map<string, number>(), byte: new Map<string, number>(), added: new Map<string, number>() };
  const put = (map: Map<string, number>, key: string, id: number): void => {
    if (!map.has(key)) map.set(key, id);
  };
  for (const { id, token } of tokens) put(maps[token.kind], token.key, id);
  for (const { id, token } of tokens) {
    if (token.kind === "added" && !token.isSpecial) put(maps.text, bytesOf(token.key), id);
  }
  return maps;
}

/** By id, the bytes that a token stands for, as one character each. */
export function tokenBytes(model: UsedTokenizer): ReadonlyMap<number, string> {
  const tokens = readTokens(model);
  return new Map(tokens.map(({ id, token: { kind, key } }) => [id, kind === "added" ? bytesOf(key) : key]));
}

/** Tokens in ascending order of ids. */
function readTokens({ tokenizer, roles }: UsedTokenizer) {
  const { ids, added } = tokenizer.vocabulary;
  const flags = new Map(added.map((token) => [token.content, token.flags]));
  const named = new Set(roles.values());
  const decode = decoderOf(tokenizer);
  const tokens = [...ids].map(([text, id]) => {
    const isSpecial = named.has(text) || flags.get(text)?.special === true;
    const token: Token = isSpecial || flags.has(text) ? { kind: "added", key: text, isSpecial } : decode(text);
    return { id, token };
  });
  return tokens.sort((a, b) => a.id - b.id);
}

/** What an ordinary token stands for: the tokenizer's own way to cut text tells how it writes spaces and bytes. */
function decoderOf({ splitting }: Tokenizer): (text: string) => Token {
  const textToken = (key: string): Token => ({ kind: "text", key, isSpecial: false });
  if (splitting.includes('"ByteLevel"')) {
    return (text) => textToken([...text].every((own) => BYTES.has(own)) ? decodeByteLevel(text) : bytesOf(text));
  }
  if (!splitting.includes('"Metaspace"') && !splitting.includes(SPACE)) return (text) => textToken(bytesOf(text));
  return (text) => {
    const [, byte] = /^<0x([0-9A-F]{2})>$/.exec(text) ?? [];
    if (byte === undefined) return textToken(bytesOf(text.replaceAll(SPACE, " ")));
    return { kind: "byte", key: String.fromCharCode(Number.parseInt(byte, 16)), isSpecial: false };
  };
}

/** U+2581, which SentencePiece writes for a space. */
const SPACE = "\u2581";

function bytesOf(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}

function decodeByteLevel(text: string): string {
  return [...text].map((own) => BYTES.get(own)).join("");
}

/** By the character that byte-level tokenizers write for a byte, the byte. */
const BYTES: ReadonlyMap<string, string> = new Map(
  BYTE_CHARACTERS.map((character, byte) => [character, String.fromCharCode(byte)]),
);
