// One vocabulary out of several: the first keeps its ids, what it lacks gets the next free ones. Ordinary tokens first,
// model after model, then added tokens, then those that the recipe adds.
// Source: mergekit's union of tokenizers, reference section 6; models come in recipe order, where its own is arbitrary.
import type { AddedToken, Tokenizer, TokenPair, Vocabulary } from "./tokenizer.ts";
import { PLAIN_FLAGS } from "./tokenizer.ts";

/** A tokenizer and the rows that its model's embedding has: ids from `rows` on stand for nothing. */
export type TokenizerUse = { readonly model: string; readonly tokenizer: Tokenizer; readonly rows: number };

export type MergedVocabulary = {
  readonly vocabulary: Vocabulary;
  readonly merges: readonly TokenPair[];
  /** Rows of an embedding of this vocabulary: the largest id plus one. */
  readonly rows: number;
  /** True when it is the first tokenizer's own, so that its files can be kept. */
  readonly unchanged: boolean;
  /** Added tokens that models define differently, as warnings; the first definition counts. */
  readonly conflicts: readonly string[];
};

/** `origin`'s vocabulary without unused ids, then what the others have more, then `tokens`. */
export function mergeVocabularies(
  origin: TokenizerUse,
  others: readonly TokenizerUse[],
  tokens: readonly string[],
): MergedVocabulary {
  const ids = new Map<string, number>();
  for (const [token, id] of origin.tokenizer.vocabulary.ids) if (id < origin.rows) ids.set(token, id);
  let next = 1 + maximum(ids.values());
  const append = (token: string): void => {
    if (!ids.has(token)) ids.set(token, next++);
  };
  const { first, conflicts } = firstDefinitions([origin, ...others]);
  for (const use of others) {
    for (const token of usedTokens(use)) if (!first.has(token)) append(token);
  }
  for (const token of [...first.keys(), ...tokens]) append(token);
  const defined = new Map(first);
  for (const token of tokens) {
    if (origin.tokenizer.vocabulary.ids.has(token) || others.some((use) => isUsed(use, token))) continue;
    if (!defined.has(token)) defined.set(token, { content: token, id: 0, flags: PLAIN_FLAGS });
  }
  const added = [...defined.values()]
    .map((token): AddedToken => ({ ...token, id: ids.get(token.content) ?? 0 }))
    .sort((a, b) => a.id - b.id);
  const merges = mergeMerges([origin, ...others], ids);
  const own = origin.tokenizer;
  const unchanged =
    ids.size === own.vocabulary.ids.size &&
    added.length === own.vocabulary.added.length &&
    merges.length === own.merges.length;
  return { vocabulary: { ids, added }, merges, rows: next, unchanged, conflicts };
}

/** Ordinary and added tokens that stand for a row, in ascending order of ids. */
function usedTokens({ tokenizer, rows }: TokenizerUse): readonly string[] {
  const used = [...tokenizer.vocabulary.ids].filter(([, id]) => id < rows);
  return used.sort((a, b) => a[1] - b[1]).map(([token]) => token);
}

function isUsed({ tokenizer, rows }: TokenizerUse, token: string): boolean {
  return (tokenizer.vocabulary.ids.get(token) ?? rows) < rows;
}

/** Added tokens of all models, each as the first model that has it defines it. */
function firstDefinitions(uses: readonly TokenizerUse[]) {
  const first = new Map<string, AddedToken>();
  const conflicts = new Set<string>();
  for (const { model, tokenizer, rows } of uses) {
    for (const token of tokenizer.vocabulary.added) {
      const known = first.get(token.content);
      if (token.id >= rows) continue;
      if (known === undefined) first.set(token.content, token);
      else if (!sameFlags(known, token)) conflicts.add(`${token.content} (${model})`);
    }
  }
  return { first, conflicts: [...conflicts] };
}

function sameFlags({ flags: a }: AddedToken, { flags: b }: AddedToken): boolean {
  return (
    a.single_word === b.single_word &&
    a.lstrip === b.lstrip &&
    a.rstrip === b.rstrip &&
    a.normalized === b.normalized &&
    a.special === b.special
  );
}

/** Merges in the order of the models, each once, where both tokens and the one they make exist. */
function mergeMerges(uses: readonly TokenizerUse[], ids: ReadonlyMap<string, number>): readonly TokenPair[] {
  const merges = new Map<string, TokenPair>();
  for (const { tokenizer } of uses) {
    for (const pair of tokenizer.merges) {
      if (!ids.has(pair[0]) || !ids.has(pair[1]) || !ids.has(tokenizer.join(pair))) continue;
      const key = `${pair[0].length} ${pair[0]}${pair[1]}`;
      if (!merges.has(key)) merges.set(key, pair);
    }
  }
  return [...merges.values()];
}

/** Largest of the numbers, -1 of none. */
function maximum(values: Iterable<number>): number {
  let most = -1;
  for (const value of values) most = Math.max(most, value);
  return most;
}
