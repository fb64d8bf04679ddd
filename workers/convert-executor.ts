// The convert executor: makes one file of a conversion on a pool of threads. It cuts the file into regions, hands them
// out as threads become free, and makes the file visible when all are done, or leaves nothing behind.
import assert from "node:assert/strict";
import type { ConvertRegionResult } from "../engine/convert-region.ts";
import { cutConversion, type ExecuteConvert, fitConversion } from "../engine/convert-request.ts";
import { writeRegions } from "../stores/objects.ts";
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
    const place = { key: target.key, bytes: fileBytes, regions };
    const { results } = await writeRegions(store, place, { signal }, async (ticket) => {
      const jobs = regions.map(({ tensors }, index) => {
        const prologue = index === 0 ? header : new Uint8Array(0);
        return {
          kind: "convert" as const,
          task: { index, ticket, source, targetStore: target.store, prologue, tensors },
        };
      });
      // Gathering needs no kernels.
      const { outcomes } = await pool.run(jobs, { threads, capacityBytes: 0, signal, progress });
      return outcomes.map(resultOf);
    });
    return { digests: results.flatMap(({ digests }) => digests), threads };
  };
}

function resultOf(outcome: RegionOutcome): ConvertRegionResult {
  assert.ok(outcome.kind === "convert");
  return outcome.result;
}
