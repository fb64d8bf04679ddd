// What a kernel set must provide: memory it owns and the operations methods are written in. Two implementations exist:
// scalar.ts beside this file (plain TypeScript, the oracle) and kernels/wasm (SIMD). Both give the same bits for the
// operations marked exact. A kernel set is NOT thread-safe: every worker thread makes its own.
import type { Dtype } from "../tensor.ts";

/**
 * Elements of one tile, and the unit of every reduction: a reduction's partial result covers one tile, aligned to the
 * tensor's first element, and partials are added in tile order. Window size, thread count and shard size therefore
 * never change a result. Part of the numerics: changing it changes output bits of methods that reduce.
 */
export const TILE_ELEMENTS = 8192;

/** Dtypes that float arithmetic is defined for; all others can only be copied. */
export const FLOAT_DTYPES = ["F32", "F16", "BF16", "F64"] as const satisfies readonly Dtype[];
export type FloatDtype = (typeof FLOAT_DTYPES)[number];

/** Raw bytes in the kernel set's memory. `address` is meaningless outside the kernel set. */
export type Block = { readonly address: number; readonly bytes: Uint8Array };

/** float32 values in the kernel set's memory. */
export type Tile = { readonly address: number; readonly values: Float32Array };

/**
 * The operations. Unless said otherwise: float32 arithmetic, each operation rounded once to nearest even, no fused
 * multiply-add, elements independent; `count` <= the tiles' lengths; target may be the same tile as a source.
 */
export interface Kernels {
  readonly id: "scalar" | "wasm";

  /** Allocations live until `release(mark)`; throws KernelMemoryExhausted beyond the set's capacity. */
  allocateBlock(bytes: number): Block;
  allocateTile(elements: number): Tile;
  mark(): number;
  release(mark: number): void;

  /** target = float32(source); returns how many of the values are NaN or infinite. Exact (F64 rounds to nearest). */
  widen(dtype: FloatDtype, source: Block, byteOffset: number, target: Tile, count: number): number;
  /** target bytes = source rounded once to `dtype`, nearest even, overflow to infinity, NaN stays NaN (quiet). */
  narrow(dtype: FloatDtype, source: Tile, target: Block, byteOffset: number, count: number): void;

  /** target[i] = value. */
  fill(target: Tile, value: number, count: number): void;
  /** target[i] = source[i]. */
  copy(target: Tile, source: Tile, count: number): void;
  /** target[i] = a[i] - b[i]. */
  subtract(target: Tile, a: Tile, b: Tile, count: number): void;
  /** target[i] = a[i] + b[i]. */
  add(target: Tile, a: Tile, b: Tile, count: number): void;
  /** target[i] = a[i] * factor, factor rounded to float32 first. */
  scale(target: Tile, a: Tile, factor: number, count: number): void;
  /** target[i] = a[i] / divisor, divisor rounded to float32 first. */
  divide(target: Tile, a: Tile, divisor: number, count: number): void;
  /** target[i] = target[i] + a[i] * factor: two roundings. */
  addScaled(target: Tile, a: Tile, factor: number, count: number): void;

  /** Sum of a[i] * b[i] in float64: products are exact, eight partial sums by i mod 8, added 0..7 in order. */
  dot(a: Tile, b: Tile, count: number): number;
}
