// Adding up what the rounds of a method (`WholeModel` of method.ts) measured, tensor by tensor, into the totals of the
// model, so that no cut of the work changes a bit. Called by the engine and by the steps of prepare units.
import { type TotalSpecs, type Totals, totalOf } from "../methods/method.ts";

/** Totals of some tensors: those of a sum one after the other, in the order of `tensors`. */
export type PartTotals = { readonly tensors: readonly string[]; readonly values: Totals };

/** Totals of one part from those of its parts; a sum's tensors follow one another. */
export function joinTotals(specs: TotalSpecs, parts: readonly PartTotals[]): PartTotals {
  const values = Object.entries(specs).map(([name, { kind, length }]) => {
    const own = parts.map((part) => totalOf(part.values, name));
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
    const vector = totalOf(values, name);
    if (kind !== "sum") return [name, vector] as const;
    const sum = new Float64Array(length);
    for (const index of order) addVector(sum, vector.subarray(index * length, (index + 1) * length));
    return [name, sum] as const;
  });
  return Object.fromEntries(totals);
}
