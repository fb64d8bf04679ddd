// What the grammar allows and this version does not do: one refusal each, so that nothing is quietly left out. When a
// part becomes executable its line here goes, and docs/recipes.md with it.
import { MergeyardError } from "../error.ts";
import { type FieldPath, fieldPlace, type RecipeOrigin } from "./origin.ts";
import type { MergeConfig, MoeConfig } from "./schema.ts";

type Refusal = { readonly path: FieldPath; readonly found: string; readonly expected: string; readonly hint: string };

/** Throws RecipeNotSupported for the first part of a merge that has a meaning but is not executed. */
export function refuseMerge(merge: MergeConfig | MoeConfig, origin: RecipeOrigin): void {
  const [refusal] = refusalsOf(merge);
  if (refusal === undefined) return;
  const { path, ...details } = refusal;
  throw new MergeyardError("RecipeNotSupported", { where: fieldPlace(origin, path), ...details });
}

function refusalsOf(merge: MergeConfig | MoeConfig): readonly Refusal[] {
  const refusals: (Refusal | undefined)[] = [
    refuseWhen(merge.dtype === "int64", "dtype", "int64", FLOATS, "merging is float arithmetic"),
    refuseWhen(
      "out_dtype" in merge && merge.out_dtype === "int64",
      "out_dtype",
      "int64",
      FLOATS,
      "merging is float arithmetic",
    ),
  ];
  return refusals.filter((refusal) => refusal !== undefined);
}

const FLOATS = "float32, float16 or bfloat16";

function refuseWhen(applies: boolean, key: string, found: string, expected: string, hint: string): Refusal | undefined {
  return applies ? { path: [key], found, expected, hint } : undefined;
}
