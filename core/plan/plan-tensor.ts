// One output tensor: which inputs take part, at which shape and dtype, by which method with which parameters; or why it
// cannot be merged. Everything here is decided from headers and the recipe.
// Source: reference sections 2.1 to 2.3; where we are stricter, docs/recipes.md says so.
import assert from "node:assert/strict";
import type { TensorEntry } from "../checkpoint.ts";
import { type ErrorPlace, MergeyardError } from "../error.ts";
import type { MergeMethod, MergeTensor, ParameterValues } from "../methods/method.ts";
import { passthrough } from "../methods/passthrough.ts";
import { type HalfDtype, isFloatDtype } from "../ops/cast.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import type { ParameterResolver } from "../recipe/parameters.ts";
import { type Dtype, type Shape, sameShape } from "../tensor.ts";
import { findTied, tensorRole } from "./architecture.ts";
import { gatherInputs, hasTokenRows } from "./gather-rows.ts";
import { valueDtype } from "./memory.ts";
import type { ViewsByName } from "./model-view.ts";
import type { Notes } from "./notes.ts";
import type { OutputInput, OutputTensor } from "./output-tensors.ts";
import type { RowGather, StoredTensor, UnitInput, UnitTensor } from "./schema.ts";
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

/** An output tensor that only lacks its place in a file. */
export type PlannedTensor = Omit<UnitTensor, "offset" | "bytes">;

/** An input that the model stores, perhaps under another name. `entry` has the shape that takes part. */
type Present = Omit<OutputInput, "entry"> & {
  readonly entry: TensorEntry;
  readonly stored: StoredTensor;
  /** True for a model with an adapter. */
  readonly isAdapted: boolean;
  /** The rows that take part, where they are not the stored ones. */
  readonly rows?: RowGather | undefined;
};

/** The inputs that fit together, and the shape of what they make. */
type Shaped = { readonly inputs: readonly Present[]; readonly shape: Shape };

/**
 * The plan of one output tensor; undefined when the recipe drops it.
 * Throws PlanTensorMissing, PlanShapeMismatch, PlanDtypeNotMergeable, PlanInputCount, PlanMethodRefused,
 * RecipeParameterMissing, RecipeParameterInvalid.
 */
export function planTensor(tensor: OutputTensor, planning: TensorPlanning): PlannedTensor | undefined {
  const { recipe, notes } = planning;
  const { present: stored, missing } = findInputs(tensor, planning);
  const present = gatherTokens(tensor, stored, planning);
  const [gone] = missing;
  if (gone !== undefined) {
    if (recipe.allowUnlisted === undefined) throw missingError(tensor, gone, planning);
    // None is present where the last slice's model has no head, although another model does.
    const copies = recipe.allowUnlisted === "copy" && present.length > 0;
    notes.add(`tensors that a model lacks are ${copies ? "copied" : "dropped"}`, tensor.name);
    return copies ? copyTensor(tensor, referenceOf(tensor, present), planning) : undefined;
  }
  const reference = referenceOf(tensor, present);
  if (tensor.isCopied === true) return copyTensor(tensor, reference, planning);
  if (present.every(({ entry }) => isWhole(entry.dtype))) return copyWhole(tensor, present, reference, planning);
  const { inputs, shape } = fitShapes(tensor, present, reference, planning);
  if (inputs.length === 1 && present.length > 1) return copyTensor(tensor, reference, planning);
  if (inputs.length < planning.method.inputCount.min && recipe.allowUnlisted !== undefined) {
    // Too few models have it for the method: it cannot take part, as if the others lacked it.
    notes.add(
      `tensors that too few models have are ${recipe.allowUnlisted === "copy" ? "copied" : "dropped"}`,
      tensor.name,
    );
    return recipe.allowUnlisted === "copy" ? copyTensor(tensor, reference, planning) : undefined;
  }
  return mergeInputs(tensor, { inputs, shape }, reference, planning);
}

/** Inputs with an entry; an embedding or head that a model ties is read from the tensor it is tied to. */
function findInputs(tensor: OutputTensor, { models, notes }: TensorPlanning) {
  const present: Present[] = [];
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
function gatherTokens(tensor: OutputTensor, present: readonly Present[], planning: TensorPlanning): readonly Present[] {
  const { vocabulary, models, donors, recipe, notes } = planning;
  const vocabularyOf = ({ source }: Present) => models.get(source.model)?.vocabulary;
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
function referenceOf({ slice }: OutputTensor, present: readonly Present[]): Present {
  const reference = present.find(({ source }) => source.model === slice.base) ?? present[0];
  assert.ok(reference !== undefined, "an output tensor is stored by some model");
  return reference;
}

/** Whole numbers and truth values: never averaged. */
function isWhole(dtype: Dtype): boolean {
  return /^(?:[IU]\d+|BOOL)$/.test(dtype);
}

function copyWhole(
  tensor: OutputTensor,
  present: readonly Present[],
  reference: Present,
  planning: TensorPlanning,
): PlannedTensor {
  const other = present.find(({ entry }) => !sameShape(entry.shape, reference.entry.shape));
  if (other !== undefined && planning.recipe.onMismatch === "error")
    throw shapeError(tensor, other, reference, planning);
  if (present.length > 1) {
    const remark = `whole-number tensors are copied from ${reference.source.model}, whatever the other models hold`;
    planning.notes.add(remark, tensor.name);
  }
  return copyTensor(tensor, reference, planning);
}

/** The reference's tensor as it is: its bytes where the dtype stays, else one rounding to the output dtype. */
function copyTensor(tensor: OutputTensor, input: Present, planning: TensorPlanning): PlannedTensor {
  const { shape } = input.entry;
  const output = outputDtype(input.entry.dtype, planning.recipe);
  return {
    name: tensor.name,
    dtype: output,
    shape: [...shape],
    method: output === valueDtype({ dtype: input.entry.dtype, rows: input.rows }) ? "copy" : passthrough.id,
    parameters: {},
    seed: 0,
    inputs: [unitInput(input, tensor, shape, {})],
  };
}

/** The recipe's dtype for floats; the stored one for everything that cannot be converted. */
function outputDtype(stored: Dtype, recipe: Recipe): Dtype {
  return isFloatDtype(stored) ? (recipe.outputDtype ?? stored) : stored;
}

/** The dtypes of a merged tensor. */
type TensorDtypes = {
  readonly output: Dtype;
  /** Under `strict`, where it has 16 bits: what the reference computes in, and what it holds an input in. */
  readonly working: HalfDtype | undefined;
  workingOf(input: Present): HalfDtype | undefined;
};

/** By our rules: the recipe's dtype, else the base's or the first model's. Under `strict` by the reference's. */
function dtypesOf(inputs: readonly Present[], reference: Present, { method, recipe }: TensorPlanning): TensorDtypes {
  const own = reference.entry.dtype;
  if (!recipe.strict) return { output: outputDtype(own, recipe), working: undefined, workingOf: () => undefined };
  const promotes = method.referenceDtype === "promoted" || method.referenceDtype === "float32";
  const common = promotes ? promotedDtype(inputs) : own;
  const isWide = method.referenceDtype === "float32" && inputs.length > 1 && common !== "F64";
  return {
    output: isWide ? (recipe.castDtype ?? "F32") : outputDtype(common, recipe),
    working: halfDtype(recipe.workingDtype ?? common),
    workingOf: ({ entry }) => halfDtype(recipe.workingDtype ?? (method.referenceDtype === "base" ? own : entry.dtype)),
  };
}

/** A dtype that holds those of all inputs. */
function promotedDtype(inputs: readonly Present[]): Dtype {
  const dtypes = new Set(inputs.map(({ entry }) => entry.dtype));
  const [first, second] = dtypes;
  if (first !== undefined && second === undefined) return first;
  return dtypes.has("F64") ? "F64" : "F32";
}

function halfDtype(dtype: Dtype): HalfDtype | undefined {
  return dtype === "F16" || dtype === "BF16" ? dtype : undefined;
}

/** The shape of the output, and the inputs that fit: cut where the method cuts embeddings, left out under `skip`. */
function fitShapes(
  tensor: OutputTensor,
  present: readonly Present[],
  reference: Present,
  planning: TensorPlanning,
): Shaped {
  const shape = targetShape(present, reference, planning);
  const cuts = !sameShape(shape, reference.entry.shape) || isCuttable(present, planning);
  const fits = ({ entry }: Present) => sameShape(entry.shape, shape) || (cuts && contains(entry.shape, shape));
  const other = present.find((input) => !fits(input));
  if (other === undefined) return { inputs: present, shape };
  if (planning.recipe.onMismatch === "error") throw shapeError(tensor, other, reference, planning);
  planning.notes.add(`${other.source.model} is left out where its shape differs`, tensor.name);
  return { inputs: present.filter(fits), shape };
}

/** Embeddings of different size: the common top-left part, or the base's, as the method declares. */
function targetShape(present: readonly Present[], reference: Present, planning: TensorPlanning): Shape {
  const { shape } = reference.entry;
  if (planning.method.embeddingMismatch !== "common" || !isCuttable(present, planning)) return shape;
  return shape.map((length, axis) =>
    present.reduce((least, { entry }) => Math.min(least, entry.shape[axis] ?? 0), length),
  );
}

function isCuttable(present: readonly Present[], { method, models }: TensorPlanning): boolean {
  if (method.embeddingMismatch === "error" || present.some(({ entry }) => entry.shape.length !== 2)) return false;
  return present.some(({ entry, source }) => tensorRole(entry, models.get(source.model)?.vocabulary) !== undefined);
}

function contains(outer: Shape, inner: Shape): boolean {
  return outer.every((length, axis) => length >= (inner[axis] ?? 0));
}

function mergeInputs(
  tensor: OutputTensor,
  { inputs, shape }: Shaped,
  reference: Present,
  planning: TensorPlanning,
): PlannedTensor {
  const { method, recipe, resolver, notes } = planning;
  const { slice, position, name } = tensor;
  checkInputCount(tensor, inputs, planning);
  const parameters = resolver.global({ slice, position, tensor: name });
  const values = inputs.map((input) => resolver.model({ slice, position, tensor: input.name, source: input.source }));
  const { output: dtype, working, workingOf } = dtypesOf(inputs, reference, planning);
  const view: MergeTensor = {
    name,
    shape,
    inputs: inputs.map((input, index) => ({
      model: input.source.model,
      isBase: input.source.model === slice.base,
      parameters: values[index] ?? {},
      working: workingOf(input),
    })),
    parameters,
    seed: recipe.seed,
    rules: { nonFinite: recipe.nonFinite, strict: recipe.strict },
    working,
  };
  refuseByMethod(view, tensor, inputs, planning);
  const statistics = planning.statistics.inputsOf(name, inputs, shape);
  if (method.statistics !== undefined && statistics.length === 0) {
    notes.add(`tensors without ${method.statistics.title} are averaged`, name);
  }
  const isCopy =
    method.isIdentity?.(view) === true && dtype === valueDtype({ dtype: reference.entry.dtype, rows: reference.rows });
  if (isCopy) noteKeptDtype(tensor, dtype, planning);
  else checkFloats(tensor, inputs, planning);
  if (shape.length === 2 && inputs.some(({ entry }) => !sameShape(entry.shape, shape))) {
    notes.add(`embeddings are cut to ${shape.join(" x ")}`, name);
  }
  return {
    name,
    dtype,
    shape: [...shape],
    method: isCopy ? "copy" : method.id,
    parameters: isCopy ? {} : defined(parameters),
    seed: recipe.seed,
    ...(isCopy || working === undefined ? {} : { working }),
    inputs: [
      ...inputs.map((input, index) =>
        isCopy
          ? unitInput(input, tensor, shape, {})
          : unitInput(input, tensor, shape, values[index] ?? {}, workingOf(input)),
      ),
      ...statistics,
    ],
  };
}

function unitInput(
  { source, entry, stored, rows: gathered, isAdapted }: Present,
  { slice }: OutputTensor,
  shape: Shape,
  parameters: ParameterValues,
  working?: HalfDtype | undefined,
): UnitInput {
  const [rows = 0, columns = 0] = shape;
  return {
    ...stored,
    ...(sameShape(entry.shape, shape) ? {} : { cut: { rows, columns } }),
    ...(gathered === undefined ? {} : { rows: gathered }),
    isBase: source.model === slice.base,
    ...(working === undefined ? {} : { working }),
    ...(isAdapted ? { model: source.model } : {}),
    parameters: defined(parameters),
  };
}

function defined(values: ParameterValues): UnitTensor["parameters"] {
  const entries = Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, value] as const],
  );
  return Object.fromEntries(entries);
}

function checkInputCount(tensor: OutputTensor, inputs: readonly Present[], { method, recipe }: TensorPlanning): void {
  const { min, max } = method.inputCount;
  if (inputs.length >= min && inputs.length <= max) return;
  throw new MergeyardError("PlanInputCount", {
    where: { ...fieldPlace(recipe.origin, tensor.slice.field), tensor: tensor.name },
    found: `${inputs.length} models`,
    expected: `${describeCount(min, max)} for ${method.id}`,
  });
}

function describeCount(min: number, max: number): string {
  if (min === max) return String(min);
  return max === Number.POSITIVE_INFINITY ? `at least ${min}` : `${min} to ${max}`;
}

function noteKeptDtype({ name }: OutputTensor, dtype: Dtype, { recipe, notes }: TensorPlanning): void {
  if (recipe.outputDtype === undefined || isFloatDtype(dtype)) return;
  notes.add(`${dtype} tensors are copied as they are: only float dtypes are converted to ${recipe.outputDtype}`, name);
}

function checkFloats(
  tensor: OutputTensor,
  inputs: readonly Present[],
  { method, recipe, notes }: TensorPlanning,
): void {
  if (inputs.some(({ entry }) => entry.dtype === "F64")) notes.add("F64 tensors are merged in float32", tensor.name);
  const other = inputs.find(({ entry }) => !isFloatDtype(entry.dtype));
  if (other === undefined) return;
  throw new MergeyardError("PlanDtypeNotMergeable", {
    where: { ...place(tensor, other, recipe), file: other.entry.ranges[0]?.file },
    found: other.entry.dtype,
    expected: `F32, F16, BF16 or F64 for ${method.id}`,
  });
}

function refuseByMethod(
  view: MergeTensor,
  tensor: OutputTensor,
  inputs: readonly Present[],
  { method, recipe }: TensorPlanning,
): void {
  const refusal = method.refuse?.(view);
  if (refusal === undefined) return;
  const { model, parameter, found, expected, hint } = refusal;
  const input = inputs.find(({ source }) => source.model === model);
  const field = input === undefined ? tensor.slice.field : input.source.field;
  const where = fieldPlace(recipe.origin, parameter === undefined ? field : [...field, "parameters", parameter]);
  throw new MergeyardError("PlanMethodRefused", {
    where: { ...where, model, tensor: tensor.name },
    found,
    expected,
    hint,
  });
}

function missingError(tensor: OutputTensor, gone: OutputInput, { recipe, models }: TensorPlanning): MergeyardError {
  const holders = tensor.inputs.filter(({ entry }) => entry !== undefined).map(({ source }) => source.model);
  if (holders.length === 0)
    for (const [model, { tensors }] of models) if (tensors.has(tensor.name)) holders.push(model);
  return new MergeyardError("PlanTensorMissing", {
    where: { ...fieldPlace(recipe.origin, gone.source.field), model: gone.source.model, tensor: gone.name },
    found: "no such tensor",
    expected: `a tensor of every model, as in ${holders.join(", ")}`,
    hint:
      "write `allow_unlisted: copy` to take such tensors from the base (else from the first model that has them), or " +
      "`allow_unlisted: drop` to leave them out",
  });
}

function shapeError(
  tensor: OutputTensor,
  other: Present,
  reference: Present,
  { recipe, models }: TensorPlanning,
): MergeyardError {
  const isVocabulary = tensorRole(other.entry, models.get(other.source.model)?.vocabulary) !== undefined;
  return new MergeyardError("PlanShapeMismatch", {
    where: place(tensor, other, recipe),
    found: `[${other.entry.shape.join(", ")}]`,
    expected: `[${reference.entry.shape.join(", ")}], as in ${reference.source.model}`,
    hint: isVocabulary
      ? "the vocabularies differ: use fine-tunes of one base, or `on_mismatch: skip` to keep the base's rows"
      : "merge models of one build, or write `on_mismatch: skip` to merge such tensors without the models that differ",
  });
}

function place(tensor: OutputTensor, input: Present, recipe: Recipe): ErrorPlace {
  return { ...fieldPlace(recipe.origin, input.source.field), model: input.source.model, tensor: tensor.name };
}
