// The convert executor: makes one file of a conversion on a pool of threads. It cuts the file into regions, hands them
// out as threads become free, and makes the file visible when all are done, or leaves nothing behind.
import assert from "node:assert/strict";
import type { ConvertRegionResult } from "../engine/convert-region.ts";
import { cutConversion, type ExecuteConvert, fitConversion } from "../engine/convert-request.ts";
import type { OpenStore } from "../stores/store.ts";
import type { Pool } from "./pool.ts";
import type { RegionOutcome } from "./region-job.ts";

/** One file at a time; the caller closes the pool. */
export function createConvert(openStore: OpenStore, pool: Pool): ExecuteConvert {
  return async (request, { signal, progress }) => {
    signal.throwIfAborted();
    const { source, target, header, fileBytes } = request;
    const regions = cutConversion(request);
    const { threads } = fitConversion(request, Math.min(request.threads, regions.length));
    const store = openStore(target.store);
    const spans = regions.map(({ offset, bytes }) => ({ offset, bytes }));
    const ticket = await store.beginWrite(target.key, fileBytes, spans, { signal });
    try {
      const jobs = regions.map(({ tensors }, index) => {
        const prologue = index === 0 ? header : new Uint8Array(0);
        return {
          kind: "convert" as const,
          task: { index, ticket, source, targetStore: target.store, prologue, tensors },
        };
      });
      // Gathering needs no kernels.
      const { outcomes } = await pool.run(jobs, { threads, capacityBytes: 0, signal, progress });
      const results = outcomes.map(resultOf);
      const receipts = results.map(({ receipt }) => receipt);
      await store.finishWrite(ticket, receipts, { signal });
      return { digests: results.flatMap(({ digests }) => digests), threads };
    } catch (error) {
      await store.abortWrite(ticket).catch(() => undefined);
      throw error;
    }
  };
}

function resultOf(outcome: RegionOutcome): ConvertRegionResult {
  assert.ok(outcome.kind === "convert");
  return outcome.result;
}
