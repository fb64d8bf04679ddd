// The merges of a whole recipe: every document's plan, those whose results others use first. The result of a document
// is a checkpoint whose headers are known before it exists, so all of them are planned at once, from headers alone.
import assert from "node:assert/strict";
import { digestJson } from "../artifact/digest.ts";
import type { Checkpoint, TensorEntry } from "../checkpoint.ts";
import type { Recipe, RecipeStage } from "../recipe/normalise.ts";
import { MEMORY_BYTES_DEFAULT } from "./defaults.ts";
import { documentNames } from "./documents.ts";
import type { MergeModel, MergeOptions } from "./merge-task.ts";
import { refuseLargest } from "./merge-units.ts";
import { type OutputDocuments, outputDocument, outputObject } from "./output-documents.ts";
import { type MergePlan, planMerge } from "./plan-merge.ts";
import {
  type MergeUnit,
  type PlanSource,
  placesOf,
  type SideFile,
  type StoredTensor,
  type TensorPlace,
  type UnitInput,
  writtenBytes,
} from "./schema.ts";

/**
 * The recipe, its text and the output's name for the model card, and every model of `listSources(recipe)`, in order.
 */
export type RecipeTask = {
  readonly name: string;
  readonly recipe: Recipe;
  readonly text: string;
  readonly models: readonly MergeModel[];
};

/** One document's merge. Source indexes count in the whole recipe's sources. */
export type DocumentPlan = {
  /** Undefined for the output. */
  readonly name: string | undefined;
  readonly plan: MergePlan;
};

export type RecipePlan = {
  /** The models, then what the documents before the output make, in their order. */
  readonly sources: readonly PlanSource[];
  /** In the order of merging; the output last. */
  readonly documents: readonly DocumentPlan[];
  readonly output: MergePlan;
  readonly warnings: readonly string[];
};

/**
 * Plans every document; the first is stage `options.stage`. Throws what planMerge throws, and PlanMemoryExceeded when a
 * tensor of any document does not fit into a worker's memory.
 */
export function planRecipe({ name, recipe, text, models }: RecipeTask, options: MergeOptions = {}): RecipePlan {
  let stage = options.stage ?? 0;
  const known: PlannedModel[] = models.map((model) => ({ model, sideFiles: undefined }));
  const inputs = models.map(({ source }) => source.model);
  const documents: DocumentPlan[] = [];
  const planDocument = (document: Recipe, label: string): MergePlan => {
    const indexes = document.sources.map((source) => findModel(known, source));
    const own = indexes.map((index) => pick(known, index).model);
    const task = { name: label, recipe: document, text, models: own, inputs };
    // Only the output is what the recipe's outputs speak of.
    const outputs = document === recipe ? options.outputs : undefined;
    const plan = renumber(planMerge(task, { ...options, outputs, stage }), indexes, known);
    stage += plan.prepare.length + 1;
    return plan;
  };
  for (const document of recipe.stages) {
    const plan = markIntermediate(planDocument(document.recipe, document.name));
    const names = documentNames(recipe, options.outputs);
    known.push(describeResult(document, plan, known, { stage: stage - 1, names }));
    documents.push({ name: document.name, plan });
  }
  const output = planDocument(recipe, name);
  const said = [...documents, { name: undefined, plan: output }];
  const needs = said.flatMap(({ plan }) => plan.needs);
  refuseLargest(needs, Math.max(options.memoryBytes ?? MEMORY_BYTES_DEFAULT, options.memoryBytesMax ?? 0));
  return {
    sources: known.map(({ model }) => model.source),
    documents: said,
    output,
    warnings: said.flatMap(({ name: of, plan }) =>
      plan.warnings.map((warning) => (of === undefined ? warning : `${of}: ${warning}`)),
    ),
  };
}

/** A model, and for the result of a document the files beside its weights, which only the plan holds. */
type PlannedModel = { readonly model: MergeModel; readonly sideFiles: readonly SideFile[] | undefined };

function findModel(known: readonly PlannedModel[], name: string): number {
  // A document's name is no other model's, so the order does not matter.
  const index = known.findIndex(({ model }) => model.source.model === name);
  assert.ok(index >= 0, `no checkpoint was given for ${name}`);
  return index;
}

function pick(known: readonly PlannedModel[], index: number): PlannedModel {
  const found = known[index];
  assert.ok(found !== undefined, `the recipe has no source ${index}`);
  return found;
}

/** A document's plan with the whole recipe's source indexes. Files of results become what those results planned. */
function renumber(plan: MergePlan, indexes: readonly number[], known: readonly PlannedModel[]): MergePlan {
  const indexOf = (source: number): number => indexes[source] ?? source;
  const place = <Place extends TensorPlace>(tensor: Place): Place => ({ ...tensor, source: indexOf(tensor.source) });
  const stored = <Stored extends StoredTensor>(tensor: Stored): Stored => {
    const { lora } = tensor;
    if (lora === undefined) return place(tensor);
    const factors = { left: place(lora.left), ...(lora.right === undefined ? {} : { right: place(lora.right) }) };
    return { ...place(tensor), lora: { ...lora, ...factors } };
  };
  const renumberInput = (input: UnitInput): UnitInput => ({
    ...stored(input),
    ...(input.rows === undefined ? {} : { rows: { ...input.rows, others: input.rows.others.map(stored) } }),
  });
  const units = plan.units.map(
    (unit): MergeUnit => ({
      ...unit,
      tensors: unit.tensors.map((tensor) => ({ ...tensor, inputs: tensor.inputs.map(renumberInput) })),
    }),
  );
  const sideFiles = plan.sideFiles.map((file): SideFile => {
    if (file.from === "text") return file;
    const source = indexOf(file.source);
    const planned = pick(known, source).sideFiles?.find(({ name }) => name === file.file);
    return planned === undefined ? { ...file, source } : { ...planned, name: file.name };
  });
  return { ...plan, units, sideFiles: withoutCopies(sideFiles) };
}

/** A parent's licence can come by way of several documents; every folder has its own. */
function withoutCopies(files: readonly SideFile[]): readonly SideFile[] {
  const seen = new Set<string>();
  return files.filter((file) => {
    const folder = file.name.slice(0, file.name.lastIndexOf("/") + 1);
    const key = file.from === "text" ? `text ${file.name}` : `${folder} ${file.source} ${file.file}`;
    const isNew = !seen.has(key);
    seen.add(key);
    return isNew;
  });
}

function markIntermediate(plan: MergePlan): MergePlan {
  return { ...plan, units: plan.units.map((unit) => ({ ...unit, intermediate: true })) };
}

/** The result of a document as a model: its headers are the plan's, and its side files are never written. */
function describeResult(
  { name }: RecipeStage,
  { units, sideFiles, method }: MergePlan,
  known: readonly PlannedModel[],
  at: { readonly stage: number; readonly names: readonly string[] },
): PlannedModel {
  const used = new Set(
    units
      .flatMap(({ tensors }) => tensors.flatMap(({ inputs }) => inputs.flatMap(placesOf)))
      .map(({ source }) => source),
  );
  const fingerprint = digestJson({
    document: name,
    method: method.id,
    inputs: [...used].map((source) => pick(known, source).model.source.fingerprint),
  });
  const files: OutputDocuments = { sideFiles, models: known.map(({ model }) => model) };
  const documents = new Map(
    at.names.flatMap((file) => {
      const bytes = outputDocument(files, file);
      return bytes === undefined ? [] : [[file, bytes] as const];
    }),
  );
  const source: PlanSource = {
    model: name,
    store: "",
    prefix: "",
    format: "safetensors",
    fingerprint,
    state: "merged",
    mergedBy: { stage: at.stage },
  };
  return { model: { source, checkpoint: describeCheckpoint(units, files), documents }, sideFiles };
}

function describeCheckpoint(units: readonly MergeUnit[], files: OutputDocuments): Checkpoint {
  return {
    format: "safetensors",
    tensorFiles: units.map(({ file, fileBytes }) => ({ name: file, bytes: fileBytes })),
    sideFiles: files.sideFiles.map((file) => ({
      name: file.name,
      bytes: file.from === "text" ? writtenBytes(file).length : file.bytes,
    })),
    tensors: units.flatMap(entriesOf),
    metadata: new Map(),
    config: outputObject(files, "config.json"),
  };
}

/** Tensors of an output file, at their places in the file: its header's length is known. */
function entriesOf({ file, fileBytes, tensors }: MergeUnit): readonly TensorEntry[] {
  const headerBytes = fileBytes - tensors.reduce((sum, { bytes }) => sum + bytes, 0);
  return tensors.map(({ name, dtype, shape, offset, bytes }) => ({
    name,
    dtype,
    shape,
    ranges: [{ file, offset: headerBytes + offset, bytes }],
  }));
}
