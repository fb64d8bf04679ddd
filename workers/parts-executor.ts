// The parts executor: makes the shards of a folder of quantized parts on worker threads, one shard after the other. It
// cuts a shard into regions, hands them out as threads become free, and makes the shard visible when all are done.
import assert from "node:assert/strict";
import type { PlannedShard } from "../core/formats/safetensors/shard-plan.ts";
import type { Fit } from "../core/plan/memory.ts";
import type { PartBytes } from "../core/schemes/part-matrix.ts";
import { knownFolderScheme } from "../core/schemes/registry.ts";
import { cutParts, fitParts, type PartsRegion } from "../engine/parts-regions.ts";
import type { ExecuteParts, PartsLoss, PartsRequest } from "../engine/parts-request.ts";
import type { BytesDone } from "../engine/request.ts";
import type { PartsRegionResult } from "../engine/write-parts.ts";
import { writeRegions } from "../stores/objects.ts";
import type { OpenStore, WriteTicket } from "../stores/store.ts";
import { createPool, type Pool } from "./pool.ts";
import type { RegionJob, RegionOutcome } from "./region-job.ts";

export type PartsExecutor = {
  readonly execute: ExecuteParts;
  /** Ends the threads. The executor may not be used again. */
  close(): Promise<void>;
};

type Run = {
  readonly request: PartsRequest;
  readonly openStore: OpenStore;
  readonly signal: AbortSignal;
  /** Outcomes in the order of the jobs. */
  readonly runJobs: (jobs: readonly RegionJob[]) => Promise<readonly RegionOutcome[]>;
};

/** One folder at a time. */
export function createPartsExecutor(openStore: OpenStore): PartsExecutor {
  const pool = createPool(openStore);
  const execute: ExecuteParts = async (request, { signal, progress }) => {
    signal.throwIfAborted();
    const fit = fitParts(request, request.threads);
    const counted = createCounter(pool, fit, signal, progress);
    const run: Run = { request, openStore, signal, runJobs: counted.runJobs };
    const largest = await measureSets(run);
    const losses = new Map<string, PartsLoss>();
    for (const shard of request.model.shards) {
      for (const loss of await makeShard(run, shard, largest)) losses.set(loss.tensor, loss);
    }
    const ordered = request.model.units.flatMap(({ entry }) => losses.get(entry.name) ?? []);
    return { ...counted.done(), losses: ordered, threads: fit.threads };
  };
  return { execute, close: pool.close };
}

/** Runs lists of jobs and adds up what they read and write. */
function createCounter(pool: Pool, fit: Fit, signal: AbortSignal, progress: ((done: BytesDone) => void) | undefined) {
  let before: BytesDone = { bytesRead: 0, bytesWritten: 0 };
  const add = (more: BytesDone): BytesDone => ({
    bytesRead: before.bytesRead + more.bytesRead,
    bytesWritten: before.bytesWritten + more.bytesWritten,
  });
  const runJobs: Run["runJobs"] = async (jobs) => {
    const options = { threads: Math.min(fit.threads, jobs.length), capacityBytes: fit.threadBytes, signal };
    const { outcomes, done } = await pool.run(jobs, { ...options, progress: (more) => progress?.(add(more)) });
    before = add(done);
    return outcomes;
  };
  return { runJobs, done: () => before };
}

/** max|x| of every set of fused tensors whose scheme measures it, by the name of its first. */
async function measureSets({ request, runJobs }: Run): Promise<ReadonlyMap<string, number>> {
  const matrices = request.model.units.filter((unit) => unit.kind === "matrix");
  const measured = matrices.filter((unit) => knownFolderScheme(unit.scheme).measures === "largest");
  const sets = new Map(measured.map(({ fused }) => [fused[0]?.name ?? "", fused]));
  const outcomes = await runJobs(
    [...sets.values()].map((tensors) => ({ kind: "largest", task: { source: request.source, tensors } })),
  );
  return new Map([...sets.keys()].map((name, index) => [name, largestOf(outcomes[index])]));
}

async function makeShard(
  { request, openStore, signal, runJobs }: Run,
  shard: PlannedShard,
  largest: ReadonlyMap<string, number>,
): Promise<readonly PartsLoss[]> {
  const regions = cutParts(shard, request.model.units, request.threads);
  const target = openStore(request.target);
  const place = { key: shard.file, bytes: shard.fileBytes, regions };
  const { results } = await writeRegions(target, place, { signal }, async (ticket) => {
    const jobOf = (region: PartsRegion, index: number, made: PartBytes): RegionJob =>
      regionJob(request, shard, ticket, { region, index, made, largest });
    const [early, late] = [regions.filter(({ isLate }) => !isLate), regions.filter(({ isLate }) => isLate)];
    const first = await runJobs(early.map((region, index) => jobOf(region, index, new Map())));
    const made = new Map(first.flatMap((outcome) => [...resultOf(outcome).made]));
    const second = await runJobs(late.map((region, index) => jobOf(region, early.length + index, made)));
    return [...first, ...second].map(resultOf);
  });
  return results.flatMap(({ losses }) => losses);
}

type PlacedRegion = {
  readonly region: PartsRegion;
  readonly index: number;
  readonly made: PartBytes;
  readonly largest: ReadonlyMap<string, number>;
};

function regionJob(
  { source, target, hessians }: PartsRequest,
  { header }: PlannedShard,
  ticket: WriteTicket,
  { region, index, made, largest }: PlacedRegion,
): RegionJob {
  const prologue = index === 0 ? header : new Uint8Array(0);
  const { tensors } = region;
  const task = { index, ticket, source, target, prologue, tensors, made, largest, hessians };
  return { kind: "parts", task };
}

function resultOf(outcome: RegionOutcome): PartsRegionResult {
  assert.ok(outcome.kind === "parts");
  return outcome.result;
}

function largestOf(outcome: RegionOutcome | undefined): number {
  assert.ok(outcome?.kind === "largest");
  return outcome.result;
}
