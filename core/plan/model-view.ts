// A model as the recipe names it: a checkpoint, or a checkpoint with an adapter. Planning sees both alike; how a tensor
// is read, and from which source, is said per tensor.
import assert from "node:assert/strict";
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import type { Recipe } from "../recipe/normalise.ts";
import type { ModelReference } from "../recipe/schema.ts";
import { applyAdapter, type IndexedModel, isAdapted, storedTensor } from "./adapter.ts";
import { type Architecture, describeArchitecture, type TensorRole, tensorRole } from "./architecture.ts";
import { TOKENIZER_FILE } from "./documents.ts";
import type { MergeModel } from "./merge-task.ts";
import type { Notes } from "./notes.ts";
import type { StoredTensor } from "./schema.ts";

export type ModelView = Architecture & {
  readonly reference: ModelReference;
  /** Where its config and the files beside its weights are: the model without its adapter, and its plan index. */
  readonly own: IndexedModel;
  /** Where its tokenizer is: the adapter's, when the adapter holds embeddings of its own. */
  readonly tokenizer: IndexedModel;
  /** How a tensor of it is read. */
  stored(entry: TensorEntry): StoredTensor;
};

export type ViewsByName = ReadonlyMap<string, ModelView>;

/** Every model of `recipe.references`; `models` are those of `recipe.sources`. Throws what applyAdapter throws. */
export function describeModels(recipe: Recipe, models: readonly MergeModel[], notes: Notes): ViewsByName {
  const find = (name: string): IndexedModel => {
    const source = models.findIndex((model) => model.source.model === name);
    const model = models[source];
    assert.ok(model !== undefined, `no checkpoint was given for ${name}`);
    return { model, source };
  };
  return new Map(
    recipe.references.map((reference) => {
      const own = find(reference.base);
      const view =
        reference.adapter === undefined
          ? viewModel(reference, own)
          : viewAdapted(reference, own, find(reference.adapter), notes);
      return [reference.model, view];
    }),
  );
}

function viewModel(reference: ModelReference, own: IndexedModel): ModelView {
  const { checkpoint } = own.model;
  return {
    ...describeArchitecture(checkpoint),
    reference,
    own,
    tokenizer: own,
    stored: (entry) => storedTensor(entry, own.source),
  };
}

function viewAdapted(reference: ModelReference, own: IndexedModel, adapter: IndexedModel, notes: Notes): ModelView {
  const tensors = applyAdapter(own, adapter, notes);
  const checkpoint: Checkpoint = { ...own.model.checkpoint, tensors: tensors.map(({ entry }) => entry) };
  const architecture = describeArchitecture(checkpoint);
  const stored = new Map(tensors.map((tensor) => [tensor.entry.name, tensor.stored]));
  // Embeddings of the adapter's own have its vocabulary, whatever the model's config says.
  const replaced = tensors.find(
    (tensor) => tensor.stored.source === adapter.source && tensorRole(tensor.entry, undefined) === "embedding",
  );
  const rolesOf = (role: TensorRole) =>
    tensors.filter(({ entry }) => tensorRole(entry, architecture.vocabulary) === role);
  // A head beside which the embedding changed, or that changed, is no longer the embedding, whatever the config says.
  const untied = rolesOf("head").some((head) =>
    [head, ...rolesOf("embedding").filter(({ entry }) => entry.shape[0] === head.entry.shape[0])].some((tensor) =>
      isAdapted(tensor, adapter.source),
    ),
  );
  const hasTokenizer = adapter.model.checkpoint.sideFiles.some(({ name }) => name === TOKENIZER_FILE);
  return {
    ...architecture,
    vocabulary: replaced?.entry.shape[0] ?? architecture.vocabulary,
    maybeTied: architecture.maybeTied && !untied,
    reference,
    own,
    tokenizer: replaced !== undefined && hasTokenizer ? adapter : own,
    stored(entry) {
      const found = stored.get(entry.name);
      assert.ok(found !== undefined, `${reference.model} has no tensor ${entry.name}`);
      return found;
    },
  };
}
