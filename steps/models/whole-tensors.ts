// Whole tensors in memory, for steps that take matrices apart: read as numbers, rounded back, and written into one
// safetensors file in order.
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { HF_METADATA, planShards } from "../../core/formats/safetensors/shard-plan.ts";
import { fileRole } from "../../core/formats/side-files.ts";
import { stringifyPython } from "../../core/json.ts";
import { type FloatDtype, isFloatDtype, scalarCast } from "../../core/ops/cast.ts";
import type { Matrix } from "../../core/ops/linalg/matrix.ts";
import { SHARD_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { type Dtype, elementBytes, elementCount, type Shape, tensorBytes } from "../../core/tensor.ts";
import { checkReadable } from "../../core/universal/conversion.ts";
import { createEntryReader } from "../../engine/stored-reader.ts";
import { copyAcross, writeBytes, writeObject } from "../../stores/objects.ts";
import type { FolderPlace, ObjectStore } from "../../stores/store.ts";
import { openCheckpoint, type StoredCheckpoint, travellingFiles } from "../open-checkpoint.ts";
import type { StepDeps } from "../step.ts";

/** Elements of a tensor that are read at a time. */
const PIECE_ELEMENTS = 2 ** 21;

/** A checkpoint and where its files lie. */
export type ReadableModel = FolderPlace & { readonly opened: StoredCheckpoint };

/** Opens a folder whose tensors can be read as they lie. Throws what opening a checkpoint throws. */
export async function openReadable(uri: string, { openStore, signal }: StepDeps): Promise<ReadableModel> {
  const store = openStore(uri);
  const opened = await openCheckpoint(store, "", signal);
  checkReadable(opened.checkpoint);
  return { store, prefix: "", opened };
}

/** The bytes of a tensor. Throws what the store throws. */
export async function readTensorBytes(
  { store, prefix }: FolderPlace,
  entry: TensorEntry,
  signal: AbortSignal,
): Promise<Uint8Array> {
  signal.throwIfAborted();
  const into = new Uint8Array(tensorBytes(entry.dtype, entry.shape));
  if (into.length > 0) await createEntryReader(entry, { store, prefix }, signal)(0, elementCount(entry.shape), into);
  return into;
}

/** The same in pieces of few MiB; one is valid until the next is asked for. */
export async function* readTensorPieces(
  { store, prefix }: FolderPlace,
  entry: TensorEntry,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const read = createEntryReader(entry, { store, prefix }, signal);
  const elements = elementCount(entry.shape);
  const piece = new Uint8Array(tensorBytes(entry.dtype, [Math.min(elements, PIECE_ELEMENTS)]));
  for (let first = 0; first < elements; first += PIECE_ELEMENTS) {
    signal.throwIfAborted();
    const count = Math.min(elements - first, PIECE_ELEMENTS);
    const own = piece.subarray(0, tensorBytes(entry.dtype, [count]));
    await read(first, count, own);
    yield own;
  }
}

/** float32 values of a tensor of floats. Throws PlanDtypeNotMergeable, EngineNonFinite, and what the store throws. */
export async function readValues(model: ReadableModel, entry: TensorEntry, signal: AbortSignal): Promise<Float32Array> {
  const where = { store: model.store.uri, tensor: entry.name };
  const { dtype } = entry;
  if (!isFloatDtype(dtype)) {
    throw new MergeyardError("PlanDtypeNotMergeable", { where, found: dtype, expected: "F32, F16, BF16 or F64" });
  }
  const bytes = await readTensorBytes(model, entry, signal);
  const values = new Float32Array(elementCount(entry.shape));
  const bad = scalarCast.widen(dtype, { address: 0, bytes }, 0, { address: 0, values }, values.length);
  if (bad === 0) return values;
  throw new MergeyardError("EngineNonFinite", { where, found: `${bad} values`, expected: "finite numbers only" });
}

/** The same as a matrix: the first axis by all others. */
export async function readMatrix(model: ReadableModel, entry: TensorEntry, signal: AbortSignal): Promise<Matrix> {
  const values = Float64Array.from(await readValues(model, entry, signal));
  const rows = entry.shape[0] ?? 1;
  return { rows, columns: rows === 0 ? 0 : values.length / rows, values };
}

/** Bytes of values, rounded to float32 and then to the dtype. */
export function roundValues(values: ArrayLike<number>, dtype: FloatDtype): Uint8Array {
  const bytes = new Uint8Array(elementBytes(dtype, values.length));
  const tile = { address: 0, values: Float32Array.from(values) };
  scalarCast.narrow(dtype, tile, { address: 0, bytes }, 0, values.length);
  return bytes;
}

/** A tensor to write: its bytes, or how they are read when its turn comes, at once or piece by piece. */
export type WholeTensor = {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: Shape;
  readonly bytes: Uint8Array | (() => Promise<Uint8Array> | AsyncIterable<Uint8Array>);
};

/** Writes a safetensors file; returns its size. One tensor at a time is in memory besides those that are given. */
export async function writeTensors(
  target: ObjectStore,
  name: string,
  tensors: readonly WholeTensor[],
  signal: AbortSignal,
): Promise<number> {
  const { header, tensors: placed, fileBytes } = encodeSafetensorsHeader(tensors, HF_METADATA);
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  async function* pieces(): AsyncGenerator<Uint8Array> {
    yield header;
    for (const place of placed) {
      const bytes = byName.get(place.name)?.bytes ?? new Uint8Array(0);
      const made = typeof bytes === "function" ? bytes() : [bytes];
      for await (const piece of made instanceof Promise ? [await made] : made) if (piece.length > 0) yield piece;
    }
  }
  await writeObject(target, name, pieces(), fileBytes, { signal });
  return fileBytes;
}

/** Writes a model's tensors as safetensors shards with their index, in the given order; returns their bytes. */
export async function writeModel(
  target: ObjectStore,
  tensors: readonly WholeTensor[],
  signal: AbortSignal,
): Promise<number> {
  const { shards, index } = planShards(tensors, SHARD_BYTES_DEFAULT);
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  let bytes = 0;
  for (const shard of shards) {
    const own = shard.tensors.flatMap(({ name }) => byName.get(name) ?? []);
    bytes += await writeTensors(target, shard.file, own, signal);
  }
  if (index === undefined) return bytes;
  const text = new TextEncoder().encode(index.text);
  await writeBytes(target, index.name, text, { signal });
  return bytes + text.length;
}

/**
 * Copies what travels with a model's weights, with another `config.json` where one is given; an index speaks of files
 * that are written anew.
 */
export async function copySideFiles(
  model: ReadableModel,
  target: ObjectStore,
  signal: AbortSignal,
  config?: Readonly<Record<string, unknown>>,
): Promise<void> {
  for (const { name } of travellingFiles(model.opened)) {
    const role = fileRole(name);
    if (role === "index") continue;
    if (role === "config" && config !== undefined) {
      await writeBytes(target, name, new TextEncoder().encode(stringifyPython(config)), { signal });
    } else await copyAcross(model.store, `${model.prefix}${name}`, target, name, { signal });
  }
}
