// What planning a mixture of experts starts from, and what its parts share.
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import type { MoeArchitecture } from "../moe/architectures.ts";
import type { MoeRecipe } from "../recipe/moe.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { RecipeSlice } from "../recipe/slices.ts";
import type { ModelView } from "./model-view.ts";
import type { RowGather, UnitInput } from "./schema.ts";

export type MoeTask = {
  /** With the dtype of the output. */
  readonly recipe: Recipe;
  readonly moe: MoeRecipe;
  readonly architecture: MoeArchitecture;
  readonly base: ModelView;
  /** Number of the base's layers. */
  readonly layers: number;
};

/** What is planned of the base alone. */
export type BaseTask = Omit<MoeTask, "architecture">;

/** The stack of layers of all dense models that an architecture takes. */
export const STACK = "model.layers.";
export const EMBEDDING = "model.embed_tokens.weight";

/** Names of tensors, or parts of them, in all layers. */
export function layerNames(layers: number, suffixes: readonly string[]): readonly string[] {
  return Array.from({ length: layers }, (_, layer) => suffixes.map((suffix) => `${STACK}${layer}.${suffix}`)).flat();
}

/** A tensor that the model of the slice's only source must have. Throws PlanTensorMissing. */
export function needTensor(
  { origin }: Recipe,
  { field, sources: [source] }: RecipeSlice,
  { tensors }: ModelView,
  name: string,
): TensorEntry {
  const entry = tensors.get(name);
  if (entry !== undefined) return entry;
  throw new MergeyardError("PlanTensorMissing", {
    where: { ...fieldPlace(origin, field), model: source?.model, tensor: name },
    found: "no such tensor",
    expected: "the tensors of a dense model of this architecture",
  });
}

/** A tensor of the base as an input, whole or with its rows gathered. Throws PlanTensorMissing. */
export function inputOf({ recipe, moe, base }: BaseTask, name: string, rows?: RowGather): UnitInput {
  const { adapter, model } = base.reference;
  return {
    ...base.stored(needTensor(recipe, moe.base, base, name)),
    ...(rows === undefined ? {} : { rows }),
    isBase: false,
    ...(adapter === undefined ? {} : { model }),
    parameters: {},
  };
}
