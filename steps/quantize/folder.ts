// Quantizing a checkpoint into a folder of parts that servers load: planned here, from headers; the
// weights stream through the parts executor, which also measures the error of every tensor on the way.
import assert from "node:assert/strict";
import * as z from "zod";
import { followFolderPlan } from "../../core/bit-plan/folder.ts";
import type { Checkpoint } from "../../core/checkpoint.ts";
import { type ChooseScheme, type CompressedUnit, planCompressedModel } from "../../core/plan/compressed-model.ts";
import { SHARD_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { findHessian } from "../../core/plan/hessians.ts";
import type { HessianFile } from "../../core/plan/merge-task.ts";
import { count, storedFile, uri } from "../../core/schema-atoms.ts";
import { FOLDER_SCHEMES, knownFolderScheme } from "../../core/schemes/registry.ts";
import { elementCount } from "../../core/tensor.ts";
import type { Hessians } from "../../engine/parts-request.ts";
import { openPlace, tensorFileBytes } from "../open-checkpoint.ts";
import { openHessianFile } from "../open-hessians.ts";
import { defineStep, type PartsDeps } from "../step.ts";
import { lossSchema, summariseLosses } from "./losses.ts";
import { checkEmpty, writeBesideShards } from "./model-folder.ts";

export const quantizeFolderStep = defineStep({
  name: "quantize-folder",
  input: z.strictObject({
    /** URI of the folder to read, and one file of it that is a checkpoint by itself. */
    source: uri,
    sourceFile: z.string().optional(),
    /** URI of the folder to write to; it must be empty. */
    target: uri,
    /** One for all modules; or a bit plan: the scheme of every linear module by the name of its weights. */
    scheme: z.union([z.enum([...FOLDER_SCHEMES.keys()]), z.record(z.string(), z.string())]),
    /** Modules to leave as they are: paths, or `re:` and an expression. */
    ignore: z.array(z.string()).default([]),
    /** A safetensors file with the Hessian of every matrix's inputs, for a scheme that takes one: folder and file. */
    hessian: storedFile.optional(),
    shardBytes: z.int().positive().default(SHARD_BYTES_DEFAULT),
  }),
  output: z.strictObject({
    target: z.string(),
    scheme: z.string(),
    files: count,
    tensors: count,
    elements: count,
    bytes: count,
    /** Matrices that were quantized, and how many by each scheme. */
    quantized: count,
    schemes: z.record(z.string(), count),
    /** Those that went through plain TypeScript, because no SIMD code for them exists: same bytes, slower. */
    quantizedScalar: count,
    ignore: z.array(z.string()),
    threads: count,
    ...lossSchema,
  }),
  /**
   * Throws BitPlanInvalid, QuantizeModelUnsupported, QuantizeShapeUnsupported, QuantizeNotFinite,
   * QuantizeHessianInvalid (with the name of the tensor), QuantizedFolderUnsupported (a wrong expression to ignore),
   * CheckpointNeedsConversion, YardTargetOccupied, EngineMemoryTooSmall, the codes of opening a checkpoint, and what
   * the stores throw. The file that makes the folder a model, config.json, is written last.
   */
  async run(input, deps: PartsDeps) {
    const [source, target] = [deps.openStore(input.source), deps.openStore(input.target)];
    const { signal } = deps;
    const opened = await openPlace({ store: source, prefix: "", file: input.sourceFile }, signal);
    deps.begun?.(tensorFileBytes(opened));
    await checkEmpty(target, signal);
    const { checkpoint } = opened;
    const choose = chooserOf(input.scheme, checkpoint, input.ignore);
    const model = planCompressedModel(checkpoint, choose, input.ignore, input.shardBytes);
    assert.ok(
      input.hessian === undefined || model.units.every((unit) => unit.kind === "copy" || takesHessian(unit.scheme)),
      "an edge gives Hessians to schemes that use them",
    );
    const hessians = input.hessian && hessiansOf(await openHessianFile(input.hessian, deps), model.units);
    const { losses, threads } = await deps.executeParts(
      {
        source: source.uri,
        target: target.uri,
        model: { shards: model.shards, units: model.units },
        hessians,
        threads: deps.threads,
        memoryBytes: deps.memoryBytes,
      },
      { signal, progress: deps.progress },
    );
    const beside = await writeBesideShards({ store: source, prefix: "", opened }, target, model, signal);
    const matrices = model.units.filter((unit) => unit.kind === "matrix");
    const schemes = new Map(matrices.map(({ entry, scheme }) => [entry.name, scheme]));
    return {
      target: target.uri,
      scheme: typeof input.scheme === "string" ? input.scheme : "bit plan",
      files: model.shards.length + beside,
      tensors: model.shards.reduce((sum, { tensors }) => sum + tensors.length, 0),
      elements: checkpoint.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
      bytes: model.shards.reduce((sum, { fileBytes }) => sum + fileBytes, 0),
      quantized: losses.length,
      schemes: countSchemes(schemes),
      quantizedScalar: losses.filter(({ quantizer }) => quantizer === "scalar").length,
      ignore: [...model.ignore],
      threads,
      ...summariseLosses(losses.map(({ tensor, loss }) => ({ tensor, scheme: schemes.get(tensor) ?? "", loss }))),
    };
  },
});

/** One scheme for all, or the plan's. */
function chooserOf(
  scheme: string | Readonly<Record<string, string>>,
  checkpoint: Checkpoint,
  ignored: readonly string[],
): ChooseScheme {
  if (typeof scheme !== "string") return followFolderPlan(scheme, checkpoint, ignored);
  const known = knownFolderScheme(scheme);
  return () => known;
}

/** The Hessian of every matrix. Throws QuantizeHessianInvalid. */
function hessiansOf(file: HessianFile, units: readonly CompressedUnit[]): Hessians {
  const matrices = units.filter((unit) => unit.kind === "matrix");
  const entries = matrices.map((unit) => [unit.entry.name, findHessian(file, unit)] as const);
  return { store: file.store, prefix: file.prefix, entries: Object.fromEntries(entries) };
}

function takesHessian(scheme: string): boolean {
  return knownFolderScheme(scheme).hessian !== "ignored";
}

function countSchemes(schemes: ReadonlyMap<string, string>): Record<string, number> {
  const groups = Map.groupBy(schemes.values(), (scheme) => scheme);
  return Object.fromEntries([...groups].map(([scheme, own]) => [scheme, own.length]));
}
