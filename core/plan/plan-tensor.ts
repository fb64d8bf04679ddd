// One output tensor: which inputs take part, at which shape and dtype, by which method with which parameters; or why it
// cannot be merged. Everything here is decided from headers and the recipe.
// Source: reference sections 2.1 to 2.3; where we are stricter, docs/recipes.md says so.
import { MergeyardError } from "../error.ts";
import type { MergeTensor, ParameterValues } from "../methods/method.ts";
import { passthrough } from "../methods/passthrough.ts";
import { type HalfDtype, isFloatDtype } from "../ops/cast.ts";
import { fieldPlace } from "../recipe/origin.ts";
import { type Dtype, type Shape, sameShape } from "../tensor.ts";
import { valueDtype } from "./memory.ts";
import type { OutputInput, OutputTensor } from "./output-tensors.ts";
import type { UnitInput, UnitTensor } from "./schema.ts";
import { dtypesOf, isWhole, outputDtype } from "./tensor-dtypes.ts";
import {
  findInputs,
  gatherTokens,
  inputPlace,
  type PresentInput,
  referenceOf,
  type TensorPlanning,
} from "./tensor-inputs.ts";
import { fitShapes, type Shaped, shapeError } from "./tensor-shapes.ts";

/** An output tensor that only lacks its place in a file. */
export type PlannedTensor = Omit<UnitTensor, "offset" | "bytes">;

/**
 * The plan of one output tensor; undefined when the recipe drops it.
 * Throws PlanTensorMissing, PlanShapeMismatch, PlanDtypeNotMergeable, PlanInputCount, PlanMethodRefused,
 * RecipeParameterMissing, RecipeParameterInvalid.
 */
export function planTensor(tensor: OutputTensor, planning: TensorPlanning): PlannedTensor | undefined {
  const { allowUnlisted } = planning.recipe;
  const { present: stored, missing } = findInputs(tensor, planning);
  const present = gatherTokens(tensor, stored, planning);
  const [gone] = missing;
  if (gone !== undefined) {
    if (allowUnlisted === undefined) throw missingError(tensor, gone, planning);
    // None is present where the last slice's model has no head, although another model does.
    const reference = present.length === 0 ? undefined : referenceOf(tensor, present);
    return copyOrDrop(tensor, reference, "a model lacks", planning);
  }
  const reference = referenceOf(tensor, present);
  if (tensor.isCopied === true) return copyTensor(tensor, reference, planning);
  if (present.every(({ entry }) => isWhole(entry.dtype))) return copyWhole(tensor, present, reference, planning);
  const { inputs, shape } = fitShapes(tensor, present, reference, planning);
  if (inputs.length === 1 && present.length > 1) return copyTensor(tensor, reference, planning);
  if (inputs.length < planning.method.inputCount.min && allowUnlisted !== undefined) {
    // Too few models have it for the method: it cannot take part, as if the others lacked it.
    return copyOrDrop(tensor, reference, "too few models have", planning);
  }
  return mergeInputs(tensor, { inputs, shape }, reference, planning);
}

/** As `allow_unlisted` says: the reference's tensor, where there is one, or none. */
function copyOrDrop(
  tensor: OutputTensor,
  reference: PresentInput | undefined,
  which: string,
  planning: TensorPlanning,
): PlannedTensor | undefined {
  const copied = planning.recipe.allowUnlisted === "copy" ? reference : undefined;
  planning.notes.add(`tensors that ${which} are ${copied === undefined ? "dropped" : "copied"}`, tensor.name);
  return copied === undefined ? undefined : copyTensor(tensor, copied, planning);
}

function copyWhole(
  tensor: OutputTensor,
  present: readonly PresentInput[],
  reference: PresentInput,
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
function copyTensor(tensor: OutputTensor, input: PresentInput, planning: TensorPlanning): PlannedTensor {
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

function mergeInputs(
  tensor: OutputTensor,
  { inputs, shape }: Shaped,
  reference: PresentInput,
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
  { source, entry, stored, rows: gathered, isAdapted }: PresentInput,
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

function checkInputCount(
  tensor: OutputTensor,
  inputs: readonly PresentInput[],
  { method, recipe }: TensorPlanning,
): void {
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
  inputs: readonly PresentInput[],
  { method, recipe, notes }: TensorPlanning,
): void {
  if (inputs.some(({ entry }) => entry.dtype === "F64")) notes.add("F64 tensors are merged in float32", tensor.name);
  const other = inputs.find(({ entry }) => !isFloatDtype(entry.dtype));
  if (other === undefined) return;
  throw new MergeyardError("PlanDtypeNotMergeable", {
    where: { ...inputPlace(tensor, other, recipe), file: other.entry.ranges[0]?.file },
    found: other.entry.dtype,
    expected: `F32, F16, BF16 or F64 for ${method.id}`,
  });
}

function refuseByMethod(
  view: MergeTensor,
  tensor: OutputTensor,
  inputs: readonly PresentInput[],
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
