// The prepare executor: measures a merge unit for one round on a pool of threads, shared out as merging is. Nothing is
// written.
import assert from "node:assert/strict";
import { joinTotals, type PartTotals } from "../core/artifact/totals.ts";
import { measuredTensors, roundOf } from "../engine/measure-tensors.ts";
import { fitMeasuring } from "../engine/memory.ts";
import { areLocal, tensorsOf } from "../engine/merge-region.ts";
import { cutRegions } from "../engine/regions.ts";
import type { ExecuteMeasure } from "../engine/request.ts";
import type { OpenStore } from "../stores/store.ts";
import type { Pool } from "./pool.ts";
import type { RegionOutcome } from "./region-job.ts";

export function createMeasure(openStore: OpenStore, pool: Pool): ExecuteMeasure {
  return async ({ unit, round, sources, state, threads, memoryBytes }, { signal, progress }) => {
    signal.throwIfAborted();
    const measured = measuredTensors(unit);
    const [first] = measured;
    assert.ok(first !== undefined, "a prepare unit has something to measure");
    const parts = cutRegions(unit, threads)
      .map((region) => tensorsOf(unit, region).filter((tensor) => measured.includes(tensor)))
      .filter((tensors) => tensors.length > 0);
    const isRemote = !areLocal(measured, sources, { openStore });
    const fit = fitMeasuring(unit, round, { threads: Math.min(threads, parts.length), memoryBytes, isRemote });
    const { windowElements } = fit;
    const rules = { nonFinite: unit.nonFinite, strict: unit.strict };
    const jobs = parts.map((tensors) => ({
      kind: "measure" as const,
      task: { round, tensors, rules, sources, state, windowElements },
    }));
    const options = { threads: fit.threads, capacityBytes: fit.threadBytes, signal, progress };
    const { outcomes, done } = await pool.run(jobs, options);
    const part = joinTotals(roundOf(first, round).specs, outcomes.map(totalsOf));
    return { part, bytesRead: done.bytesRead, kernels: "wasm", threads: fit.threads };
  };
}

function totalsOf(outcome: RegionOutcome): PartTotals {
  assert.ok(outcome.kind === "measure");
  return outcome.result;
}
