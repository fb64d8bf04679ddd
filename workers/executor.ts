// The merge executor: runs a merge unit on worker threads. It cuts the output file into regions, hands them out as
// threads become free, and makes the file visible when all are done, or leaves nothing behind.
import { availableParallelism } from "node:os";
import { digestBytes, digestTensorFile } from "../core/artifact/digest.ts";
import { encodeSafetensorsHeader } from "../core/formats/safetensors.ts";
import type { TensorFile, UnitStatistics } from "../core/plan/receipt.ts";
import type { MergeUnit, UnitInput } from "../core/plan/schema.ts";
import { elementCount } from "../core/tensor.ts";
import { fitUnit } from "../engine/memory.ts";
import { type RegionResult, type RegionTask, tensorsOf } from "../engine/merge-region.ts";
import type { TensorResult } from "../engine/merge-tensor.ts";
import { cutRegions, type MergeRegion } from "../engine/regions.ts";
import type { ExecuteMerge, MergeProgress, MergeRequest, MergeResult } from "../engine/request.ts";
import type { OpenStore, WriteTicket } from "../stores/store.ts";
import { createLocalRunner, createThreadRunner, type RegionRunner } from "./region-runner.ts";

export type MergeExecutor = {
  readonly execute: ExecuteMerge;
  /** Ends the threads. The executor may not be used again. */
  close(): Promise<void>;
};

/** Threads that a machine runs best: one a processor. */
export function defaultThreads(): number {
  return availableParallelism();
}

/**
 * The calling thread merges too, and worker threads join it: they start with the first unit that has work for them and
 * stay for the next. One unit at a time.
 */
export function createMergeExecutor(openStore: OpenStore): MergeExecutor {
  const runners: RegionRunner[] = [];
  const ensureRunners = (count: number): readonly RegionRunner[] => {
    if (runners.length === 0) runners.push(createLocalRunner(openStore));
    while (runners.length < count) runners.push(createThreadRunner());
    return runners.slice(0, count);
  };
  const close = async (): Promise<void> => {
    await Promise.all(runners.splice(0).map((runner) => runner.close()));
  };
  const execute: ExecuteMerge = async (request, { signal, progress }) => {
    signal.throwIfAborted();
    const target = openStore(request.target.store);
    const regions = cutRegions(request.unit, request.threads);
    const fit = fitUnit(request.unit, Math.min(request.threads, regions.length), request.memoryBytes);
    const ticket = await target.beginWrite(request.target.key, request.unit.fileBytes, regions.map(spanOf), { signal });
    const failure = new AbortController();
    try {
      const header = headerOf(request.unit);
      const tasks = regions.map((region, index) =>
        regionTask(request, ticket, region, index, header, fit.windowElements),
      );
      const options = { signal: AbortSignal.any([signal, failure.signal]), progress };
      const { results, done } = await runTasks(ensureRunners(fit.threads), tasks, fit.threadBytes, options);
      const receipts = results.map((result) => result.receipt);
      await target.finishWrite(ticket, receipts, { signal });
      return { ...summarise(request, header, results), ...done, kernels: "wasm", threads: fit.threads };
    } catch (error) {
      failure.abort(error);
      // Worker threads may be in the middle of a region: they go before what they write does.
      await close();
      await target.abortWrite(ticket);
      throw error;
    }
  };
  return { execute, close };
}

function spanOf({ offset, bytes }: MergeRegion): { offset: number; bytes: number } {
  return { offset, bytes };
}

/** The output file's header; its length is part of the plan. */
function headerOf(unit: MergeUnit): Uint8Array {
  return encodeSafetensorsHeader(unit.tensors, new Map([["format", "pt"]])).header;
}

function regionTask(
  request: MergeRequest,
  ticket: WriteTicket,
  region: MergeRegion,
  index: number,
  header: Uint8Array,
  windowElements: number,
): RegionTask {
  const { unit, sources, target } = request;
  return {
    index,
    region,
    ticket,
    prologue: index === 0 ? header : new Uint8Array(0),
    tensors: tensorsOf(unit, region),
    rules: { nonFinite: unit.nonFinite, strict: unit.strict },
    sources,
    targetStore: target.store,
    windowElements,
    statistics: unit.statistics,
  };
}

type Finished = { readonly results: readonly RegionResult[]; readonly done: MergeProgress };

type TaskOptions = { readonly signal: AbortSignal; readonly progress: ((done: MergeProgress) => void) | undefined };

/**
 * Hands tasks to runners as they become free; resolves with the results in task order, rejects at the first failure.
 */
async function runTasks(
  runners: readonly RegionRunner[],
  tasks: readonly RegionTask[],
  capacityBytes: number,
  { signal, progress }: TaskOptions,
): Promise<Finished> {
  const results: RegionResult[] = [];
  let done: MergeProgress = { bytesRead: 0, bytesWritten: 0 };
  const count = (more: MergeProgress): void => {
    done = { bytesRead: done.bytesRead + more.bytesRead, bytesWritten: done.bytesWritten + more.bytesWritten };
    progress?.(done);
  };
  let next = 0;
  const drain = async (runner: RegionRunner): Promise<void> => {
    for (let task = tasks[next++]; task !== undefined; task = tasks[next++]) {
      results[task.index] = await runner.run(task, capacityBytes, { signal, progress: count });
    }
  };
  await Promise.all(runners.map(drain));
  return { results, done };
}

function summarise(
  request: MergeRequest,
  header: Uint8Array,
  results: readonly RegionResult[],
): Pick<MergeResult, "file" | "nonFinite" | "statistics"> {
  const { unit, sources } = request;
  const tensorResults = results.flatMap((result) => result.tensors);
  const inputs: Record<string, number> = {};
  tensorResults.forEach((result, index) => {
    unit.tensors[index]?.inputs.forEach((input, position) => {
      const model = input.model ?? sources[input.source]?.model ?? "";
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
  };
}

/** What the engine measured of every tensor that was merged, with the models' names. */
function listStatistics({ unit, sources }: MergeRequest, results: readonly TensorResult[]): readonly UnitStatistics[] {
  return results.flatMap(({ interference, nonFiniteInputs }, index) => {
    const tensor = unit.tensors[index];
    if (tensor === undefined || interference === undefined) return [];
    const nameOf = (input: UnitInput): string => input.model ?? sources[input.source]?.model ?? "";
    const base = tensor.inputs.find(({ isBase }) => isBase);
    const { norms, cosines, signConflicts } = interference;
    return {
      name: tensor.name,
      elements: elementCount(tensor.shape),
      models: tensor.inputs.filter(({ isBase }) => !isBase).map(nameOf),
      base: base === undefined ? null : nameOf(base),
      norms: [...norms],
      cosines: [...cosines],
      signConflicts,
      nonFinite: nonFiniteInputs.filter((_, position) => tensor.inputs[position]?.isBase !== true),
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
