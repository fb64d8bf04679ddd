// What a kernel set provides: memory it owns and the operations methods are written in. Two exist:
// `createScalarKernels` below (plain TypeScript, the oracle) and kernels/wasm/host.ts (SIMD); they give the same bits.
// A kernel set belongs to one thread.
import { type Arithmetic, scalarArithmetic } from "./arithmetic.ts";
import { type Cast, scalarCast } from "./cast.ts";
import { type Combine, scalarCombine } from "./combine.ts";
import { type Competition, scalarCompetition } from "./competition.ts";
import { type Consensus, scalarConsensus } from "./consensus.ts";
import { type IntegerProduct, scalarIntegerProduct } from "./integer-product.ts";
import { type LowRank, scalarLowRank } from "./low-rank.ts";
import { type Mask, scalarMask } from "./mask.ts";
import { type Masked, scalarMasked } from "./masked.ts";
import { type MatrixProduct, scalarMatrixProduct } from "./matrix-product.ts";
import { createMemory, type Memory } from "./memory.ts";
import { type Nearness, scalarNearness } from "./nearness.ts";
import { type Overlap, scalarOverlap } from "./overlap.ts";
import { type Quantize, scalarQuantize } from "./quantize.ts";
import { type QuantizeParts, scalarQuantizeParts } from "./quantize-parts.ts";
import { type RankedMask, scalarRankedMask } from "./ranked-mask.ts";
import { type Reduce, scalarReduce } from "./reduce.ts";
import { type Scores, scalarScores } from "./scores.ts";
import { type Select, scalarSelect } from "./select.ts";
import { type Signs, scalarSigns } from "./signs.ts";
import { scalarVotes, type Votes } from "./votes.ts";

export type { Block, Tile } from "./memory.ts";

/**
 * Elements of one tile, and the unit of every reduction: a reduction's partial result covers one tile, aligned to the
 * tensor's first element, and partials are added in tile order. Window size, thread count and shard size therefore
 * never change a result. Part of the numerics: changing it changes output bits of methods that reduce.
 */
export const TILE_ELEMENTS = 8192;

type ElementOperations = Nearness & Overlap & Consensus & Scores;
export type Operations = Cast &
  Arithmetic &
  Combine &
  Reduce &
  Select &
  Masked &
  Mask &
  RankedMask &
  Signs &
  LowRank &
  MatrixProduct &
  IntegerProduct &
  Quantize &
  Votes &
  Competition &
  QuantizeParts &
  ElementOperations;
export type Kernels = { readonly id: "scalar" | "wasm" } & Memory & Operations;

/** The oracle: every operation in plain TypeScript, over `capacityBytes` of memory. */
export function createScalarKernels(capacityBytes: number): Kernels {
  return {
    id: "scalar",
    ...createMemory(new ArrayBuffer(capacityBytes), 0),
    ...scalarCast,
    ...scalarArithmetic,
    ...scalarCombine,
    ...scalarReduce,
    ...scalarSelect,
    ...scalarMasked,
    ...scalarMask,
    ...scalarRankedMask,
    ...scalarSigns,
    ...scalarLowRank,
    ...scalarMatrixProduct,
    ...scalarIntegerProduct,
    ...scalarVotes,
    ...scalarCompetition,
    ...scalarNearness,
    ...scalarOverlap,
    ...scalarConsensus,
    ...scalarScores,
    ...scalarQuantize,
    ...scalarQuantizeParts,
  };
}
