// What a method may ask of the whole model before it merges one tensor: rounds. In a round every tensor is measured
// once, what was measured is added up over all tensors, and a pure function decides from the totals what later rounds
// and the merge know as the model's state. Planner, engine and steps run rounds without knowing what they measure.
// Why it is so: docs/adr/0005-prepare-stage.md.
import assert from "node:assert/strict";
import type { Kernels } from "../../ops/kernels.ts";
import type { MergeTensor, ParameterValues, Pass, Refusal, ScratchTensor, StoredPass } from "../method.ts";

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

export type WholeModel = {
  /** Parameters that rounds or decisions use: they must be the same for all tensors. */
  readonly shared: readonly string[];
  /** In order; how many there are may depend on shared parameters. */
  rounds(tensor: RoundTensor): readonly Round[];
  /** Plan-time truth that takes the number of the model's elements. */
  refuse?(model: ModelExtent): Refusal | undefined;
};

/** Totals of some tensors: those of a sum one after the other, in the order of `tensors`. */
export type PartTotals = { readonly tensors: readonly string[]; readonly values: Totals };

/** Totals of one part from those of its parts; a sum's tensors follow one another. */
export function joinTotals(specs: TotalSpecs, parts: readonly PartTotals[]): PartTotals {
  const values = Object.entries(specs).map(([name, { kind, length }]) => {
    const own = parts.map((part) => vectorOf(part.values, name));
    if (kind === "sum") return [name, Float64Array.from(own.flatMap((vector) => [...vector]))] as const;
    const joined = new Float64Array(length).fill(kind === "count" ? 0 : Number.NEGATIVE_INFINITY);
    for (const vector of own) (kind === "count" ? addVector : keepLarger)(joined, vector);
    return [name, joined] as const;
  });
  return { tensors: parts.flatMap(({ tensors }) => tensors), values: Object.fromEntries(values) };
}

function addVector(target: Float64Array, vector: Float64Array): void {
  for (let i = 0; i < target.length; i++) target[i] = (target[i] ?? 0) + (vector[i] ?? 0);
}

function keepLarger(target: Float64Array, vector: Float64Array): void {
  for (let i = 0; i < target.length; i++) target[i] = Math.max(target[i] ?? 0, vector[i] ?? 0);
}

/** The model's totals from those of all its tensors. */
export function totalModel(specs: TotalSpecs, { tensors, values }: PartTotals): Totals {
  const order = [...tensors.keys()].sort((a, b) => ((tensors[a] ?? "") < (tensors[b] ?? "") ? -1 : 1));
  const totals = Object.entries(specs).map(([name, { kind, length }]) => {
    const vector = vectorOf(values, name);
    if (kind !== "sum") return [name, vector] as const;
    const sum = new Float64Array(length);
    for (const index of order) addVector(sum, vector.subarray(index * length, (index + 1) * length));
    return [name, sum] as const;
  });
  return Object.fromEntries(totals);
}

/** A total by its name; a round gathers all that it says. */
export function vectorOf(totals: Totals, name: string): Float64Array {
  const vector = totals[name];
  assert.ok(vector !== undefined, `the total ${name} was not gathered`);
  return vector;
}

/** A list of the state by its name; an invariant of the order of rounds, so its absence is a fault of ours. */
export function stateList(state: ModelState | undefined, name: string): readonly number[] {
  const list = state?.[name];
  assert.ok(list !== undefined, `${name} of the model was not decided`);
  return list;
}
