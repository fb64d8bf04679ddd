// What the engine is asked to do for the shards of a folder of quantized parts and what it answers. Plain data both
// ways, so that several threads can make a shard.
import type { TensorEntry } from "../core/checkpoint.ts";
import type { Loss } from "../core/ops/loss.ts";
import type { CompressedModel } from "../core/plan/compressed-model.ts";
import type { HessianPlace } from "./read-hessian.ts";
import type { BytesDone, ExecuteOptions } from "./request.ts";

/** Hessians by the name of their matrix, and the folder that has their file. */
export type Hessians = HessianPlace & {
  readonly entries: Readonly<Record<string, TensorEntry>>;
};

export type PartsRequest = {
  /** URI of the folder that has the stored tensors' files, and of the one to write to. */
  readonly source: string;
  readonly target: string;
  readonly model: Pick<CompressedModel, "shards" | "units">;
  /** Of every matrix, for a scheme that takes them; undefined: without. */
  readonly hessians?: Hessians | undefined;
  readonly threads: number;
  /** Bound on the memory of the whole process. */
  readonly memoryBytes: number;
};

export type PartsLoss = {
  /** Name of the stored tensor. */
  readonly tensor: string;
  readonly loss: Loss;
  /** Plain TypeScript quantizes where no SIMD code exists: same bytes, slower. */
  readonly quantizer: "scalar" | "wasm";
};

export type PartsResult = BytesDone & {
  /** By the quantized matrices, in the order in which they are made; the same for any number of threads. */
  readonly losses: readonly PartsLoss[];
  readonly threads: number;
};

/**
 * Makes the shards one after the other; each becomes visible when it is whole. Throws QuantizeNotFinite,
 * EngineMemoryTooSmall, and what the stores throw; shards before a failure stay. Edges construct it
 * (workers/parts-executor.ts) with their stores and kernels.
 */
export type ExecuteParts = (request: PartsRequest, options: ExecuteOptions) => Promise<PartsResult>;
