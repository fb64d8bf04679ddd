// Digesting byte ranges on a pool of threads: ranges that follow each other are handed out together.
import assert from "node:assert/strict";
import type { DigestRanges, StoredRange } from "../engine/request.ts";
import type { Pool } from "./pool.ts";

/** Work worth a message to a thread. */
const JOB_BYTES = 32 * 2 ** 20;

export function createDigest(pool: Pool): DigestRanges {
  return async (ranges, { threads, signal, progress }) => {
    const jobs = cutJobs(ranges).map((own) => ({ kind: "digest" as const, ranges: own }));
    const options = { threads: Math.min(threads, jobs.length), capacityBytes: 0, signal, progress };
    const { outcomes } = await pool.run(jobs, options);
    return outcomes.flatMap((outcome) => {
      assert.ok(outcome.kind === "digest");
      return outcome.result;
    });
  };
}

/** Runs of ranges, in order, each of at least JOB_BYTES but the last. */
function cutJobs(ranges: readonly StoredRange[]): readonly (readonly StoredRange[])[] {
  const jobs: StoredRange[][] = [];
  let room = 0;
  for (const range of ranges) {
    if (room <= 0) {
      jobs.push([]);
      room = JOB_BYTES;
    }
    jobs.at(-1)?.push(range);
    room -= range.bytes;
  }
  return jobs;
}
