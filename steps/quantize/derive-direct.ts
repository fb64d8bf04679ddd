// What quantizing the original directly would have given, beside a derived model: rows of the original through the same
// scheme, and what either side lost against them. Called by the step that derives, where an original is given.
import assert from "node:assert/strict";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { isFloatDtype, scalarCast } from "../../core/ops/cast.ts";
import type { Loss } from "../../core/ops/loss.ts";
import type { DerivedMatrix } from "../../core/plan/derived-model.ts";
import { elementBytes, sameShape } from "../../core/tensor.ts";
import { checkReadable } from "../../core/universal/conversion.ts";
import { allocateWindow } from "../../engine/derive-parts.ts";
import { createEntryReader } from "../../engine/stored-reader.ts";
import { openPlace } from "../open-checkpoint.ts";
import type { StepDeps } from "../step.ts";
import { measureLoss } from "./losses.ts";

/** Against the original: what was derived, and what was quantized from it. */
export type DirectLoss = { readonly derived: Loss; readonly direct: Loss };

export type DirectComparison = {
  /** Rows [first, first + count) of a matrix; `derived` are its derived values. Throws QuantizeNotFinite. */
  compare(matrix: DerivedMatrix, first: number, count: number, derived: Float32Array): Promise<DirectLoss>;
};

/** Throws DeriveOriginalMismatch, and the codes of opening a checkpoint. */
export async function createDirectComparison(
  place: { readonly store: string; readonly prefix: string; readonly file?: string | undefined },
  matrices: readonly DerivedMatrix[],
  { openStore, signal }: StepDeps,
): Promise<DirectComparison> {
  const store = openStore(place.store);
  const { checkpoint } = await openPlace({ ...place, store }, signal);
  checkReadable(checkpoint);
  const entries = new Map(checkpoint.tensors.map((entry) => [entry.name, entry]));
  for (const { entry } of matrices) checkSame(entry, entries.get(entry.name), store.uri);
  return {
    async compare({ entry: { name }, matrix, derivation: { target }, parts }, first, count, derived) {
      const entry = entries.get(name);
      assert.ok(entry !== undefined && isFloatDtype(entry.dtype), "the originals have been checked");
      const elements = count * matrix.columns;
      const bytes = new Uint8Array(elementBytes(entry.dtype, elements));
      await createEntryReader(entry, { store, prefix: place.prefix }, signal)(first * matrix.columns, elements, bytes);
      const values = new Float32Array(elements);
      if (scalarCast.widen(entry.dtype, { address: 0, bytes }, 0, { address: 0, values }, elements) > 0) {
        const where = { store: store.uri, tensor: name };
        throw new MergeyardError("QuantizeNotFinite", { where, found: "NaN or infinity", expected: "finite numbers" });
      }
      const window = { matrix, first, count, values, parts: allocateWindow(parts, first, count) };
      target.quantize(window, {});
      const direct = new Float32Array(elements);
      target.dequantize({ ...window, values: direct });
      return { derived: measureLoss(values, derived), direct: measureLoss(values, direct) };
    },
  };
}

function checkSame(own: TensorEntry, other: TensorEntry | undefined, store: string): void {
  if (other !== undefined && isFloatDtype(other.dtype) && sameShape(own.shape, other.shape)) return;
  throw new MergeyardError("DeriveOriginalMismatch", {
    where: { store, tensor: own.name },
    found: other === undefined ? "no such tensor" : `${other.dtype} [${other.shape.join(", ")}]`,
    expected: `floats [${own.shape.join(", ")}]`,
  });
}
