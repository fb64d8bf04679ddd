// What the engine is asked to do for one merge unit and what it answers. Plain data both ways, so that the unit can be
// split over worker threads.
import type { Digest } from "../core/artifact/digest.ts";
import type { PartTotals } from "../core/artifact/totals.ts";
import type { ByteRange } from "../core/checkpoint.ts";
import type { Importance } from "../core/formats/gguf/imatrix.ts";
import type { ModelState } from "../core/methods/method.ts";
import type { DerivedFileListing, TensorFile, UnitLoss, UnitStatistics } from "../core/plan/receipt.ts";
import type { MergeUnit } from "../core/plan/schema.ts";

/** Where a plan's source lies now, and the digests its tensors must have (undefined: foreign, nothing to check). */
export type ResolvedSource = {
  readonly model: string;
  readonly store: string;
  readonly prefix: string;
  readonly digests: Readonly<Record<string, string>> | undefined;
};

/** What merging a unit and measuring its tensors have in common. */
export type UnitRequest = {
  readonly unit: MergeUnit;
  /** By the plan's source index. */
  readonly sources: readonly ResolvedSource[];
  /** What the rounds before have decided, for a method that must know the whole model. */
  readonly state?: ModelState | undefined;
  readonly threads: number;
  /** Bound on the memory of all threads' kernels and windows together. */
  readonly memoryBytes: number;
};

export type MergeRequest = UnitRequest & {
  /** Say the digests of inputs that are read from end to end. */
  readonly digestInputs?: boolean | undefined;
  /** By the unit's derived files, the importance matrix that they are quantized with; undefined where none has one. */
  readonly importance?: readonly (Importance | undefined)[] | undefined;
  /** `derivedPrefix` is where derived files go, under their own names. */
  readonly target: { readonly store: string; readonly key: string; readonly derivedPrefix: string };
};

/** Measures the unit's tensors for one round of their method. */
export type MeasureRequest = UnitRequest & { readonly round: number };

/** Digest of a range of a source's bytes that a merge has read; `source` is the plan's index. */
export type ReadRange = { readonly source: number; readonly range: ByteRange; readonly digest: Digest };

export type MergeResult = {
  readonly file: TensorFile;
  /** By the unit's derived files. */
  readonly derived: readonly DerivedFileListing[];
  /** What quantizing lost, by derived file and tensor. */
  readonly losses: readonly UnitLoss[];
  readonly nonFinite: { readonly inputs: Record<string, number>; readonly output: number };
  /** When the unit asks for them: of every tensor that is merged, in file order. */
  readonly statistics: readonly UnitStatistics[] | null;
  /** Only when asked for; a tensor that is read for several outputs stands here several times. */
  readonly inputDigests?: readonly ReadRange[];
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly kernels: string;
  readonly threads: number;
};

export type MeasureResult = Pick<MergeResult, "bytesRead" | "kernels" | "threads"> & { readonly part: PartTotals };

/** Bytes done so far of what is being done. */
export type BytesDone = { readonly bytesRead: number; readonly bytesWritten: number };

export type ExecuteOptions = {
  readonly signal: AbortSignal;
  readonly progress?: ((done: BytesDone) => void) | undefined;
};

/**
 * Runs a merge unit: the output file is whole at `target` when the promise resolves, and nothing is there when it
 * rejects. Edges construct it (workers/merge-executor.ts) with their stores and kernels.
 */
export type ExecuteMerge = (request: MergeRequest, options: ExecuteOptions) => Promise<MergeResult>;

/** Measures a merge unit's tensors; writes nothing. */
export type ExecuteMeasure = (request: MeasureRequest, options: ExecuteOptions) => Promise<MeasureResult>;

/** Bytes of an object, whose key is the whole one in the store of that URI. */
export type StoredRange = {
  readonly store: string;
  readonly key: string;
  readonly offset: number;
  readonly bytes: number;
};

/** Digests of ranges, in order; every range is read once. Memory: a few pieces a thread. */
export type DigestRanges = (
  ranges: readonly StoredRange[],
  options: ExecuteOptions & { readonly threads: number },
) => Promise<readonly Digest[]>;
