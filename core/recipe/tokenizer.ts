// The tokenizer part of a recipe in the form that is planned. What it does to embeddings is core/plan/vocabulary.ts's.
// Source: mergekit's `tokenizer` and `tokenizer_source`, reference section 6.
import { MergeyardError } from "../error.ts";
import { type FieldPath, fieldPlace, type RecipeOrigin } from "./origin.ts";
import type { MergeConfig, ModelReference } from "./schema.ts";

/** Where the row of a token comes from in a model that lacks it. */
export type TokenSource =
  | { readonly kind: "model"; readonly model: string }
  | {
      readonly kind: "model_token";
      readonly model: string;
      readonly token: string | undefined;
      readonly id: number | undefined;
    }
  | { readonly kind: "zero" };

export type TokenRule = {
  readonly token: string;
  /** Undefined: as for any other token. */
  readonly source: TokenSource | undefined;
  /** True: models that have the token get the row of `source` too. */
  readonly force: boolean;
  readonly field: FieldPath;
};

export type TokenizerRecipe = {
  /** Whose tokens the output has: all models', the base's, or one model's. */
  readonly source: "union" | "base" | { readonly model: string };
  readonly rules: readonly TokenRule[];
  readonly padToMultipleOf: number | undefined;
  readonly field: FieldPath;
};

/**
 * The recipe's tokenizer; undefined when it keeps the base's. `tokenizer_source: x` is `tokenizer: {source: x}`.
 * Throws RecipeFieldInvalid when both are given, and for a model_token that is not exactly one of token and token_id.
 */
export function normaliseTokenizer(merge: MergeConfig, origin: RecipeOrigin): TokenizerRecipe | undefined {
  const { tokenizer, tokenizer_source: legacy } = merge;
  if (tokenizer != null && legacy != null) {
    throw new MergeyardError("RecipeFieldInvalid", {
      where: fieldPlace(origin, ["tokenizer_source"]),
      found: "tokenizer_source beside tokenizer",
      expected: "one of the two",
    });
  }
  if (legacy != null) {
    return { source: sourceOf(legacy), rules: [], padToMultipleOf: undefined, field: ["tokenizer_source"] };
  }
  if (tokenizer == null) return undefined;
  const rules = Object.entries(tokenizer.tokens ?? {}).map(([token, { source, force }]): TokenRule => {
    const field = ["tokenizer", "tokens", token];
    return { token, source: tokenSource(source, [...field, "source"], origin), force, field };
  });
  const padToMultipleOf = tokenizer.pad_to_multiple_of ?? undefined;
  return { source: sourceOf(tokenizer.source), rules, padToMultipleOf, field: ["tokenizer"] };
}

function sourceOf(source: "union" | "base" | ModelReference): TokenizerRecipe["source"] {
  return typeof source === "string" ? source : { model: source.model };
}

type WrittenSource = NonNullable<NonNullable<MergeConfig["tokenizer"]>["tokens"]>[string]["source"];

function tokenSource(source: WrittenSource, field: FieldPath, origin: RecipeOrigin): TokenSource | undefined {
  if (source == null) return undefined;
  if (!("kind" in source)) return { kind: "model", model: source.model };
  if (source.kind === "zero") return source;
  const { token, token_id: id } = source;
  if ((token == null) === (id == null)) {
    throw new MergeyardError("RecipeFieldInvalid", {
      where: fieldPlace(origin, field),
      found: token == null ? "neither token nor token_id" : "both token and token_id",
      expected: "exactly one of the two",
    });
  }
  return { kind: "model_token", model: source.model.model, token: token ?? undefined, id: id ?? undefined };
}
