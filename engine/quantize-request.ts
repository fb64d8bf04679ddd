// What the engine is asked to do for one quantized file and what it answers. Plain data both ways, so that the file can
// be made by several threads.
import type { TensorEntry } from "../core/checkpoint.ts";
import type { Loss } from "../core/ops/loss.ts";
import type { BlockSchemeId } from "../core/schemes/registry.ts";
import type { BytesDone, ExecuteOptions } from "./request.ts";

/** A tensor of the file: which stored one it is, its scheme, and its place. */
export type QuantizeTensor = {
  readonly source: TensorEntry;
  readonly scheme: BlockSchemeId;
  /** Heads whose rows [2, rows / 2] become [rows / 2, 2]; undefined: rows stay in place. */
  readonly permutedHeads: number | undefined;
  /** What is added to every value; undefined: nothing. */
  readonly shift?: number | undefined;
  readonly importance: Float32Array | undefined;
  /** Place in the file. Between tensors there are zeros. */
  readonly offset: number;
  readonly bytes: number;
};

export type QuantizeRequest = {
  /** URI of the folder that has the stored tensors' files. */
  readonly source: string;
  readonly target: { readonly store: string; readonly key: string };
  /** What the file begins with. */
  readonly header: Uint8Array;
  readonly fileBytes: number;
  /** In the order of their offsets. */
  readonly tensors: readonly QuantizeTensor[];
  readonly threads: number;
  /** Bound on the memory of the whole process. */
  readonly memoryBytes: number;
};

export type QuantizeResult = BytesDone & {
  /** By the request's tensors; the same for any number of threads. */
  readonly losses: readonly Loss[];
  readonly threads: number;
};

/**
 * Makes a quantized file: it is whole at `target` when the promise resolves, and nothing is there when it rejects.
 * Throws QuantizeNotFinite, EngineMemoryTooSmall, and what the stores throw. Edges construct it
 * (workers/quantize-executor.ts) with their stores and kernels.
 */
export type ExecuteQuantize = (request: QuantizeRequest, options: ExecuteOptions) => Promise<QuantizeResult>;
