// Error codes: what a recipe says that it may not.
import type { ErrorKind } from "./kind.ts";

export const RECIPE_CODES = {
  RecipeSyntax: {
    meaning: "the file is not YAML that a recipe may use",
    retryable: false,
    remedy: "correct the line named above",
  },
  RecipeDuplicateKey: {
    meaning: "a key is given twice in one map",
    retryable: false,
    remedy: "keep one of the two",
  },
  RecipeTooLarge: {
    meaning: "the recipe is larger than any recipe needs to be",
    retryable: false,
    remedy: "check that this is the file you mean",
  },
  RecipeUnknownKey: {
    meaning: "the recipe has a key that nothing reads",
    retryable: false,
    remedy: "correct or remove the key",
  },
  RecipeFieldInvalid: {
    meaning: "a field of the recipe has a value of the wrong form",
    retryable: false,
    remedy: "write what is expected there; docs/recipes.md has the grammar",
  },
  RecipeNotSupported: {
    meaning: "the recipe asks for something that this version does not do",
    retryable: false,
    remedy: "docs/recipes.md says what is supported",
  },
  RecipeMethodUnknown: {
    meaning: "there is no merge method of that name",
    retryable: false,
    remedy: "use one of the methods that are listed as expected",
  },
  RecipeParameterUnknown: {
    meaning: "the method has no parameter of that name",
    retryable: false,
    remedy: "correct or remove the parameter",
  },
  RecipeParameterInvalid: {
    meaning: "a parameter has a value that the method does not take",
    retryable: false,
    remedy: "give a value as expected",
  },
  RecipeParameterMissing: {
    meaning: "a parameter that the method needs has no value for this model and tensor",
    retryable: false,
    remedy: "give it to the model, to its slice, or to all under the top-level `parameters`",
  },
  RecipeNameInvalid: {
    meaning: "a document's name is taken, or cannot be told from other words",
    retryable: false,
    remedy: "give the document another name",
  },
  RecipeCycle: {
    meaning: "documents of the recipe use one another's results in a circle",
    retryable: false,
    remedy: "let one of them start from models that exist",
  },
  RecipeModelRepeated: {
    meaning: "a slice lists the same model twice",
    retryable: false,
    remedy: "list each model once, or write two slices",
  },
  RecipeBaseMissing: {
    meaning: "the method needs a base model among its inputs",
    retryable: false,
    remedy: "name it as `base_model`, and list it in every slice",
  },
  RecipeScheduleInvalid: {
    meaning: "the schedule is not one of EventBridge's",
    retryable: false,
    remedy: "write cron(0 2 * * ? *), rate(1 day) or at(2026-11-24T02:00:00); times are UTC",
  },
  RecipeLayerRangesUnequal: {
    meaning: "the layer ranges of one slice differ in length",
    retryable: false,
    remedy: "give every source of the slice the same number of layers",
  },
} as const satisfies Record<string, ErrorKind>;
