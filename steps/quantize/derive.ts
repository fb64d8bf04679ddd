// Making a model of fewer bits from a published one of INT8, without the float weights: planned here, from headers;
// then every file is written from its start to its end while the stored integers stream. A window and the scales of a
// few tensors are in memory. Where the original is given, it is quantized directly beside, to say how far they differ.
import assert from "node:assert/strict";
import * as z from "zod";
import type { PlannedShard } from "../../core/formats/safetensors/shard-plan.ts";
import { addLoss, type Loss, NO_LOSS, signalToNoise } from "../../core/ops/loss.ts";
import { type CopiedTensor, specsOf } from "../../core/plan/compressed-model.ts";
import { SHARD_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { type DerivedMatrix, planDerivedModel } from "../../core/plan/derived-model.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import { LOWER_BITS } from "../../core/schemes/double-rounding.ts";
import { allocateParts } from "../../core/schemes/part-matrix.ts";
import { type Part, partRange } from "../../core/schemes/scheme.ts";
import { elementCount, tensorBytes } from "../../core/tensor.ts";
import { type DerivedWindow, type DeriveSource, deriveWindows } from "../../engine/derive-parts.ts";
import { writeObject } from "../../stores/objects.ts";
import { openPlace, tensorFileBytes } from "../open-checkpoint.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { readRanges } from "../stream.ts";
import { createDirectComparison, type DirectComparison, type DirectLoss } from "./derive-direct.ts";
import { lossSchema, measureLoss, summariseLosses } from "./losses.ts";
import { checkEmpty, writeBesideShards } from "./model-folder.ts";

/** Parts beyond this are made anew when their turn comes instead of being kept. */
const KEPT_BYTES_MAX = 64 * 2 ** 20;

const place = z.strictObject({ store: uri, prefix: z.string(), file: z.string().optional() });

export const deriveStep = defineStep({
  name: "derive",
  input: z.strictObject({
    /** The INT8 model: a store and the folder in it. */
    source: place,
    bits: z.literal(LOWER_BITS),
    /** What it was quantized from, to compare with. */
    original: place.optional(),
    /** URI of the folder to write to; it must be empty. */
    target: uri,
    shardBytes: z.int().positive().default(SHARD_BYTES_DEFAULT),
  }),
  output: z.strictObject({
    target: z.string(),
    scheme: z.string(),
    files: count,
    tensors: count,
    elements: count,
    bytes: count,
    /** Matrices that were derived. */
    derived: count,
    /** Of the derived codes, those that were clipped to the largest, 0 to 1. */
    clipped: z.number(),
    ignore: z.array(z.string()),
    /** Against the stored INT8 values. */
    ...lossSchema,
    /**
     * Against the original, in dB: the derived model, the same scheme quantized from the original, and by how much the
     * former is worse. Null where no original was given.
     */
    original: z.strictObject({ derived: z.number(), direct: z.number(), gap: z.number() }).nullable(),
  }),
  /**
   * Throws DeriveSourceUnsupported, DeriveOriginalMismatch, QuantizeNotFinite (in the original), YardTargetOccupied,
   * the codes of opening a checkpoint, and what the stores throw. The file that makes the folder a model, config.json,
   * is written last.
   */
  async run(input, deps: StepDeps) {
    const { signal } = deps;
    const [store, target] = [deps.openStore(input.source.store), deps.openStore(input.target)];
    const { prefix } = input.source;
    const opened = await openPlace({ ...input.source, store }, signal);
    deps.begun?.(tensorFileBytes(opened));
    await checkEmpty(target, signal);
    const model = planDerivedModel(opened.checkpoint, input.bits, input.shardBytes);
    const matrices = model.units.filter((unit) => unit.kind === "matrix");
    const work: Deriving = {
      source: { store, prefix, signal },
      deps,
      makers: new Map(model.units.flatMap((unit) => specsOf(unit).map(({ name }) => [name, unit] as const))),
      direct: input.original === undefined ? undefined : await createDirectComparison(input.original, matrices, deps),
      done: { bytesRead: 0, bytesWritten: 0 },
      kept: new Map(),
      losses: new Map(),
    };
    for (const shard of model.shards) {
      await writeObject(target, shard.file, writeShard(work, shard), shard.fileBytes, { signal });
    }
    const beside = await writeBesideShards({ store, prefix, opened }, target, model, signal);
    const elements = matrices.reduce((sum, { entry }) => sum + elementCount(entry.shape), 0);
    const losses = [...work.losses].map(([tensor, measured]) => ({ tensor, scheme: model.scheme.id, ...measured }));
    return {
      target: target.uri,
      scheme: model.scheme.id,
      files: model.shards.length + beside,
      tensors: model.shards.reduce((sum, { tensors }) => sum + tensors.length, 0),
      elements: opened.checkpoint.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
      bytes: model.shards.reduce((sum, { fileBytes }) => sum + fileBytes, 0),
      derived: matrices.length,
      clipped: losses.reduce((sum, { loss: { clipped } }) => sum + clipped, 0) / elements,
      ignore: [...model.ignore],
      ...summariseLosses(losses),
      original: describeDirect(losses.flatMap(({ direct }) => direct ?? [])),
    };
  },
});

type Measured = { readonly loss: Loss; readonly direct: DirectLoss | undefined };

type Deriving = {
  readonly source: DeriveSource;
  readonly deps: StepDeps;
  /** What makes each tensor of the files, by its name. */
  readonly makers: ReadonlyMap<string, DerivedMatrix | CopiedTensor>;
  readonly direct: DirectComparison | undefined;
  readonly done: { bytesRead: number; bytesWritten: number };
  /** Parts whose turn in the file comes later, by the name of the tensor they become. */
  readonly kept: Map<string, Uint8Array>;
  /** Of the matrices whose rows have passed, by name. */
  readonly losses: Map<string, Measured>;
};

async function* writeShard(work: Deriving, { header, tensors }: PlannedShard): AsyncGenerator<Uint8Array> {
  yield header;
  for (const { name, bytes } of tensors) {
    const unit = work.makers.get(name);
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

async function* copyPieces({ source, done }: Deriving, { entry }: CopiedTensor): AsyncGenerator<Uint8Array> {
  const { store, prefix, signal } = source;
  const ranges = entry.ranges.map(({ file, offset, bytes }) => ({ store, key: `${prefix}${file}`, offset, bytes }));
  for await (const piece of readRanges(ranges, signal)) {
    done.bytesRead += piece.length;
    yield piece;
  }
}

/** A part from those kept, or by passing the rows of its matrix. */
async function* partPieces(work: Deriving, unit: DerivedMatrix, name: string): AsyncGenerator<Uint8Array> {
  const kept = work.kept.get(name);
  if (kept !== undefined) {
    work.kept.delete(name);
    yield kept;
    return;
  }
  const wanted = name.slice(unit.module.length + 1);
  // A part that was too large to be kept is made by another pass, which finds the others made already.
  const isAgain = work.losses.has(unit.entry.name);
  const others = unit.parts.filter((part) => !isAgain && part.name !== wanted && isKept(part));
  const whole = allocateParts(others);
  let measured: Measured = { loss: NO_LOSS, direct: undefined };
  for await (const window of deriveWindows(unit, work.source)) {
    if (!isAgain) measured = await addWindow(work, unit, window, measured);
    for (const part of others) {
      const bytes = window.parts.get(part.name);
      if (bytes !== undefined) whole.get(part.name)?.set(bytes, partRange(part, window.first, window.count).offset);
    }
    const piece = window.parts.get(wanted);
    const isWhole = unit.parts.some((part) => part.name === wanted && part.along === undefined);
    if (piece !== undefined && (!isWhole || window.first === 0)) yield piece;
    work.done.bytesRead += window.count * unit.matrix.columns;
  }
  if (isAgain) return;
  work.losses.set(unit.entry.name, measured);
  for (const [part, bytes] of whole) work.kept.set(`${unit.module}.${part}`, bytes);
}

function isKept({ dtype, shape }: Part): boolean {
  return tensorBytes(dtype, shape) <= KEPT_BYTES_MAX;
}

async function addWindow(
  { direct }: Deriving,
  unit: DerivedMatrix,
  { first, count, stored, derived, clipped }: DerivedWindow,
  before: Measured,
): Promise<Measured> {
  const beside = await direct?.compare(unit, first, count, derived);
  return {
    loss: addLoss(before.loss, { ...measureLoss(stored, derived), clipped }),
    direct: beside && {
      derived: addLoss(before.direct?.derived ?? NO_LOSS, beside.derived),
      direct: addLoss(before.direct?.direct ?? NO_LOSS, beside.direct),
    },
  };
}

function describeDirect(losses: readonly DirectLoss[]) {
  if (losses.length === 0) return null;
  const [derived, direct] = (["derived", "direct"] as const).map((side) => {
    return signalToNoise(losses.map((loss) => loss[side]).reduce(addLoss));
  });
  // Nothing lost is a model of zeros.
  if (derived == null || direct == null) return null;
  return { derived, direct, gap: direct - derived };
}
