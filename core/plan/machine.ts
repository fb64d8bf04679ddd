// Which machine a stage runs on: the queue, the vCPU and the memory of its jobs, from what its units do and what they
// need. The plan step asks it for every stage, `mergeyard plan` shows it; only the fleet's sizes come from outside.
import * as z from "zod";
import type { Locality } from "../methods/method.ts";
import type { Stage } from "./schema.ts";

const vcpus = z.int().positive();
const mebibytes = z.int().min(1024);

/** Sizes of the jobs of a deployment. Memory is the container's, in MiB. */
export const fleetSchema = z.strictObject({
  /** `memoryMiB` of a usual job; a stage that cannot do with it may have up to `memoryMiBMax`. */
  cpu: z
    .strictObject({ vcpus, memoryMiB: mebibytes, memoryMiBMax: mebibytes })
    .refine(({ memoryMiB, memoryMiBMax }) => memoryMiB <= memoryMiBMax, { path: ["memoryMiBMax"] }),
  /** Null: the deployment has no GPU queue. */
  gpu: z.strictObject({ vcpus, memoryMiB: mebibytes }).nullable(),
});
export type Fleet = z.infer<typeof fleetSchema>;

/** Two usual jobs fit a machine of 4 vCPU and 8 GiB; the largest one a machine of 16 vCPU and 128 GiB. */
export const FLEET_DEFAULT: Fleet = Object.freeze({
  cpu: Object.freeze({ vcpus: 2, memoryMiB: 3584, memoryMiBMax: 122_880 }),
  gpu: null,
});

/**
 * Of a job's memory, the share that the engine's own bound may take. The rest is for what it does not count: the
 * buffers of requests to S3, the garbage of JavaScript, the runtime.
 */
const ENGINE_MEMORY_SHARE = 0.6;

/** What a worker of so much memory gives its engine, in bytes. */
export function engineBytes(memoryMiB: number): number {
  return Math.floor(memoryMiB * ENGINE_MEMORY_SHARE) * 2 ** 20;
}

/** What the units of a stage do with bytes: move and digest them, or a method's work, by how it may be cut. */
export type StageWork = "move" | Locality;

/**
 * Work that kernels of this version can do on a GPU: none. An entry here, with the kernels, is all that it takes to use
 * the GPU queue. Where methods stream (all but `tensor`), the network bounds a unit before its arithmetic does.
 */
const GPU_WORK: ReadonlySet<StageWork> = new Set();

export type Machine = {
  readonly queue: "cpu" | "gpu";
  readonly vcpus: number;
  readonly memoryMiB: number;
  /** For people: why this queue. */
  readonly reason: string;
};

const STREAMS = "each byte takes few operations, so the network is the limit and a GPU would wait for it";
const CPU_REASONS: Readonly<Record<StageWork, string>> = Object.freeze({
  move: "bytes are moved and digested; no arithmetic for a GPU",
  element: STREAMS,
  row: STREAMS,
  slice: STREAMS,
  tensor: "whole matrices are decomposed, by kernels that run on CPUs only",
});

/** MiB to which memory is rounded up. */
const MEMORY_STEP_MIB = 1024;

/**
 * The machine of a stage. GPU only where its kernels run on one and the fleet has them; memory as the units' bound
 * says, never less than a usual job's.
 */
export function chooseMachine(
  { work, peakBytes, bytesRead, bytesWritten }: Pick<Stage, "work" | "peakBytes" | "bytesRead" | "bytesWritten">,
  { cpu, gpu }: Fleet,
  gpuWork: ReadonlySet<StageWork> = GPU_WORK,
): Machine {
  const needed = Math.ceil(peakBytes / ENGINE_MEMORY_SHARE / 2 ** 20);
  if (gpuWork.has(work) && gpu !== null && needed <= gpu.memoryMiB) {
    return { queue: "gpu", ...gpu, reason: "its kernels run on a GPU" };
  }
  const stepped = Math.ceil(needed / MEMORY_STEP_MIB) * MEMORY_STEP_MIB;
  return {
    queue: "cpu",
    // Nothing passes the worker: the store copies.
    vcpus: bytesRead + bytesWritten === 0 ? 1 : cpu.vcpus,
    memoryMiB: needed <= cpu.memoryMiB ? cpu.memoryMiB : Math.min(stepped, cpu.memoryMiBMax),
    reason: gpuWork.has(work) ? "the deployment has no GPU that is large enough" : CPU_REASONS[work],
  };
}

const ORDER: readonly StageWork[] = ["move", "element", "row", "slice", "tensor"];

/** The heaviest of several kinds of work. */
export function heaviest(works: readonly StageWork[]): StageWork {
  return works.reduce((most, work) => (ORDER.indexOf(work) > ORDER.indexOf(most) ? work : most), "move");
}
