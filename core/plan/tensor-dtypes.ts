// The dtypes of one output tensor: what is written, and under `strict` what is computed in.
// Source: reference sections 2.1 to 2.3.
import { type HalfDtype, isFloatDtype } from "../ops/cast.ts";
import type { Recipe } from "../recipe/normalise.ts";
import type { Dtype } from "../tensor.ts";
import type { PresentInput, TensorPlanning } from "./tensor-inputs.ts";

/** Whole numbers and truth values: never averaged. */
export function isWhole(dtype: Dtype): boolean {
  return /^(?:[IU]\d+|BOOL)$/.test(dtype);
}

/** The recipe's dtype for floats; the stored one for everything that cannot be converted. */
export function outputDtype(stored: Dtype, recipe: Recipe): Dtype {
  return isFloatDtype(stored) ? (recipe.outputDtype ?? stored) : stored;
}

/** The dtypes of a merged tensor. */
type TensorDtypes = {
  readonly output: Dtype;
  /** Under `strict`, where it has 16 bits: what the reference computes in, and what it holds an input in. */
  readonly working: HalfDtype | undefined;
  workingOf(input: PresentInput): HalfDtype | undefined;
};

/** By our rules: the recipe's dtype, else the base's or the first model's. Under `strict` by the reference's. */
export function dtypesOf(
  inputs: readonly PresentInput[],
  reference: PresentInput,
  { method, recipe }: TensorPlanning,
): TensorDtypes {
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
function promotedDtype(inputs: readonly PresentInput[]): Dtype {
  const dtypes = new Set(inputs.map(({ entry }) => entry.dtype));
  const [first, second] = dtypes;
  if (first !== undefined && second === undefined) return first;
  return dtypes.has("F64") ? "F64" : "F32";
}

function halfDtype(dtype: Dtype): HalfDtype | undefined {
  return dtype === "F16" || dtype === "BF16" ? dtype : undefined;
}
