// The approximating executor: rows of a matrix as combinations of others, batch by batch on threads. Each batch reads
// the atoms once a step, so batches are as large as memory lets them be.
import assert from "node:assert/strict";
import { cutBatches } from "../engine/approximate-batches.ts";
import type { ApproximateRequest, Approximation, ExecuteApproximate } from "../engine/approximate-request.ts";
import type { OpenStore } from "../stores/store.ts";
import { createPool } from "./pool.ts";

/** Threads start with a request and end with it, so that what is done next has their memory. */
export function createApproximate(openStore: OpenStore): ExecuteApproximate {
  return async ({ threads: wanted, memoryBytes, ...task }: ApproximateRequest, { signal, progress }) => {
    const { batches, threads, kernelBytes } = cutBatches(task, wanted, memoryBytes);
    const pool = createPool(openStore);
    try {
      const jobs = batches.map((targets) => ({ kind: "approximate" as const, task: { ...task, targets } }));
      const { outcomes } = await pool.run(jobs, { threads, capacityBytes: kernelBytes, signal, progress });
      return join(
        outcomes.map((outcome) => {
          assert.ok(outcome.kind === "approximate");
          return outcome.result;
        }),
        task,
      );
    } finally {
      await pool.close();
    }
  };
}

function join(
  parts: readonly Approximation[],
  { targets, method: { k } }: Pick<ApproximateRequest, "targets" | "method">,
): Approximation {
  const all = {
    counts: new Int32Array(targets.length),
    chosen: new Int32Array(targets.length * k),
    weights: new Float64Array(targets.length * k),
  };
  let first = 0;
  for (const { counts, chosen, weights } of parts) {
    all.counts.set(counts, first);
    all.chosen.set(chosen, first * k);
    all.weights.set(weights, first * k);
    first += counts.length;
  }
  return all;
}
