// What the engine is asked to do to write rows of a matrix as combinations of other rows of it, and what it answers.
// Plain data both ways, so that threads can share the rows. Called by workers/approximate-executor.ts.
import type { TensorEntry } from "../core/checkpoint.ts";
import type { ExecuteOptions } from "./request.ts";

/** Orthogonal matching pursuit of at most `k` atoms. */
export type PursuitMethod = { readonly id: "omp"; readonly k: number };

/** How the atoms nearest to a row are weighed: core/ops/linalg/interpolation.ts defines it. */
export const WEIGHTINGS = ["distance_proportional", "barycentric", "least_squares"] as const;

/** The `k` atoms that are nearest, or that point most along. */
export type NearestMethod = {
  readonly id: "common_interpolation";
  readonly k: number;
  readonly cosine: boolean;
  readonly weighting: (typeof WEIGHTINGS)[number];
};

type ApproximateMethod = PursuitMethod | NearestMethod;

export type ApproximateTask<Method extends ApproximateMethod = ApproximateMethod> = {
  /** URI of the folder that the matrix's ranges name files of. */
  readonly source: { readonly store: string; readonly prefix: string };
  /** [rows, width], of floats. */
  readonly matrix: TensorEntry;
  /** Rows of the matrix that may be taken, ascending; at least `method.k`. */
  readonly atoms: Int32Array;
  /** Rows of the matrix to write as combinations of these. */
  readonly targets: Int32Array;
  readonly method: Method;
};

/** By the task's targets; entries of target i from i k on, as many as counts[i]. */
export type Approximation = {
  readonly counts: Int32Array;
  /** Indices of atoms. */
  readonly chosen: Int32Array;
  readonly weights: Float64Array;
};

export type ApproximateRequest = ApproximateTask & {
  readonly threads: number;
  /** Bound on the memory of the whole process. */
  readonly memoryBytes: number;
};

/**
 * The combinations of a request; the same for any number of threads and memory. Throws EngineNonFinite,
 * EngineMemoryTooSmall, and what the store throws. Edges construct it with their stores.
 */
export type ExecuteApproximate = (request: ApproximateRequest, options: ExecuteOptions) => Promise<Approximation>;
