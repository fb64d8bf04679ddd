// What a merge method is: a frozen object of declared properties and one pure function, `compile`. The planner and the
// engine read the properties; neither ever asks which method it is. Adding one: a file here named by its id, a line in
// registry.ts, a golden file.
import assert from "node:assert/strict";
import type { z } from "zod";
import type { Combination } from "../ops/combine.ts";
import type { Kernels, Tile } from "../ops/kernels.ts";
import type { Shape } from "../tensor.ts";

/** Values of one parameter set, after gradients, filters and defaults are resolved for one tensor. */
export type ParameterValues = Readonly<Record<string, number | boolean | undefined>>;

/** One model's part in one output tensor. */
export type MergeInput = {
  /** The reference as the recipe spells it; keys random numbers, so it is part of the content key. */
  readonly model: string;
  readonly isBase: boolean;
  readonly parameters: ParameterValues;
};

/** One output tensor as a method sees it: no bytes, no files. */
export type MergeTensor = {
  readonly name: string;
  readonly shape: Shape;
  /** In recipe order; the base is where the recipe lists it, else last. */
  readonly inputs: readonly MergeInput[];
  readonly parameters: ParameterValues;
  readonly seed: number;
  readonly rules: MergeRules;
};

/** Rules of the whole recipe that change what a method does or refuses. */
export type MergeRules = {
  /** error: a NaN or infinity in an input or in the output fails the unit; propagate: it is counted. */
  readonly nonFinite: "error" | "propagate";
  /** Reproduce the reference's documented defects (`mergekit_compat: strict`). */
  readonly strict: boolean;
};

/**
 * How the engine must cut a tensor for a method:
 * element: tiles of TILE_ELEMENTS (the last one shorter); row: tiles of whole rows of the last axis, as many as fit in
 * TILE_ELEMENTS and at least one; tensor: one tile that is the whole tensor.
 */
export type Locality = "element" | "row" | "tensor";

/** The same span of elements of every input, widened to float32, inputs in the order of MergeTensor.inputs. */
export type TileView = {
  readonly inputs: readonly Tile[];
  /** Where an apply pass writes its result; scratch in a reduce pass. Distinct from every input. */
  readonly output: Tile;
  /** Flat index in the output tensor of the tile's first element. */
  readonly firstElement: number;
  readonly count: number;
};

/** One streaming pass over a tensor's inputs, tiles in order. Inputs come widened to float32. */
export type Pass = {
  tile(view: TileView): void;
  /** After the last tile. */
  finish?(): void;
};

/**
 * An apply pass that is a linear combination of the inputs, or of their differences to the base. Said as data, so that
 * the engine can run it fused; `combination` is asked once, after the reduce passes, one factor for each input in order
 * (the base's own factor, where `deltas` is true, is not used).
 */
export type CombinePass = { readonly deltas: boolean; combination(): Combination };

/**
 * What `compile` returns: reduce passes that gather whole-tensor statistics, then one apply pass that fills the output.
 * State lives in closures; the engine runs each pass once, in order, on one thread.
 */
export type TensorProgram = { readonly reduce: readonly Pass[]; readonly apply: Pass | CombinePass };

/** What to do when a 2-D embedding differs in size between models; section 2.3 of the merge reference. */
export type EmbeddingMismatch = "common" | "base" | "error";

/** Why a tensor cannot be merged with these shapes and parameters: known at plan time, from headers alone. */
export type Refusal = {
  readonly model?: string;
  readonly parameter?: string;
  found: string;
  expected: string;
  hint?: string;
};

export type MergeMethod = {
  /** As recipes in the wild spell it. */
  readonly id: string;
  readonly title: string;
  /** Paper or project, with its arXiv id or URL; feeds the model card. */
  readonly source: string;
  /** Inputs per tensor, base included where it counts as an input. */
  readonly inputCount: { readonly min: number; readonly max: number };
  /** none: a base is an ordinary input; required: subtracted from the others; member: must be one of the inputs. */
  readonly base: "none" | "optional" | "required" | "member";
  readonly locality: Locality;
  readonly reducePasses: number;
  /** Float32 tiles that `compile` allocates, as a function of the number of inputs; bounds memory at plan time. */
  scratchTiles(inputCount: number): number;
  readonly seeded: boolean;
  readonly embeddingMismatch: EmbeddingMismatch;
  /** Global parameters (evaluated once per output tensor) with the only copy of each default. */
  readonly parameters: z.ZodObject;
  /** Per-model parameters; required ones are not required of the base. */
  readonly modelParameters: z.ZodObject;
  /** Plan-time truth beyond the schemas: impossible combinations of shape and parameters. */
  refuse?(tensor: MergeTensor): Refusal | undefined;
  /** True when the result is the only input's values unchanged: where the dtype stays too, its bytes are copied. */
  isIdentity?(tensor: MergeTensor): boolean;
  compile(tensor: MergeTensor, kernels: Kernels): TensorProgram;
};

/** A parameter that the schema has made a number; an invariant of resolution, so its absence is a fault of ours. */
export function numberParameter(values: ParameterValues, name: string): number {
  const value = values[name];
  assert.ok(typeof value === "number", `parameter ${name} was not resolved`);
  return value;
}
