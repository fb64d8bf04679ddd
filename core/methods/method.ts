// What a merge method is: a frozen object of declared properties and one pure function, `compile`. The planner and the
// engine read the properties; neither ever asks which method it is. Adding one: a file here named by its id, a line in
// registry.ts, a golden file. What several methods are built on is in frames/ and sparsify/.
import assert from "node:assert/strict";
import type * as z from "zod";
import type { HalfDtype } from "../ops/cast.ts";
import type { Combination, CombineDtype } from "../ops/combine.ts";
import { type Block, type Kernels, TILE_ELEMENTS, type Tile } from "../ops/kernels.ts";
import { elementCount, type Shape } from "../tensor.ts";

/** Values of one parameter set, after gradients, filters and defaults are resolved for one tensor. */
export type ParameterValues = Readonly<Record<string, number | boolean | string | undefined>>;

/** One model's part in one output tensor. */
export type MergeInput = {
  /** The reference as the recipe spells it; keys random numbers, so it is part of the content key. */
  readonly model: string;
  readonly isBase: boolean;
  readonly parameters: ParameterValues;
  /** Under `rules.strict`: the dtype of 16 bits in which the reference holds the values; they come rounded to it. */
  readonly working?: HalfDtype | undefined;
  /** Of what was measured of a model, not its weights: one value an element, or a tensor of a shape of its own. */
  readonly statistic?: "elements" | "whole" | undefined;
};

/** One output tensor as a method sees it: no bytes, no files. */
export type MergeTensor = {
  readonly name: string;
  readonly shape: Shape;
  /**
   * In recipe order; the base is where the recipe lists it, else last. Then, for a method that takes statistics, that
   * of each model in the same order, or none at all.
   */
  readonly inputs: readonly MergeInput[];
  readonly parameters: ParameterValues;
  readonly seed: number;
  readonly rules: MergeRules;
  /**
   * Under `rules.strict`, where the reference computes in 16 bits: the dtype that it rounds to after every step. A
   * method that does not know it computes in float32, as always.
   */
  readonly working?: HalfDtype | undefined;
  /** Of a method with `wholeModel`: what its rounds have decided. */
  readonly state?: ModelState | undefined;
};

/** What scratch memory may depend on: a tensor's plan says it all. */
export type ScratchTensor = Pick<MergeTensor, "shape" | "parameters" | "working"> & {
  readonly inputs: readonly Pick<MergeInput, "isBase" | "statistic" | "parameters" | "working">[];
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
 * TILE_ELEMENTS and at least one; slice: the same with slices of the first axis (a vector is one slice); tensor: one
 * tile that is the whole tensor.
 */
export type Locality = "element" | "row" | "slice" | "tensor";

/** Elements of a whole tile of a tensor; the last one may be shorter. */
export function tileElementsOf(locality: Locality, shape: Shape): number {
  if (locality === "element") return TILE_ELEMENTS;
  const total = Math.max(1, elementCount(shape));
  if (locality === "tensor") return total;
  const slices = shape.length < 2 ? 1 : Math.max(1, shape[0] ?? 1);
  const unit = locality === "row" ? Math.max(1, shape.at(-1) ?? 1) : total / slices;
  return unit * Math.max(1, Math.floor(TILE_ELEMENTS / unit));
}

/**
 * The same span of elements of every input, widened to float32, inputs in the order of MergeTensor.inputs; a statistic
 * of a shape of its own (under tensor locality only) whole.
 */
export type TileView = {
  readonly inputs: readonly Tile[];
  /** Where an apply pass writes its result; scratch in a reduce pass. Distinct from every input. */
  readonly output: Tile;
  /** Flat index in the output tensor of the tile's first element. */
  readonly firstElement: number;
  readonly count: number;
};

/** The same span as a TileView's, as it is stored; methods that read it fuse the conversion with their arithmetic. */
export type StoredView = {
  /** Of every input: where they differ in dtype, the engine has widened them to F32. */
  readonly dtype: CombineDtype;
  readonly inputs: readonly Block[];
  /** Of the span's first element, in every input. */
  readonly byteOffset: number;
  readonly output: Tile;
  readonly firstElement: number;
  readonly count: number;
  /** Elements of a tile. The span is one, or, for a pass that takes windows, as many as a window has. */
  readonly tileElements: number;
};

/** A window of an apply pass that writes it as it is stored, in the inputs' dtype. */
export type StoredWindow = Omit<StoredView, "byteOffset" | "output"> & { readonly output: Block };

/** Elements [first, first + count) of a tensor. */
export type ElementSpan = { readonly first: number; readonly count: number };

/** What any pass may say besides what it does with a tile. */
export type PassOptions = {
  /** After the last tile. */
  finish?(): void;
  /** Reduce passes: false when this pass has nothing to do; asked when its turn comes. */
  isNeeded?(): boolean;
  /** Reduce passes: only these spans are read, each at most TILE_ELEMENTS long, instead of all tiles: a sample. */
  readonly spans?: readonly ElementSpan[] | undefined;
};

/** One streaming pass over a tensor's inputs, tiles in order. Inputs come widened to float32. */
export type Pass = PassOptions & { tile(view: TileView): void };

/** A pass whose inputs come as they are stored. A value that is not finite must make the result not finite. */
export type StoredPass = PassOptions & {
  storedTile(view: StoredView): void;
  /** Reduce passes: spans may have many tiles, whole ones but the last; what is summed by tile the pass sums so. */
  readonly takesWindows?: boolean;
  /** Apply passes: the same for a window, narrowed; returns how many results are not finite. */
  storedWindow?(view: StoredWindow): number;
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
export type TensorProgram = {
  readonly reduce: readonly (Pass | StoredPass)[];
  readonly apply: Pass | StoredPass | CombinePass;
  /**
   * Of a method that drops elements: how many it kept of each input but the base, in the tile that the apply pass has
   * just made. Asked only where statistics are wanted; `view.output` is scratch by then.
   */
  countKept?(view: TileView): readonly number[];
};

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

/** What rounds have decided: lists of numbers by name. */
export type ModelState = Readonly<Record<string, readonly number[]>>;

/**
 * How totals of tensors become those of the model, so that no cut of the work changes a bit:
 * count: whole numbers, added in any order; largest: the maximum, in any order; sum: float64, kept tensor by tensor and
 * added in the order of the tensors' names.
 */
type TotalKind = "count" | "largest" | "sum";

/** The totals of a round, by name: vectors of a length that is known beforehand. */
export type TotalSpecs = Readonly<Record<string, { readonly kind: TotalKind; readonly length: number }>>;

/** Values of every total, of one tensor or of the model. */
export type Totals = Readonly<Record<string, Float64Array>>;

/** The model as decisions see it. */
export type ModelExtent = Pick<MergeTensor, "inputs" | "parameters"> & {
  /** Elements of all tensors that the method merges. */
  readonly elements: number;
  readonly tensors: number;
};

/** What rounds may depend on: parameters that are the same for all tensors, and the models. */
export type RoundTensor = {
  readonly parameters: ParameterValues;
  readonly inputs: readonly Pick<MergeTensor["inputs"][number], "isBase" | "parameters" | "statistic">[];
};

/** One tensor's part in a round: a pass over its inputs, and what that gathered. */
export type Measurement = { readonly pass: Pass | StoredPass; totals(): Totals };

export type Round = {
  totals(tensor: RoundTensor): TotalSpecs;
  /** Bytes that `measure` allocates, each block rounded up to 64. */
  scratchBytes(tensor: ScratchTensor): number;
  /** `tensor.state` holds what the rounds before have decided. */
  measure(tensor: MergeTensor, kernels: Kernels): Measurement;
  /** What is added to the state. */
  decide(totals: Totals, model: ModelExtent, state: ModelState): ModelState;
};

/**
 * What a method asks of the whole model before it merges one tensor: rounds. In a round every tensor is measured once,
 * what was measured is added up over all tensors, and a pure function decides from the totals what later rounds and the
 * merge know as the model's state. Planner, engine and steps run rounds without knowing what they measure.
 * Why it is so: docs/adr/0005-prepare-stage.md.
 */
export type WholeModel = {
  /** Parameters that rounds or decisions use: they must be the same for all tensors. */
  readonly shared: readonly string[];
  /** In order; how many there are may depend on shared parameters. */
  rounds(tensor: RoundTensor): readonly Round[];
  /** Plan-time truth that takes the number of the model's elements. */
  refuse?(model: ModelExtent): Refusal | undefined;
};

/** Statistics that a method takes: one tensor of every model beside the model's own. */
export type StatisticsNeed = {
  /** As messages call it. */
  readonly title: string;
  /** Its shape beside a tensor, another than the tensor's only at tensor locality; undefined: the method takes none. */
  shapeOf(shape: Shape): Shape | undefined;
  /** True when it says something of each row, so that it must follow rows that are put in another order. */
  readonly followsRows: boolean;
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
  /** Reduce passes that read all inputs, as a rule: for estimates. A function where that depends on the tensor. */
  readonly reducePasses: number | ((tensor: ScratchTensor) => number);
  /** Bytes that `compile` allocates, each block rounded up to 64; bounds memory at plan time; none unless said. */
  scratchBytes?(tensor: ScratchTensor): number;
  /**
   * Every pass over a tensor whose inputs have one dtype reads stored values, and `apply` stores windows: no tile is
   * widened, which matters where tiles are large. False unless said.
   */
  storesWindows?(tensor: ScratchTensor): boolean;
  readonly seeded: boolean;
  readonly embeddingMismatch: EmbeddingMismatch;
  /**
   * What the reference makes of dtypes, followed under `rules.strict`. base: every input is cast to the base's;
   * promoted: arithmetic and result have a dtype that holds those of all inputs; float32: arithmetic has that dtype,
   * and the result is float32 unless the recipe says `out_dtype`. Unless said, the result has the base's dtype, or the
   * first model's.
   */
  readonly referenceDtype?: "base" | "promoted" | "float32";
  /** Global parameters (evaluated once per output tensor) with the only copy of each default. */
  readonly parameters: z.ZodObject;
  /** Per-model parameters; required ones are not required of the base. */
  readonly modelParameters: z.ZodObject;
  /** What must be given of every model beside its weights, measured elsewhere. */
  readonly statistics?: StatisticsNeed;
  /** Plan-time truth beyond the schemas: impossible combinations of shape and parameters. */
  refuse?(tensor: MergeTensor): Refusal | undefined;
  /** What the method must know of the whole model before it merges a tensor. */
  readonly wholeModel?: WholeModel;
  /** True when the result is the only input's values unchanged: where the dtype stays too, its bytes are copied. */
  isIdentity?(tensor: MergeTensor): boolean;
  compile(tensor: MergeTensor, kernels: Kernels): TensorProgram;
  /**
   * In place of `compile`, of a method whose inputs are not read in lockstep: the result in float32, piece by piece.
   * Each piece is valid until the next, and memory is the scratch bytes, which all pieces' tiles are part of.
   */
  stream?(tensor: MergeTensor, kernels: Kernels, read: ReadInput): AsyncIterable<Tile>;
};

/** The elements of an input from `first` on, widened to float32. */
export type ReadInput = (input: number, first: number, count: number, target: Tile) => Promise<void>;

/** A parameter that the schema has made a number; an invariant of resolution, so its absence is a fault of ours. */
export function numberParameter(values: ParameterValues, name: string): number {
  const value = values[name];
  assert.ok(typeof value === "number", `parameter ${name} was not resolved`);
  return value;
}

/** A number of each of the inputs at `indexes`, in their order. */
export function numbersOf({ inputs }: Pick<MergeTensor, "inputs">, indexes: readonly number[], name: string) {
  return indexes.map((index) => numberParameter(inputs[index]?.parameters ?? {}, name));
}

/** A total by its name; a round gathers all that it says, so its absence is a fault of ours. */
export function totalOf(totals: Totals, name: string): Float64Array {
  const total = totals[name];
  assert.ok(total !== undefined, `the total ${name} was not gathered`);
  return total;
}

/** A list of the state by its name; an invariant of the order of rounds, so its absence is a fault of ours. */
export function stateList(state: ModelState | undefined, name: string): readonly number[] {
  const list = state?.[name];
  assert.ok(list !== undefined, `${name} of the model was not decided`);
  return list;
}
