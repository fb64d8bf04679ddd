// Quantizing a checkpoint into a compressed-tensors folder: planned here, from headers; then every file is written from
// its start to its end while the weights stream through the scheme. A window and the scales of a tensor are in memory.
import assert from "node:assert/strict";
import { z } from "zod";
import type { TensorEntry } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import type { PlannedShard } from "../core/formats/shard-plan.ts";
import { fileRole } from "../core/formats/side-files.ts";
import type { Kernels } from "../core/ops/kernels.ts";
import type { Loss } from "../core/ops/quantize.ts";
import {
  type CompressedCopy,
  type CompressedMatrix,
  type CompressedModel,
  planCompressedModel,
  specsOf,
} from "../core/plan/compressed-model.ts";
import { SHARD_BYTES_DEFAULT } from "../core/plan/plan-merge.ts";
import type { PartBytes } from "../core/schemes/part-matrix.ts";
import { COMPRESSED_SCHEMES, type CompressedScheme } from "../core/schemes/registry.ts";
import type { Matrix, TensorFacts } from "../core/schemes/scheme.ts";
import { elementCount } from "../core/tensor.ts";
import {
  createRowReader,
  elementPieces,
  elementPiecesBytes,
  measuredRows,
  measureLargest,
  type ReadRows,
  rowReaderBytes,
  type SourceDeps,
  streamBytes,
  streamPart,
  windowRows,
} from "../engine/quantize-parts.ts";
import { copyAcross, writeObject } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";
import { openPlace, travellingFiles, writtenDocuments } from "./open-checkpoint.ts";
import { lossSchema, summariseLosses } from "./quantize-losses.ts";
import { defineStep, type KernelDeps } from "./step.ts";

/** Bytes of a copied tensor in memory at a time. */
const COPY_BYTES = 8 * 2 ** 20;

const count = z.int().nonnegative();

export const quantizeFolderStep = defineStep({
  name: "quantize-folder",
  input: z.strictObject({
    /** URI of the folder to read, and one file of it that is a checkpoint by itself. */
    source: z.string().min(1),
    sourceFile: z.string().optional(),
    /** URI of the folder to write to; it must be empty. */
    target: z.string().min(1),
    scheme: z.enum([...COMPRESSED_SCHEMES.keys()]),
    /** Modules to leave as they are: paths, or `re:` and an expression. */
    ignore: z.array(z.string()).default([]),
    shardBytes: z.int().positive().default(SHARD_BYTES_DEFAULT),
  }),
  output: z.strictObject({
    target: z.string(),
    scheme: z.string(),
    files: count,
    tensors: count,
    elements: count,
    bytes: count,
    /** Matrices that the scheme quantized. */
    quantized: count,
    /** Those that went through plain TypeScript, because no SIMD code for them exists: same bytes, slower. */
    quantizedScalar: count,
    ignore: z.array(z.string()),
    ...lossSchema,
  }),
  /**
   * Throws QuantizeModelUnsupported, QuantizeShapeUnsupported, QuantizeNotFinite, CompressedTensorsUnsupported (a wrong
   * expression to ignore), CheckpointNeedsConversion, YardTargetOccupied, the codes of opening a checkpoint, and what
   * the stores throw. The file that makes the folder a model, config.json, is written last.
   */
  async run(input, deps: KernelDeps) {
    const [source, target] = [deps.openStore(input.source), deps.openStore(input.target)];
    const { signal } = deps;
    const opened = await openPlace({ store: source, prefix: "", file: input.sourceFile }, signal);
    for await (const { key } of target.list("", { signal })) {
      throw new MergeyardError("YardTargetOccupied", { where: { store: target.uri }, found: key, expected: "nothing" });
    }
    const scheme = COMPRESSED_SCHEMES.get(input.scheme);
    assert.ok(scheme !== undefined, "the schema lets only known schemes through");
    const { checkpoint } = opened;
    const model = planCompressedModel(checkpoint, scheme, input.ignore, input.shardBytes);
    const work: Writing = {
      source,
      scheme,
      deps,
      kernels: deps.createKernels(kernelBytes(scheme, model)),
      done: { bytesRead: 0, bytesWritten: 0 },
      losses: new Map(),
      kept: new Map(),
      largest: new Map(),
    };
    for (const shard of model.shards) {
      await writeObject(target, shard.file, writeShard(work, model, shard), shard.fileBytes, { signal });
    }
    const sides = travellingFiles(opened).filter(({ name }) => !REPLACED.has(fileRole(name)));
    for (const { name } of sides) await copyAcross(source, name, target, name, { signal });
    for (const { name, bytes } of writtenDocuments(opened).filter(({ name }) => !REPLACED.has(fileRole(name)))) {
      await writeObject(target, name, bytes, bytes.length, { signal });
    }
    const texts = [...(model.index === undefined ? [] : [model.index]), { name: "config.json", text: model.config }];
    for (const { name, text } of texts) {
      const bytes = new TextEncoder().encode(text);
      await writeObject(target, name, bytes, bytes.length, { signal });
    }
    return {
      target: target.uri,
      scheme: scheme.id,
      files: model.shards.length + sides.length + texts.length,
      tensors: model.shards.reduce((sum, { tensors }) => sum + tensors.length, 0),
      elements: checkpoint.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
      bytes: model.shards.reduce((sum, { fileBytes }) => sum + fileBytes, 0),
      quantized: work.losses.size,
      quantizedScalar: model.units.filter((unit) => isScalar(work, unit)).length,
      ignore: [...model.ignore],
      ...summariseLosses([...work.losses].map(([tensor, loss]) => ({ tensor, scheme: scheme.id, loss }))),
    };
  },
});

/** Written anew. */
const REPLACED: ReadonlySet<string> = new Set(["config", "index", "record"]);

type Writing = {
  readonly source: ObjectStore;
  readonly scheme: CompressedScheme;
  readonly deps: KernelDeps;
  readonly kernels: Kernels;
  readonly done: { bytesRead: number; bytesWritten: number };
  /** Of the matrices whose rows have passed, by name. */
  readonly losses: Map<string, Loss>;
  /** Parts whose turn in the file comes later, by the name of the tensor they become. */
  readonly kept: Map<string, Uint8Array>;
  /** max|x| by the name of the first tensor of a fused set. */
  readonly largest: Map<string, number>;
};

/** For the tensor that needs most. */
function kernelBytes(scheme: CompressedScheme, { units }: CompressedModel): number {
  const needs = units.map((unit) => {
    if (unit.kind === "copy") return unit.entry.packing === undefined ? 0 : elementPiecesBytes(unit.entry);
    const { matrix, entry, fused } = unit;
    const measured = fused.map((other) => {
      const [rows = 0, columns = 0] = other.shape;
      return rowReaderBytes(other, columns, measuredRows({ rows, columns, dtype: "F32" }));
    });
    const streamed = rowReaderBytes(entry, matrix.columns, windowRows(scheme, matrix)) + streamBytes(scheme, matrix);
    return measured.reduce((most, bytes) => Math.max(most, bytes), streamed);
  });
  return needs.reduce((most, bytes) => Math.max(most, bytes), 0);
}

function isScalar({ kernels, scheme }: Writing, unit: CompressedCopy | CompressedMatrix): boolean {
  return unit.kind !== "copy" && kernels.partsQuantizerOf(scheme, unit.matrix) === "scalar";
}

async function* writeShard(
  work: Writing,
  { units }: CompressedModel,
  { header, tensors }: PlannedShard,
): AsyncGenerator<Uint8Array> {
  const makers = new Map(units.flatMap((unit) => specsOf(unit).map(({ name }) => [name, unit] as const)));
  yield header;
  for (const { name, bytes } of tensors) {
    const unit = makers.get(name);
    assert.ok(unit !== undefined, "every planned tensor has a unit");
    let written = 0;
    for await (const piece of unit.kind === "copy" ? copyPieces(work, unit) : partPieces(work, unit, name)) {
      yield piece;
      written += piece.length;
      work.done.bytesWritten += piece.length;
      work.deps.progress?.({ ...work.done });
    }
    assert.equal(written, bytes, "a tensor has the bytes that the header says");
  }
}

async function* copyPieces(work: Writing, { entry }: CompressedCopy): AsyncGenerator<Uint8Array> {
  if (entry.packing !== undefined) {
    for await (const piece of elementPieces(entry, sourceDeps(work))) yield piece;
    work.done.bytesRead += entry.ranges.reduce((sum, { bytes }) => sum + bytes, 0);
    return;
  }
  const { signal } = work.deps;
  for (const { file, offset, bytes } of entry.ranges) {
    const buffer = new Uint8Array(Math.min(COPY_BYTES, bytes));
    for (let at = 0; at < bytes; at += buffer.length) {
      signal.throwIfAborted();
      const piece = buffer.subarray(0, Math.min(buffer.length, bytes - at));
      await work.source.readInto(file, offset + at, piece, { signal });
      work.done.bytesRead += piece.length;
      yield piece;
    }
  }
}

function sourceDeps({ source, deps, kernels }: Writing): SourceDeps {
  return { source: source.uri, openStore: deps.openStore, signal: deps.signal, kernels };
}

/** A part from those kept, or by passing the rows of its matrix. */
async function* partPieces(work: Writing, unit: CompressedMatrix, name: string): AsyncGenerator<Uint8Array> {
  const kept = work.kept.get(name);
  if (kept !== undefined) {
    work.kept.delete(name);
    yield kept;
    return;
  }
  const { entry, module, matrix, parts } = unit;
  const { kernels, scheme } = work;
  const facts = await measureFacts(work, unit);
  const mark = kernels.mark();
  const read = readerOf(work, entry, matrix, windowRows(scheme, matrix));
  const input = { scheme, matrix, parts, read, facts, kernels, tensor: entry.name };
  const result = yield* streamPart(input, name.slice(module.length + 1));
  kernels.release(mark);
  // A part that was too large to be kept is made by another pass, which finds the others made already.
  if (work.losses.has(entry.name)) return;
  work.losses.set(entry.name, result.loss);
  keep(work, module, result.parts);
}

function keep({ kept }: Writing, module: string, parts: PartBytes): void {
  for (const [part, bytes] of parts) kept.set(`${module}.${part}`, bytes);
}

/** One measure for a fused set, taken by whichever of its tensors comes first. */
async function measureFacts(work: Writing, { fused }: CompressedMatrix): Promise<TensorFacts> {
  if (work.scheme.measures === "nothing") return {};
  const key = fused[0]?.name ?? "";
  const known = work.largest.get(key);
  if (known !== undefined) return { largest: known };
  let largest = 0;
  for (const entry of fused) {
    const [rows = 0, columns = 0] = entry.shape;
    const matrix = { rows, columns, dtype: "F32" } as const;
    const mark = work.kernels.mark();
    largest = Math.max(largest, await measureLargest(readerOf(work, entry, matrix, measuredRows(matrix)), matrix));
    work.kernels.release(mark);
  }
  work.largest.set(key, largest);
  return { largest };
}

function readerOf(
  work: Writing,
  entry: TensorEntry,
  { rows, columns }: Pick<Matrix, "rows" | "columns">,
  maxRows: number,
): ReadRows {
  const read = createRowReader(entry, columns, Math.min(rows, maxRows), sourceDeps(work));
  const rowBytes = entry.ranges.reduce((sum, { bytes }) => sum + bytes, 0) / rows;
  return async (first, taken) => {
    const values = await read(first, taken);
    work.done.bytesRead += taken * rowBytes;
    return values;
  };
}
