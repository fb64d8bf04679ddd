// The way of a merged tensor into the derived files of its unit: one sink for each file that has it. What they do with
// the values is quantized-sink.ts's and parts-sink.ts's; create-sink.ts chooses; merge-region.ts opens the files.
import type { Block } from "../core/ops/kernels.ts";
import type { Loss } from "../core/ops/loss.ts";
import type { DerivedModule, DerivedTensor } from "../core/plan/schema.ts";

/** Where a derived tensor goes. `paddingBytes` zeros follow it, up to the next tensor or the end of the file. */
export type SinkPlace<Tensor = DerivedTensor | DerivedModule> = {
  readonly tensor: Tensor;
  readonly paddingBytes: number;
  /** One value >= 0 a column; undefined: no importance matrix, or none of this tensor. */
  readonly importance: Float32Array | undefined;
  /** max|x| of the merged tensor and of those fused with it, where the scheme must know it. */
  readonly largest: number | undefined;
  /** Sum of x x^T over the inputs of the matrix, where there is one. */
  readonly hessian: Float32Array | undefined;
  /** Appends to the derived file; the bytes may be reused when it resolves. */
  readonly write: (bytes: Uint8Array) => Promise<void>;
};

export type SinkResult = {
  /** Of everything that the file lists of the tensor, in its order: its bytes, with the zeros behind them. */
  readonly digests: readonly string[];
  /** Undefined for a copy. */
  readonly loss: Loss | undefined;
};

export type Sink = {
  /** The next `count` elements of the tensor, at the start of `block`. */
  take(block: Block, count: number): Promise<void>;
  /** After the last element. */
  finish(): Promise<SinkResult>;
};

/** The end of every sink, one after the other: each writes. */
export async function finishSinks(sinks: readonly Sink[]): Promise<readonly SinkResult[]> {
  const results: SinkResult[] = [];
  for (const sink of sinks) results.push(await sink.finish());
  return results;
}
