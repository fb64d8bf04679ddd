// The vocabulary of the output, when the recipe builds one: which tokens it has, and which row of each model stands for
// each of them. Reads the models' tokenizer files, which the edge has fetched; what happens to embeddings is in
// gather-rows.ts, which files are written in tokenizer-files.ts.
// Source: mergekit's tokenizer merge, reference section 6.
import assert from "node:assert/strict";
import { MergeyardError } from "../error.ts";
import { TOKENIZER_LIMITS } from "../limits.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { TokenizerRecipe, TokenRule } from "../recipe/tokenizer.ts";
import { type MergedVocabulary, mergeVocabularies, type TokenizerUse } from "../tokenizer/merge-vocabularies.ts";
import type { ReadTokenizer, Tokenizer } from "../tokenizer/tokenizer.ts";
import { type Architecture, tensorRole } from "./architecture.ts";
import { documentPlace, TOKENIZER_FILE } from "./documents.ts";
import type { ViewsByName } from "./model-view.ts";
import type { Notes } from "./notes.ts";

/** The output's vocabulary and how the models' relate to it. */
export type VocabularyPlan = {
  readonly recipe: TokenizerRecipe;
  /** The model whose tokenizer files are the output's, but for what is added. */
  readonly origin: string;
  readonly tokenizer: Tokenizer;
  readonly merged: MergedVocabulary;
  /** Rows of the output's embedding: those of the vocabulary, and padding. */
  readonly rows: number;
  /** By output id; undefined for an id that no token has. */
  readonly tokens: readonly (string | undefined)[];
  readonly rules: ReadonlyMap<string, TokenRule>;
  /** The model's own id of every output id, -1 where it has none. An id may still lie beyond a tensor's rows. */
  ownIds(model: string): Int32Array;
  /** The model's own id of a token. */
  idOf(model: string, token: string): number | undefined;
  /** The output's id of what is `id` to the model; `id` itself when the model has no such token. */
  renumber(model: string, id: number): number;
};

export type VocabularyTask = {
  readonly recipe: Recipe;
  /** Every model that the recipe names, and those of them that are merged; others only give tokens. */
  readonly views: ViewsByName;
  readonly merged: ViewsByName;
  readonly readTokenizer: ReadTokenizer;
  readonly notes: Notes;
};

/**
 * The output's vocabulary; undefined when the recipe keeps the base's tokenizer as it is.
 * Throws PlanTokenizerMissing, PlanTokenizerInvalid, PlanTokenizersDiffer, PlanTooLarge.
 */
export function planVocabulary(task: VocabularyTask): VocabularyPlan | undefined {
  const { recipe, notes } = task;
  const { tokenizer: part } = recipe;
  if (part === undefined) return undefined;
  const uses = readTokenizers(task, part);
  const origin = findUse(uses, originOf(recipe, part));
  const others =
    part.source === "union"
      ? [...uses.values()].filter(({ model }) => model !== origin.model && task.merged.has(model))
      : [];
  for (const other of others) checkUnion(origin, other, task);
  const rules = new Map(part.rules.map((rule) => [rule.token, rule]));
  const merged = mergeVocabularies(origin, others, [...rules.keys()]);
  for (const conflict of merged.conflicts) {
    notes.add("models define an added token differently: the first definition counts", conflict);
  }
  const rows = padded(merged.rows, part.padToMultipleOf);
  if (rows > TOKENIZER_LIMITS.tokens) {
    throw new MergeyardError("PlanTooLarge", {
      where: fieldPlace(recipe.origin, part.field),
      found: `${rows} rows of an embedding`,
      expected: `at most ${TOKENIZER_LIMITS.tokens}`,
    });
  }
  const tokens = tokensById(merged);
  return {
    recipe: part,
    origin: origin.model,
    tokenizer: origin.tokenizer,
    merged,
    rows,
    tokens,
    rules,
    ownIds: rememberOwnIds(uses, origin.model, tokens),
    idOf: (model, token) => findUse(uses, model).tokenizer.vocabulary.ids.get(token),
    renumber: (model, id) => {
      const token = [...findUse(uses, model).tokenizer.vocabulary.ids].find(([, own]) => own === id)?.[0];
      return (token === undefined ? undefined : merged.vocabulary.ids.get(token)) ?? id;
    },
  };
}

function originOf(recipe: Recipe, { source }: TokenizerRecipe): string {
  const base = recipe.base ?? recipe.references[0]?.model;
  const model = typeof source === "string" ? base : source.model;
  assert.ok(model !== undefined, "a recipe names models");
  return model;
}

/** The tokenizer of every model, the base's first, then in recipe order. */
function readTokenizers(task: VocabularyTask, part: TokenizerRecipe): ReadonlyMap<string, TokenizerUse> {
  const { recipe, views, readTokenizer } = task;
  const uses = new Map<string, TokenizerUse>();
  const baseFirst = [...views].sort(([a], [b]) => Number(b === recipe.base) - Number(a === recipe.base));
  for (const [model, view] of baseFirst) {
    const owner = view.tokenizer.model;
    const bytes = owner.documents?.get(TOKENIZER_FILE);
    if (bytes === undefined) {
      throw new MergeyardError("PlanTokenizerMissing", {
        where: { ...fieldPlace(recipe.origin, part.field), model },
        found: `no ${TOKENIZER_FILE}`,
        expected: `${TOKENIZER_FILE} beside the weights of ${model}`,
      });
    }
    const tokenizer = readTokenizer(bytes, documentPlace(owner, TOKENIZER_FILE));
    uses.set(model, { model, tokenizer, rows: vocabularyRows(view) });
  }
  return uses;
}

function findUse(uses: ReadonlyMap<string, TokenizerUse>, model: string): TokenizerUse {
  const use = uses.get(model);
  assert.ok(use !== undefined, `no tokenizer was read for ${model}`);
  return use;
}

/** Ids of a model from this on stand for nothing: the embedding has no such row, or the config says so. */
function vocabularyRows(architecture: Architecture): number {
  const { tensors, vocabulary = Number.POSITIVE_INFINITY } = architecture;
  let rows = vocabulary;
  for (const entry of tensors.values()) {
    if (tensorRole(entry, architecture.vocabulary) === "embedding") rows = Math.min(rows, entry.shape[0] ?? rows);
  }
  return rows;
}

/** Ordinary tokens can join only a model of their own kind; added ones can join any. */
function checkUnion(origin: TokenizerUse, other: TokenizerUse, { recipe, notes }: VocabularyTask): void {
  const [a, b] = [origin.tokenizer, other.tokenizer];
  const added = new Set([...a.vocabulary.added, ...b.vocabulary.added].map(({ content }) => content));
  const lacks = [...b.vocabulary.ids].some(
    ([token, id]) => id < other.rows && !added.has(token) && !a.vocabulary.ids.has(token),
  );
  if (!lacks) return;
  if (a.model !== b.model || !a.takesTokens) {
    throw new MergeyardError("PlanTokenizersDiffer", {
      where: { ...fieldPlace(recipe.origin, recipe.tokenizer?.field ?? []), model: other.model },
      found: a.model === b.model ? `two ${a.model} tokenizers of different tokens` : `a ${b.model} tokenizer`,
      expected: a.takesTokens ? `a ${a.model} tokenizer, as in ${origin.model}` : `the tokens of ${origin.model}`,
    });
  }
  if (a.splitting !== b.splitting) {
    notes.add(
      `tokens may never be used: text is cut otherwise than in ${origin.model} before tokens are found`,
      other.model,
    );
  }
}

function padded(rows: number, multiple: number | undefined): number {
  return multiple === undefined ? rows : Math.ceil(rows / multiple) * multiple;
}

function tokensById({ vocabulary, rows }: MergedVocabulary): readonly (string | undefined)[] {
  const tokens = new Array<string | undefined>(rows).fill(undefined);
  for (const [token, id] of vocabulary.ids) tokens[id] ??= token;
  return tokens;
}

function rememberOwnIds(
  uses: ReadonlyMap<string, TokenizerUse>,
  origin: string,
  tokens: readonly (string | undefined)[],
): VocabularyPlan["ownIds"] {
  const known = new Map<string, Int32Array>();
  return (model) => {
    const { tokenizer, rows } = findUse(uses, model);
    const ids = known.get(model) ?? new Int32Array(tokens.length).fill(-1);
    if (known.has(model)) return ids;
    tokens.forEach((token, id) => {
      // An id that no token has is a row of the model that the other ids come from.
      const own = token === undefined ? (model === origin ? id : undefined) : tokenizer.vocabulary.ids.get(token);
      if (own !== undefined && own < rows) ids[id] = own;
    });
    known.set(model, ids);
    return ids;
  };
}
