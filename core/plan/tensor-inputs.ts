// What of each model takes part in one output tensor: the tensor that it stores, perhaps under a name that it is tied
// to, and of those with a row a token the rows in the order of the output's vocabulary.
import assert from "node:assert/strict";
import type { TensorEntry } from "../checkpoint.ts";
import type { ErrorPlace } from "../error.ts";
import type { MergeMethod } from "../methods/method.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { ParameterResolver } from "../recipe/parameters.ts";
import { findTied, tensorRole } from "./architecture.ts";
import { gatherInputs, hasTokenRows } from "./gather-rows.ts";
import type { ViewsByName } from "./model-view.ts";
import type { Notes } from "./notes.ts";
import type { OutputInput, OutputTensor } from "./output-tensors.ts";
import type { RowGather, StoredTensor } from "./schema.ts";
import type { StatisticsPlan } from "./statistics.ts";
import type { VocabularyPlan } from "./vocabulary.ts";

/** What all tensors of a merge have in common. */
export type TensorPlanning = {
  readonly recipe: Recipe;
  readonly method: MergeMethod;
  /** Models that are merged. */
  readonly models: ViewsByName;
  /** All models, also those that only give tokens. */
  readonly donors: ViewsByName;
  /** Undefined when the recipe keeps the base's tokenizer. */
  readonly vocabulary: VocabularyPlan | undefined;
  readonly statistics: StatisticsPlan;
  readonly resolver: ParameterResolver;
  readonly notes: Notes;
};

/** An input that the model stores, perhaps under another name. `entry` has the shape that takes part. */
export type PresentInput = Omit<OutputInput, "entry"> & {
  readonly entry: TensorEntry;
  readonly stored: StoredTensor;
  /** True for a model with an adapter. */
  readonly isAdapted: boolean;
  /** The rows that take part, where they are not the stored ones. */
  readonly rows?: RowGather | undefined;
};

/** Inputs with an entry; an embedding or head that a model ties is read from the tensor it is tied to. */
export function findInputs(tensor: OutputTensor, { models, notes }: TensorPlanning) {
  const present: PresentInput[] = [];
  const missing: OutputInput[] = [];
  const stored = tensor.inputs.find(({ entry }) => entry !== undefined) ?? anyStored(tensor.name, models);
  for (const input of tensor.inputs) {
    const view = models.get(input.source.model);
    const entry = input.entry ?? tiedEntry(input, stored?.entry, models);
    if (entry === undefined || view === undefined) missing.push(input);
    else present.push({ ...input, entry, stored: view.stored(entry), isAdapted: view.reference.adapter !== undefined });
    if (entry !== undefined && input.entry === undefined) {
      notes.add(`${input.source.model} ties its embeddings: read from ${entry.name}`, tensor.name);
    }
  }
  return { present, missing };
}

/** Inputs with one row a token, their rows put in the order of the output's vocabulary. */
export function gatherTokens(
  tensor: OutputTensor,
  present: readonly PresentInput[],
  planning: TensorPlanning,
): readonly PresentInput[] {
  const { vocabulary, models, donors, recipe, notes } = planning;
  const vocabularyOf = ({ source }: PresentInput) => models.get(source.model)?.vocabulary;
  if (vocabulary === undefined || present.length === 0) return present;
  if (!present.some((input) => hasTokenRows(input.entry, vocabularyOf(input)))) {
    const axis = present.find((input) => input.entry.shape.some((length) => length === vocabularyOf(input)));
    if (axis !== undefined)
      notes.add("tensors as long as a vocabulary are merged as they are: not known to have a row a token", tensor.name);
    return present;
  }
  const known = new Map<string, StoredTensor | undefined>();
  const donor = (model: string): StoredTensor | undefined => {
    if (known.has(model)) return known.get(model);
    const view = donors.get(model);
    const entry = view?.tensors.get(tensor.name) ?? (view && present[0] && findTied(view, present[0].entry));
    const stored = entry === undefined ? undefined : view?.stored(entry);
    known.set(model, stored);
    return stored;
  };
  const inputs = present.map(({ source, stored }) => ({
    model: source.model,
    isBase: source.model === recipe.base,
    stored,
  }));
  const gathered = gatherInputs({ vocabulary, inputs, donor, tensor: tensor.name, origin: recipe.origin });
  return present.map((input, index) => {
    const { shape = input.entry.shape, rows } = gathered[index] ?? {};
    return { ...input, entry: { ...input.entry, shape }, rows };
  });
}

function anyStored(name: string, models: ViewsByName): { entry: TensorEntry } | undefined {
  for (const { tensors } of models.values()) {
    const entry = tensors.get(name);
    if (entry !== undefined) return { entry };
  }
  return undefined;
}

function tiedEntry(
  { source }: OutputInput,
  stored: TensorEntry | undefined,
  models: ViewsByName,
): TensorEntry | undefined {
  const model = models.get(source.model);
  if (stored === undefined || model === undefined || tensorRole(stored, model.vocabulary) === undefined)
    return undefined;
  return findTied(model, stored);
}

/** The base where it is an input, else the first: its dtype and shape are the tensor's. */
export function referenceOf({ slice }: OutputTensor, present: readonly PresentInput[]): PresentInput {
  const reference = present.find(({ source }) => source.model === slice.base) ?? present[0];
  assert.ok(reference !== undefined, "an output tensor is stored by some model");
  return reference;
}

export function inputPlace(tensor: OutputTensor, input: PresentInput, recipe: Recipe): ErrorPlace {
  return { ...fieldPlace(recipe.origin, input.source.field), model: input.source.model, tensor: tensor.name };
}
