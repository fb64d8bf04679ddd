// The Hessian of one matrix as float32, for a solver that takes it. Called by whoever makes the matrix's parts.
import assert from "node:assert/strict";
import type { TensorEntry } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { isFloatDtype, scalarCast } from "../core/ops/cast.ts";
import { elementBytes, elementCount } from "../core/tensor.ts";
import type { OpenStore } from "../stores/store.ts";
import { createEntryReader } from "./stored-reader.ts";

/** The folder that has the file: a store's URI and a prefix in it. */
export type HessianPlace = { readonly store: string; readonly prefix: string };

/** [columns, columns], row-major. Throws QuantizeHessianInvalid for NaN and infinity, and what the store throws. */
export async function readHessian(
  { store, prefix }: HessianPlace,
  entry: TensorEntry,
  { openStore, signal }: { readonly openStore: OpenStore; readonly signal: AbortSignal },
): Promise<Float32Array> {
  const count = elementCount(entry.shape);
  const bytes = new Uint8Array(elementBytes(entry.dtype, count));
  await createEntryReader(entry, { store: openStore(store), prefix }, signal)(0, count, bytes);
  const values = new Float32Array(count);
  assert.ok(isFloatDtype(entry.dtype), "the plan lets only floats through");
  if (scalarCast.widen(entry.dtype, { address: 0, bytes }, 0, { address: 0, values }, count) > 0) {
    const where = { store, tensor: entry.name };
    const found = "NaN or infinity";
    throw new MergeyardError("QuantizeHessianInvalid", { where, found, expected: "finite numbers" });
  }
  return values;
}
