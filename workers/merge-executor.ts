// The merge executor: runs a merge unit on worker threads. It cuts the output file into regions, hands them out as
// threads become free, and makes the file visible when all are done, or leaves nothing behind.
import assert from "node:assert/strict";
import { digestBytes, digestTensorFile } from "../core/artifact/digest.ts";
import { encodeSafetensorsHeader } from "../core/formats/safetensors/safetensors.ts";
import { HF_METADATA } from "../core/formats/safetensors/shard-plan.ts";
import type { TensorFile, UnitStatistics } from "../core/plan/receipt.ts";
import { type MergeUnit, modelName, modelsOf } from "../core/plan/schema.ts";
import { elementCount } from "../core/tensor.ts";
import type { ExecuteConvert } from "../engine/convert-request.ts";
import { beginUnitWrites, derivedParts, describeDerived, type UnitWrites } from "../engine/derived-files.ts";
import { fitUnit, type UnitFit } from "../engine/memory.ts";
import { areLocal, type RegionResult, type RegionTask, tensorsOf } from "../engine/merge-region.ts";
import type { TensorResult } from "../engine/merge-tensor.ts";
import { cutRegions, type MergeRegion } from "../engine/regions.ts";
import type {
  DigestRanges,
  ExecuteMeasure,
  ExecuteMerge,
  MergeRequest,
  MergeResult,
  ReadRange,
} from "../engine/request.ts";
import type { OpenStore } from "../stores/store.ts";
import { createConvert } from "./convert-executor.ts";
import { createDigest } from "./digest-executor.ts";
import { createPool } from "./pool.ts";
import { createMeasure } from "./prepare-executor.ts";
import type { RegionOutcome } from "./region-job.ts";

export type MergeExecutor = {
  readonly execute: ExecuteMerge;
  readonly measure: ExecuteMeasure;
  readonly convert: ExecuteConvert;
  readonly digest: DigestRanges;
  /** Ends the threads. The executor may not be used again. */
  close(): Promise<void>;
};

/** One unit at a time. */
export function createMergeExecutor(openStore: OpenStore): MergeExecutor {
  const pool = createPool(openStore);
  const execute: ExecuteMerge = async (request, { signal, progress }) => {
    signal.throwIfAborted();
    const target = openStore(request.target.store);
    const regions = cutRegions(request.unit, request.threads);
    const fit = fitUnit(request.unit, {
      threads: Math.min(request.threads, regions.length),
      memoryBytes: request.memoryBytes,
      isRemote: !areLocal(request.unit.tensors, request.sources, { openStore }),
    });
    const writes = await beginUnitWrites(request, regions, target, signal);
    try {
      const header = headerOf(request.unit);
      const jobs = regions.map((region, index) => ({
        kind: "merge" as const,
        task: regionTask(request, writes, region, index, header, fit),
      }));
      const { outcomes, done } = await pool.run(jobs, {
        threads: fit.threads,
        capacityBytes: fit.threadBytes,
        signal,
        progress,
      });
      const results = outcomes.map(resultOf);
      await writes.finish(results);
      const made = { ...summarise(request, header, results), ...describeDerived(request.unit, results) };
      return { ...made, ...done, kernels: "wasm", threads: fit.threads };
    } catch (error) {
      await writes.abort();
      throw error;
    }
  };
  return {
    execute,
    measure: createMeasure(openStore, pool),
    convert: createConvert(openStore, pool),
    digest: createDigest(pool),
    close: pool.close,
  };
}

/** The output file's header, its tensors in the order of the plan; its length is part of it. */
function headerOf(unit: MergeUnit): Uint8Array {
  return encodeSafetensorsHeader(unit.tensors, HF_METADATA, "given").header;
}

function regionTask(
  request: MergeRequest,
  writes: UnitWrites,
  region: MergeRegion,
  index: number,
  header: Uint8Array,
  { windowElements, keptBytes }: UnitFit,
): RegionTask {
  const { unit, sources, target } = request;
  return {
    index,
    region,
    ticket: writes.own,
    prologue: index === 0 ? header : new Uint8Array(0),
    tensors: tensorsOf(unit, region),
    derived: derivedParts(unit, region, writes, request.importance),
    rules: { nonFinite: unit.nonFinite, strict: unit.strict },
    sources,
    state: request.state,
    targetStore: target.store,
    windowElements,
    keptBytes,
    statistics: unit.statistics,
    digestInputs: request.digestInputs === true,
  };
}

function resultOf(outcome: RegionOutcome): RegionResult {
  assert.ok(outcome.kind === "merge");
  return outcome.result;
}

function summarise(
  request: MergeRequest,
  header: Uint8Array,
  results: readonly RegionResult[],
): Pick<MergeResult, "file" | "nonFinite" | "statistics" | "inputDigests"> {
  const { unit, sources } = request;
  const tensorResults = results.flatMap((result) => result.tensors);
  const inputs: Record<string, number> = {};
  tensorResults.forEach((result, index) => {
    unit.tensors[index]?.inputs.forEach((input, position) => {
      const model = modelName(input, sources);
      inputs[model] = (inputs[model] ?? 0) + (result.nonFiniteInputs[position] ?? 0);
    });
  });
  return {
    file: describeFile(
      unit,
      header,
      tensorResults.map((result) => result.digest),
    ),
    nonFinite: { inputs, output: tensorResults.reduce((sum, result) => sum + result.nonFiniteOutput, 0) },
    statistics: unit.statistics ? listStatistics(request, tensorResults) : null,
    ...(request.digestInputs === true ? { inputDigests: listInputDigests(unit, tensorResults) } : {}),
  };
}

/** Inputs that lie in one piece, as they do in a safetensors file. */
function listInputDigests(unit: MergeUnit, results: readonly TensorResult[]): readonly ReadRange[] {
  return results.flatMap(({ inputDigests }, index) =>
    inputDigests.flatMap((digest, position) => {
      const input = unit.tensors[index]?.inputs[position];
      const [range, second] = input?.ranges ?? [];
      if (digest === undefined || input === undefined || range === undefined || second !== undefined) return [];
      return { source: input.source, range, digest };
    }),
  );
}

/** What the engine measured of every tensor that was merged, with the models' names. */
function listStatistics({ unit, sources }: MergeRequest, results: readonly TensorResult[]): readonly UnitStatistics[] {
  return results.flatMap(({ interference, nonFiniteInputs }, index) => {
    const tensor = unit.tensors[index];
    if (tensor === undefined || interference === undefined) return [];
    const models = modelsOf(tensor.inputs);
    const base = models.find(({ isBase }) => isBase);
    const { norms, cosines, signConflicts, kept } = interference;
    return {
      name: tensor.name,
      elements: elementCount(tensor.shape),
      models: models.filter(({ isBase }) => !isBase).map((input) => modelName(input, sources)),
      base: base === undefined ? null : modelName(base, sources),
      norms: [...norms],
      cosines: [...cosines],
      signConflicts,
      kept: kept === null ? null : [...kept],
      nonFinite: nonFiniteInputs.filter((_, position) => models[position]?.isBase === false),
    };
  });
}

function describeFile(unit: MergeUnit, header: Uint8Array, digests: readonly string[]): TensorFile {
  const headerDigest = digestBytes(header);
  return {
    name: unit.file,
    bytes: unit.fileBytes,
    digest: digestTensorFile(headerDigest, digests),
    headerDigest,
    tensors: unit.tensors.map(({ name, dtype, shape, offset, bytes }, index) => ({
      name,
      dtype,
      shape,
      offset: header.byteLength + offset,
      bytes,
      digest: digests[index] ?? "",
    })),
  };
}
