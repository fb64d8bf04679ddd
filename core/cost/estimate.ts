// How long a plan may take and what it may cost on AWS: plain arithmetic over the plan's counts and a dated table of
// prices (prices.json beside this file, replaced by `--prices FILE`). An estimate, never a promise: it always carries
// the table's date and region.
import * as z from "zod";
import { sumOf } from "../sum-of.ts";
import table from "./prices.json" with { type: "json" };

const positive = z.number().positive();

const pace = {
  count: z.int().positive(),
  bytesPerSecond: positive,
  startSeconds: z.number().nonnegative(),
  billedSecondsMin: z.number().nonnegative(),
};

export const pricesSchema = z.strictObject({
  region: z.string(),
  /** When the prices were read: `2026-06` or `2026-06-30`. */
  asOf: z.string().regex(/^\d{4}-\d{2}(?:-\d{2})?$/),
  source: z.string(),
  workerVcpuHourUsd: positive,
  workerGiBHourUsd: positive,
  /** One request. */
  s3GetUsd: positive,
  s3PutUsd: positive,
  s3GBMonthUsd: positive,
  stateTransitionUsd: positive,
  /** The size of a Batch job, how many run at once, and what one sustains between S3 and its cores. */
  worker: z.strictObject({ vcpus: positive, memoryGiB: positive, ...pace }),
  /** The same of a job that has a machine with a GPU to itself, sustained between S3 and its cores: no GPU kernels. */
  gpuWorker: z.strictObject({ machine: z.string(), hourUsd: positive, ...pace }),
});
export type Prices = z.infer<typeof pricesSchema>;

/** The table beside this file. */
export const PRICES: Prices = Object.freeze(pricesSchema.parse(table));

export type StageCounts = {
  readonly units: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Of a job, where that is not the table's worker. */
  readonly size?: { readonly vcpus: number; readonly memoryMiB: number } | undefined;
};
export type StageEstimate = {
  readonly localSeconds: number;
  /** On the CPU queue. */
  readonly awsSeconds: number;
  readonly awsUsd: number;
  /** On the GPU queue, were it placed there. */
  readonly gpuSeconds: number;
  readonly gpuUsd: number;
};
export type Estimate = {
  readonly stages: readonly StageEstimate[];
  readonly localSeconds: number;
  readonly awsSeconds: number;
  readonly awsUsd: number;
  readonly gpuSeconds: number;
  readonly gpuUsd: number;
  /** Of what the run adds to the yard. */
  readonly storageUsdPerMonth: number;
};

/** Bytes of one ranged read and of one uploaded part: what the engine asks of S3. */
export const REQUEST_BYTES = 16 * 2 ** 20;
/** What one thread of this machine merges from a warm page cache, digests included; an old laptop may reach half. */
const LOCAL_BYTES_PER_SECOND = 500e6;
/** States that every execution passes besides its stages: plan, check, publish, notify and the choices between them. */
const FIXED_TRANSITIONS = 12;
/** For each stage: is there work, the array job, the next one. */
const STAGE_TRANSITIONS = 3;

/** Time and cost of a plan's stages, one after the other, each spread evenly over as many workers as it has units. */
export function estimateRun(stages: readonly StageCounts[], prices: Prices, threads: number): Estimate {
  const estimates = stages.map((stage) => estimateStage(stage, prices, threads));
  const written = sumOf(stages, (stage) => stage.bytesWritten);
  return {
    stages: estimates,
    localSeconds: sumOf(estimates, (estimate) => estimate.localSeconds),
    awsSeconds: sumOf(estimates, (estimate) => estimate.awsSeconds),
    awsUsd: sumOf(estimates, (estimate) => estimate.awsUsd) + FIXED_TRANSITIONS * prices.stateTransitionUsd,
    gpuSeconds: sumOf(estimates, (estimate) => estimate.gpuSeconds),
    gpuUsd: sumOf(estimates, (estimate) => estimate.gpuUsd) + FIXED_TRANSITIONS * prices.stateTransitionUsd,
    storageUsdPerMonth: (written / 1e9) * prices.s3GBMonthUsd,
  };
}

function estimateStage(stage: StageCounts, prices: Prices, threads: number): StageEstimate {
  const { worker, gpuWorker } = prices;
  const { size, bytesRead, bytesWritten } = stage;
  const vcpus = size?.vcpus ?? worker.vcpus;
  const memoryGiB = Math.max(size === undefined ? 0 : size.memoryMiB / 1024, worker.memoryGiB);
  const cpu = runOn(stage, worker, hourUsd({ ...prices, worker: { ...worker, vcpus, memoryGiB } }), prices);
  const gpu = runOn(stage, gpuWorker, gpuWorker.hourUsd, prices);
  return {
    localSeconds: (bytesRead + bytesWritten) / (LOCAL_BYTES_PER_SECOND * threads),
    awsSeconds: cpu.seconds,
    awsUsd: cpu.usd,
    gpuSeconds: gpu.seconds,
    gpuUsd: gpu.usd,
  };
}

/** A stage on workers of one kind, at so many dollars an hour each. */
function runOn(
  { units, bytesRead, bytesWritten }: StageCounts,
  kind: Pick<Prices["worker"], keyof typeof pace>,
  workerHourUsd: number,
  prices: Prices,
): { readonly seconds: number; readonly usd: number } {
  const workers = Math.min(units, kind.count);
  const rounds = Math.ceil(units / workers);
  const workSeconds = (rounds * ((bytesRead + bytesWritten) / units)) / kind.bytesPerSecond;
  const seconds = kind.startSeconds + workSeconds;
  const billedSeconds = Math.max(kind.billedSecondsMin, seconds) * workers;
  const requests =
    (Math.ceil(bytesRead / REQUEST_BYTES) + units) * prices.s3GetUsd +
    (Math.ceil(bytesWritten / REQUEST_BYTES) + units) * prices.s3PutUsd;
  return {
    seconds,
    usd: (billedSeconds / 3600) * workerHourUsd + requests + STAGE_TRANSITIONS * prices.stateTransitionUsd,
  };
}

/** What machine time of workers costs, in dollars: time spent on lost work counts, waiting for machines does not. */
export function workerUsd(workerMs: number, prices: Prices): number {
  return (workerMs / 3_600_000) * hourUsd(prices);
}

/** What a vCPU of the table's worker costs an hour, its share of the memory included; in hundredths of a cent. */
export function vcpuHourUsd(prices: Prices): number {
  return Math.round((hourUsd(prices) / prices.worker.vcpus) * 1e4) / 1e4;
}

function hourUsd({
  worker,
  workerVcpuHourUsd,
  workerGiBHourUsd,
}: Pick<Prices, "worker" | "workerVcpuHourUsd" | "workerGiBHourUsd">): number {
  return worker.vcpus * workerVcpuHourUsd + worker.memoryGiB * workerGiBHourUsd;
}

/** Small sums keep two significant digits; nobody is told that work is free. */
export function formatUsd(dollars: number): string {
  return dollars >= 0.1 || dollars === 0 ? `$${dollars.toFixed(2)}` : `$${dollars.toPrecision(2)}`;
}
