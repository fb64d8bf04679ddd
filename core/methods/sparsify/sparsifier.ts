// The first axis of the task-vector family: which elements of a task vector are kept. A sparsifier sees one output
// tensor and the models whose density is below 1, and marks the elements that it keeps, tile by tile. It knows nothing
// of weights, signs or scales.
import type * as z from "zod";
import type { Deltas } from "../../ops/deltas.ts";
import type { Block, Kernels } from "../../ops/kernels.ts";
import type { KeyBand } from "../../ops/select.ts";
import type { Locality, MergeInput, MergeTensor, PassOptions, Refusal, ScratchTensor } from "../method.ts";

/** One tile of every sparse model, in the order of the tensor's inputs; where said so, a window of many. */
export type DeltaTile = {
  /** Differences of sparse model `source`; valid until those of another model are asked for. */
  deltas(source: number): Deltas;
  readonly firstElement: number;
  readonly count: number;
  /** Elements of a tile. */
  readonly tileElements: number;
};

/** A reduce pass over the differences; as a method's pass otherwise. */
export type DeltaPass = PassOptions & { tile(tile: DeltaTile): void; readonly takesWindows?: boolean };

/** Marks the kept elements of one model in one tile: bit bitOffset + i of `bits`. */
export type MarkTile = (source: number, tile: DeltaTile, bits: Block, bitOffset: number) => void;

/** What `compile` returns: passes that gather what marking needs, and marking, which may begin when they are over. */
export type Sparsification = {
  readonly reduce: readonly DeltaPass[];
  readonly mark: MarkTile;
  /** True: `mark` takes windows as well as tiles. */
  readonly marksWindows?: boolean;
  /** Where magnitudes alone decide: what a model keeps from the start of a span of tiles on. */
  bandIn?(source: number, span: Pick<DeltaTile, "firstElement" | "count">): BandRun;
};

/** Elements that are kept by one band of keys; no band: a tile of which equal ones are kept in part. */
export type BandRun = { readonly band: KeyBand | undefined; readonly count: number };

export type Sparsifier = {
  /** Parameters besides density, with the only copy of each default. */
  readonly parameters: z.ZodRawShape;
  readonly modelParameters: z.ZodRawShape;
  readonly locality: Locality;
  /** Of a tensor whose inputs are the sparse models alone, as a rule. */
  reducePasses(tensor: ScratchTensor): number;
  readonly seeded: boolean;
  /** Bytes that `compile` allocates for a tensor whose inputs are the sparse models alone. */
  scratchBytes(tensor: ScratchTensor): number;
  /** Why one sparse model cannot be sparsified so: known from shapes and parameters. */
  refuse(tensor: MergeTensor, input: MergeInput): Refusal | undefined;
  compile(tensor: MergeTensor, kernels: Kernels): Sparsification;
};
