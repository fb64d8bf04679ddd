// What the grammar allows and this version does not do: one refusal each, so that nothing is quietly left out. When a
// part becomes executable its line here goes, and docs/recipes.md with it.
import { MergeyardError } from "../error.ts";
import { type FieldPath, fieldPlace, type RecipeOrigin } from "./origin.ts";
import type { ParsedRecipe } from "./parse.ts";
import type { MergeConfig } from "./schema.ts";

type Refusal = { readonly path: FieldPath; readonly found: string; readonly expected: string; readonly hint: string };

/** Throws RecipeNotSupported for the first part of a merge that has a meaning but is not executed. */
export function refuseMerge(merge: MergeConfig, origin: RecipeOrigin): void {
  const [refusal] = refusalsOf(merge);
  if (refusal === undefined) return;
  const { path, ...details } = refusal;
  throw new MergeyardError("RecipeNotSupported", { where: fieldPlace(origin, path), ...details });
}

/** Throws RecipeNotSupported for outputs that are not written. */
export function refuseOutputs(recipe: ParsedRecipe): void {
  const [output, second] = recipe.pipeline.outputs;
  const where = { file: recipe.origin.file, field: second === undefined ? "outputs[0]" : "outputs[1]" };
  if (second !== undefined) {
    throw new MergeyardError("RecipeNotSupported", { where, found: "several outputs", expected: "one output" });
  }
  if (output !== undefined && (output.format !== "safetensors" || output.scheme != null)) {
    const found = output.scheme == null ? output.format : `${output.format} with scheme ${output.scheme}`;
    throw new MergeyardError("RecipeNotSupported", { where, found, expected: "format: safetensors" });
  }
}

function refusalsOf(merge: MergeConfig): readonly Refusal[] {
  const refusals: (Refusal | undefined)[] = [
    refuseWhen(merge.dtype === "int64", "dtype", "int64", FLOATS, "merging is float arithmetic"),
    refuseWhen(merge.out_dtype === "int64", "out_dtype", "int64", FLOATS, "merging is float arithmetic"),
  ];
  return refusals.filter((refusal) => refusal !== undefined);
}

const FLOATS = "float32, float16 or bfloat16";

function refuseWhen(applies: boolean, key: string, found: string, expected: string, hint: string): Refusal | undefined {
  return applies ? { path: [key], found, expected, hint } : undefined;
}
