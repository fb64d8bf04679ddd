// How the rows of a request are shared by threads and by passes over the atoms: neither ever changes a result.
import { fitMemory, needFit } from "../core/plan/memory.ts";
import type { ApproximateRequest, ApproximateTask } from "./approximate-request.ts";
import { approximationCosts } from "./approximate-rows.ts";
import { rowForm } from "./atom-blocks.ts";

/**
 * Rows of a batch at least. With fewer than the first, reading the atoms and making integers of them costs as much as
 * comparing them; the others are for rows of which no more fit.
 */
const LEAST_ROWS = [64, 8, 1] as const;
/** With more, a pass costs little beside the work. */
const BATCH_ROWS_MAX = 1024;

export type Batches = {
  readonly batches: readonly Int32Array[];
  readonly threads: number;
  /** Of each thread. */
  readonly kernelBytes: number;
};

/** The most threads whose batches are worth a pass, then the largest batches. Throws EngineMemoryTooSmall. */
export function cutBatches(task: ApproximateTask, threads: number, memoryBytes: number): Batches {
  const { targets, matrix } = task;
  const bytesOf = (rows: number): number => {
    const { kernels, heap } = approximationCosts(task, rows);
    return kernels + heap;
  };
  const fits = (rows: number): boolean =>
    fitMemory(() => bytesOf(rows), { threads: 1, memoryBytes }).peakBytes <= memoryBytes;
  const least = Math.min(targets.length, LEAST_ROWS.find(fits) ?? 1);
  const worthwhile = Math.min(threads, Math.ceil(targets.length / least));
  const fit = needFit(
    fitMemory(() => bytesOf(least), { threads: worthwhile, memoryBytes }),
    memoryBytes,
    { tensor: matrix.name },
  );
  const spare = (memoryBytes - fit.peakBytes) / fit.threads;
  const each = bytesOf(least + 1) - bytesOf(least);
  const most = Math.min(BATCH_ROWS_MAX, least + Math.floor(spare / each));
  // As many batches as threads can share evenly.
  const rounds = Math.ceil(targets.length / (most * fit.threads));
  const rows = Math.min(most, Math.ceil(targets.length / (rounds * fit.threads)));
  const batches: Int32Array[] = [];
  for (let first = 0; first < targets.length; first += rows) batches.push(targets.slice(first, first + rows));
  return {
    batches,
    threads: Math.min(fit.threads, batches.length),
    kernelBytes: approximationCosts(task, rows).kernels,
  };
}

/** Bytes that a request reads: every batch reads the matrix from its first atom to its last once a step, at most. */
export function passBytes({ threads, memoryBytes, ...task }: ApproximateRequest): number {
  const [first, last] = [task.atoms[0] ?? 0, task.atoms.at(-1) ?? 0];
  const { batches } = cutBatches(task, threads, memoryBytes);
  const { passes } = approximationCosts(task, 1);
  return batches.length * passes * (last - first + 1) * rowForm(task.matrix).rowBytes;
}
