// A stored matrix of 8-bit integers as one of fewer bits, window by window: its parts are read, the derived ones and
// both sides' values come out. It writes no store. Called by the step that derives.
import assert from "node:assert/strict";
import type { DerivedMatrix } from "../core/plan/derived-model.ts";
import { deriveWindow } from "../core/schemes/double-rounding.ts";
import type { PartBytes } from "../core/schemes/part-matrix.ts";
import { type Matrix, type Part, partRange } from "../core/schemes/scheme.ts";
import type { FolderPlace } from "../stores/store.ts";

/** Elements of a window: a few copies of them as float32 are in memory. */
const WINDOW_ELEMENTS = 1 << 19;

export type DerivedWindow = {
  readonly first: number;
  readonly count: number;
  /** Of these rows; of a part that belongs to the tensor as a whole, all bytes. */
  readonly parts: PartBytes;
  /** [count, columns], as they are stored and as they are derived. */
  readonly stored: Float32Array;
  readonly derived: Float32Array;
  /** Codes that were clipped. */
  readonly clipped: number;
};

/** Where the model lies: a store, and the folder in it. */
export type DeriveSource = FolderPlace & { readonly signal: AbortSignal };

/** All rows in their order; a window may be kept. Throws what reading throws. */
export async function* deriveWindows(tensor: DerivedMatrix, source: DeriveSource): AsyncGenerator<DerivedWindow> {
  const { matrix, stored, derivation, parts } = tensor;
  const step = windowRows(matrix);
  const storedParts = stored.parts(matrix);
  for (let first = 0; first < matrix.rows; first += step) {
    source.signal.throwIfAborted();
    const count = Math.min(step, matrix.rows - first);
    const elements = count * matrix.columns;
    const window = { matrix, first, count };
    const from = {
      ...window,
      values: new Float32Array(elements),
      parts: await readParts(tensor, storedParts, first, count, source),
    };
    const to = { ...window, values: new Float32Array(elements), parts: allocateWindow(parts, first, count) };
    const clipped = deriveWindow(derivation, from, to);
    stored.dequantize(from);
    derivation.target.dequantize(to);
    yield { first, count, parts: to.parts, stored: from.values, derived: to.values, clipped };
  }
}

/** Rows that are derived at a time. */
export function windowRows({ rows, columns }: Matrix): number {
  return Math.min(rows, Math.max(1, Math.floor(WINDOW_ELEMENTS / columns)));
}

/** Zeroed bytes for rows of every part. */
export function allocateWindow(parts: readonly Part[], first: number, count: number): PartBytes {
  return new Map(parts.map((part) => [part.name, new Uint8Array(partRange(part, first, count).bytes)]));
}

async function readParts(
  { entry }: DerivedMatrix,
  parts: readonly Part[],
  first: number,
  count: number,
  { store, prefix, signal }: DeriveSource,
): Promise<PartBytes> {
  const bytes = allocateWindow(parts, first, count);
  await Promise.all(
    parts.map(async (part, index) => {
      const [range, into] = [entry.ranges[index], bytes.get(part.name)];
      assert.ok(range !== undefined && into !== undefined, "an entry has a range for every part");
      const { offset } = partRange(part, first, count);
      await store.readInto(`${prefix}${range.file}`, range.offset + offset, into, { signal });
    }),
  );
  return bytes;
}
