// The merge executor: runs a merge unit on worker threads. It cuts the output file into regions, hands them out as
// threads become free, and makes the file visible when all are done, or leaves nothing behind.
import module from "node:module";
import { availableParallelism } from "node:os";
import { dirname } from "node:path";
import { Worker } from "node:worker_threads";
import { digestBytes, digestTensorFile } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import { encodeSafetensorsHeader } from "../core/formats/safetensors.ts";
import type { TensorFile } from "../core/plan/receipt.ts";
import type { MergeUnit } from "../core/plan/schema.ts";
import { fitUnit } from "../engine/memory.ts";
import { type RegionResult, type RegionTask, tensorsOf } from "../engine/merge-region.ts";
import { cutRegions, type MergeRegion } from "../engine/regions.ts";
import type { ExecuteMerge, MergeProgress, MergeRequest, MergeResult } from "../engine/request.ts";
import type { OpenStore, WriteTicket } from "../stores/store.ts";
import type { ThreadReply, ThreadTask } from "./thread-messages.ts";

export type MergeExecutor = {
  readonly execute: ExecuteMerge;
  /** Ends the threads. The executor may not be used again. */
  close(): Promise<void>;
};

/** Threads that a machine runs best: one a processor. */
export function defaultThreads(): number {
  return availableParallelism();
}

/** Threads start with the first unit and stay for the next ones. One unit at a time. */
export function createMergeExecutor(openStore: OpenStore): MergeExecutor {
  const threads: Worker[] = [];
  const ensureThreads = (count: number): readonly Worker[] => {
    const env = threadEnvironment();
    while (threads.length < count) threads.push(new Worker(new URL("thread.ts", import.meta.url), { env }));
    return threads.slice(0, count);
  };
  const close = async (): Promise<void> => {
    await Promise.all(threads.splice(0).map((thread) => thread.terminate()));
  };
  const execute: ExecuteMerge = async (request, { signal, progress }) => {
    signal.throwIfAborted();
    const target = openStore(request.target.store);
    const regions = cutRegions(request.unit, request.threads);
    const count = Math.min(request.threads, regions.length);
    const fit = fitUnit(request.unit, count, request.memoryBytes);
    const ticket = await target.beginWrite(request.target.key, request.unit.fileBytes, regions.map(spanOf), { signal });
    try {
      const header = headerOf(request.unit);
      const tasks = regions.map((region, index) =>
        regionTask(request, ticket, region, index, header, fit.windowElements),
      );
      const workers = ensureThreads(fit.threads);
      const { results, done } = await runTasks(workers, tasks, fit.threadBytes, signal, progress);
      await target.finishWrite(
        ticket,
        results.map((result) => result.receipt),
        { signal },
      );
      return { ...summarise(request, header, results), ...done, kernels: "wasm", threads: fit.threads };
    } catch (error) {
      // Threads may be in the middle of a region: they go before what they write does.
      await close();
      await target.abortWrite(ticket);
      throw error;
    }
  };
  return { execute, close };
}

/** The process's environment; when it keeps compiled code, its threads, which load the same files, do too. */
function threadEnvironment(): NodeJS.ProcessEnv {
  const folder = module.getCompileCacheDir();
  // The folder in use is a version's own, below the one that was asked for.
  return folder === undefined ? process.env : { ...process.env, NODE_COMPILE_CACHE: dirname(folder) };
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
  };
}

type Finished = { readonly results: readonly RegionResult[]; readonly done: MergeProgress };

/** Hands tasks to threads as they become free; resolves with the results in task order, rejects at the first failure. */
function runTasks(
  threads: readonly Worker[],
  tasks: readonly RegionTask[],
  capacityBytes: number,
  signal: AbortSignal,
  progress: ((done: MergeProgress) => void) | undefined,
): Promise<Finished> {
  const { promise, resolve, reject } = Promise.withResolvers<Finished>();
  const results: RegionResult[] = [];
  let done: MergeProgress = { bytesRead: 0, bytesWritten: 0 };
  let [next, finished] = [0, 0];
  const give = (thread: Worker): void => {
    const region = tasks[next++];
    if (region !== undefined) thread.postMessage({ region, capacityBytes } satisfies ThreadTask);
  };
  const take = (thread: Worker, reply: ThreadReply): void => {
    if (reply.type === "failed") {
      reject(failureOf(reply));
    } else if (reply.type === "progress") {
      done = { bytesRead: done.bytesRead + reply.read, bytesWritten: done.bytesWritten + reply.written };
      progress?.(done);
    } else {
      results[reply.index] = reply.result;
      finished++;
      if (finished === tasks.length) resolve({ results, done });
      else give(thread);
    }
  };
  const silence = threads.map((thread) => {
    const onMessage = (reply: ThreadReply): void => take(thread, reply);
    const onExit = (code: number): void => reject(new Error(`a worker thread ended with status ${code}`));
    thread.on("message", onMessage).on("error", reject).on("exit", onExit);
    return () => thread.off("message", onMessage).off("error", reject).off("exit", onExit);
  });
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  threads.forEach(give);
  return promise.finally(() => {
    signal.removeEventListener("abort", onAbort);
    for (const stop of silence) stop();
  });
}

/** The error of a thread, as the same class it was there. */
function failureOf(reply: Extract<ThreadReply, { type: "failed" }>): Error {
  if (reply.record === undefined) return new Error(reply.text);
  const { code, where, found, expected, hint } = reply.record;
  return new MergeyardError(code, { where, found, expected, hint });
}

function summarise(
  request: MergeRequest,
  header: Uint8Array,
  results: readonly RegionResult[],
): Pick<MergeResult, "file" | "nonFinite"> {
  const { unit, sources } = request;
  const tensorResults = results.flatMap((result) => result.tensors);
  const inputs: Record<string, number> = {};
  tensorResults.forEach((result, index) => {
    unit.tensors[index]?.inputs.forEach((input, position) => {
      const model = sources[input.source]?.model ?? "";
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
  };
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
