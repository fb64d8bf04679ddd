// Tensors of small files as numbers, and their comparison under a golden case's tolerance.
import type { Checkpoint, TensorEntry } from "../../core/checkpoint.ts";
import { isFloatDtype } from "../../core/ops/cast.ts";
import { createScalarKernels } from "../../core/ops/kernels.ts";
import { elementCount, sameShape } from "../../core/tensor.ts";
import { type GatherTensor, gatherPieces } from "../../engine/gather.ts";
import type { ObjectStore } from "../../stores/store.ts";

export type Tensor = { readonly dtype: string; readonly shape: readonly number[]; readonly bytes: Uint8Array };

/** `exact`: the same bits, NaN equal to NaN; `close`: |got - expected| <= atol + rtol |expected| but for a share. */
export type Tolerance =
  | { readonly mode: "exact" }
  | {
      readonly mode: "close";
      readonly rtol: number;
      readonly atol: number;
      readonly allow_fraction?: number | undefined;
    };

/** Bytes of a tensor of a folder. */
export async function readTensor(store: ObjectStore, entry: TensorEntry): Promise<Tensor> {
  const pieces = await Promise.all(
    entry.ranges.map(async ({ file, offset, bytes }) => {
      const into = new Uint8Array(bytes);
      await store.readInto(file, offset, into);
      return into;
    }),
  );
  return { dtype: entry.dtype, shape: entry.shape, bytes: Buffer.concat(pieces) };
}

/** All tensors of a checkpoint of a folder, by name. */
export async function readTensors(
  store: ObjectStore,
  { tensors }: Pick<Checkpoint, "tensors">,
): Promise<ReadonlyMap<string, Tensor>> {
  return new Map(
    await Promise.all(tensors.map(async (entry) => [entry.name, await readTensor(store, entry)] as const)),
  );
}

/** The bytes of a small tensor, by the converter's own stream. */
export async function gatherTensor(
  store: ObjectStore,
  name: string,
  shape: readonly number[],
  tensor: Pick<GatherTensor, "dtype" | "gather">,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  const { dtype, gather } = tensor;
  const { signal } = new AbortController();
  const stream = gatherPieces({ store, prefix: "" }, [{ name, shape, dtype, gather }], signal);
  for await (const piece of stream) pieces.push(piece.slice());
  return Buffer.concat(pieces);
}

/** float32 values of a tensor of any float dtype. */
export function valuesOf({ dtype, shape, bytes }: Tensor): Float32Array {
  if (!isFloatDtype(dtype)) throw new TypeError(`${dtype} has no float values`);
  const count = elementCount(shape);
  const kernels = createScalarKernels(bytes.byteLength + 4 * count + 256);
  const block = kernels.allocateBlock(bytes.byteLength);
  block.bytes.set(bytes);
  const tile = kernels.allocateTile(count);
  kernels.widen(dtype, block, 0, tile, count);
  return tile.values;
}

/** Why two tensors differ beyond the tolerance; undefined when they do not. */
export function difference(got: Tensor, expected: Tensor, tolerance: Tolerance): string | undefined {
  if (!sameShape(got.shape, expected.shape)) return `shape [${got.shape}], expected [${expected.shape}]`;
  if (!isFloatDtype(expected.dtype))
    return Buffer.compare(got.bytes, expected.bytes) === 0 ? undefined : "bytes differ";
  const [a, b] = [valuesOf(got), valuesOf(expected)];
  if (tolerance.mode === "exact" && got.dtype !== expected.dtype) return `dtype ${got.dtype}, not ${expected.dtype}`;
  const misses = a.reduce((count, value, index) => count + (agrees(value, b[index] ?? 0, tolerance) ? 0 : 1), 0);
  const allowed = tolerance.mode === "exact" ? 0 : Math.floor((tolerance.allow_fraction ?? 0) * a.length);
  if (misses <= allowed) return undefined;
  const worst = a.findIndex((value, index) => !agrees(value, b[index] ?? 0, tolerance));
  return `${misses} of ${a.length} elements differ, first at ${worst}: ${a[worst]}, expected ${b[worst]}`;
}

function agrees(got: number, expected: number, tolerance: Tolerance): boolean {
  if (Number.isNaN(got) || Number.isNaN(expected)) return Number.isNaN(got) && Number.isNaN(expected);
  if (tolerance.mode === "exact") return Object.is(got, expected);
  if (got === expected) return true;
  return Math.abs(got - expected) <= tolerance.atol + tolerance.rtol * Math.abs(expected);
}
