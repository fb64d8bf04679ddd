// A tensor as the task-vector family sees it, read once from the recipe's parameters: its differences, and what is done
// to them. Made by task-vectors.ts; sparsify/ and working-steps.ts compute from it.
import type { MergeTensor } from "../method.ts";
import type { MaskStore } from "../sparsify/mask-store.ts";
import type { DeltaPass, Sparsification } from "../sparsify/sparsifier.ts";

/** Recipes may also write true for `l1` and false for `none`. */
export const RESCALES = ["l1", "inverse_density", "none"] as const;
export type Rescale = (typeof RESCALES)[number];

/** One model's part in a tensor. */
type TaskVector = {
  /** Among the tensor's inputs. */
  readonly input: number;
  readonly weight: number;
  readonly density: number;
  /** Index among the sparse models; undefined: all elements are kept. */
  readonly sparse: number | undefined;
};

/** A tensor of the family, read once. */
export type TaskVectorTask = {
  readonly tensor: MergeTensor;
  /** The base's index among the tensor's inputs. */
  readonly base: number;
  readonly vectors: readonly TaskVector[];
  /** The tensor with the sparse models as its only inputs, as sparsifiers see it; and where those are in the tensor. */
  readonly sparse: MergeTensor;
  readonly sparseInputs: readonly number[];
  readonly elects: boolean;
  readonly rescale: Rescale;
  readonly normalizes: boolean;
  readonly multiplier: number;
};

/** Masks and rescaling factors of the sparse models, and the passes over their differences that both need. */
export type Sparsified = {
  readonly masks: MaskStore;
  /** Masks are made, and hold, for windows. */
  readonly takesWindows: boolean;
  /** Tiles are whole groups of elements, which is what kernels write: results may go right behind one another. */
  readonly wholeGroups: boolean;
  /** Where kept elements are told by their keys, and none is rescaled. */
  readonly bandIn: Sparsification["bandIn"];
  /** By sparse model; known after the passes. */
  readonly scales: readonly number[];
  readonly reduce: readonly DeltaPass[];
};
