// The quantize executor: makes one quantized file on worker threads. It cuts the file into regions, hands them out as
// threads become free, and makes the file visible when all are done, or leaves nothing behind.
import assert from "node:assert/strict";
import { addLoss, type Loss, NO_LOSS } from "../core/ops/loss.ts";
import { cutPortions, fitPortions, type PortionRegion } from "../engine/quantize-portions.ts";
import type { PortionRun, QuantizeRegionResult } from "../engine/quantize-region.ts";
import type { ExecuteQuantize, QuantizeRequest, QuantizeTensor } from "../engine/quantize-request.ts";
import type { BytesDone } from "../engine/request.ts";
import { writeRegions } from "../stores/objects.ts";
import type { OpenStore, WriteTicket } from "../stores/store.ts";
import { createPool } from "./pool.ts";
import type { RegionJob, RegionOutcome } from "./region-job.ts";

export type QuantizeExecutor = {
  readonly execute: ExecuteQuantize;
  /** Ends the threads. The executor may not be used again. */
  close(): Promise<void>;
};

/** One file at a time. */
export function createQuantizeExecutor(openStore: OpenStore): QuantizeExecutor {
  const pool = createPool(openStore);
  const execute: ExecuteQuantize = async (request, { signal, progress }) => {
    signal.throwIfAborted();
    const target = openStore(request.target.store);
    const regions = cutPortions(request);
    const { threads, threadBytes } = fitPortions(request, Math.min(request.threads, regions.length));
    const place = { key: request.target.key, bytes: request.fileBytes, regions };
    let done: BytesDone = { bytesRead: 0, bytesWritten: 0 };
    const { results } = await writeRegions(target, place, { signal }, async (ticket) => {
      const jobs = regions.map((region, index) => regionJob(request, ticket, region, index));
      const finished = await pool.run(jobs, { threads, capacityBytes: threadBytes, signal, progress });
      done = finished.done;
      return finished.outcomes.map(resultOf);
    });
    return { ...done, losses: addLosses(request.tensors, results), threads };
  };
  return { execute, close: pool.close };
}

function regionJob(request: QuantizeRequest, ticket: WriteTicket, region: PortionRegion, index: number): RegionJob {
  const runs = Map.groupBy(region.portions, (portion) => portion.tensor);
  return {
    kind: "quantize",
    task: {
      index,
      ticket,
      source: request.source,
      targetStore: request.target.store,
      prologue: index === 0 ? request.header : new Uint8Array(0),
      runs: [...runs].map(([tensor, portions]): PortionRun => ({ tensor: tensorAt(request, tensor), portions })),
    },
  };
}

function tensorAt({ tensors }: QuantizeRequest, index: number): QuantizeTensor {
  const tensor = tensors[index];
  assert.ok(tensor !== undefined, `the request has no tensor ${index}`);
  return tensor;
}

function resultOf(outcome: RegionOutcome): QuantizeRegionResult {
  assert.ok(outcome.kind === "quantize");
  return outcome.result;
}

/** By tensors, added in file order: regions differ with the number of threads, their portions do not. */
function addLosses(tensors: readonly QuantizeTensor[], results: readonly QuantizeRegionResult[]): readonly Loss[] {
  const sums: Loss[] = tensors.map(() => NO_LOSS);
  for (const { tensor, loss } of results.flatMap(({ losses }) => losses)) {
    const sum = sums[tensor];
    assert.ok(sum !== undefined);
    sums[tensor] = addLoss(sum, loss);
  }
  return sums;
}
