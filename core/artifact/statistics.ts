// statistics.json of a merge: how the models' changes agree and disagree, tensor by tensor, and what quantized outputs
// lost. Written beside the artifact when asked for and where there are quantized outputs, from numbers that fall out of
// the pass that merges. The zod schema is its definition.
import * as z from "zod";
import type { UnitLoss, UnitStatistics } from "../plan/receipt.ts";
import { count } from "../schema-atoms.ts";
import { sortByName } from "../utf8-order.ts";
import { canonicalJson } from "./digest.ts";
import { listQuantized, quantizedOutputSchema } from "./quantized.ts";

/** File name in an artifact's folder. */
export const STATISTICS_FILE = "statistics.json";

/** One tensor. Lists follow the document's `models`; a model that takes no part in the tensor has null. */
const tensorStatisticsSchema = z.strictObject({
  name: z.string(),
  elements: count,
  /** L2 norm of each model's vector, in float64. */
  norms: z.array(z.number().nullable()),
  /** Cosine of models i < j, in the order 01, 02, ..., 12, ...; null where a norm is 0 or a model takes no part. */
  cosines: z.array(z.number().nullable()),
  /** Elements at which two models' entries have opposite signs. */
  signConflicts: count,
  /** Elements of each model's vector that the method kept; null where it does not choose among them. */
  kept: z.array(count.nullable()),
  /** NaN and infinite values of each model. */
  nonFinite: z.array(count.nullable()),
});

export const statisticsSchema = z.strictObject({
  statistics: z.literal(1),
  method: z.string(),
  /** task: the vectors are differences to the base; weights: there is no base, and they are the weights themselves. */
  vectors: z.enum(["task", "weights"]),
  base: z.string().nullable(),
  models: z.array(z.string()),
  /** In name order; none where the recipe does not ask for them. */
  tensors: z.array(tensorStatisticsSchema),
  /** What quantized outputs lost. */
  quantized: z.array(quantizedOutputSchema).default([]),
});

export type TensorStatistics = z.infer<typeof tensorStatisticsSchema>;
export type Statistics = z.infer<typeof statisticsSchema>;

/** The pairs i < j of n models, in the order of `cosines`. */
export function listPairs(models: number): readonly (readonly [number, number])[] {
  return Array.from({ length: models }, (_, i) => i).flatMap((i) =>
    Array.from({ length: models - i - 1 }, (_, more) => [i, i + 1 + more] as const),
  );
}

/** What a unit of a merge measured, if it was asked to, and lost. */
type MeasuredUnit = {
  readonly statistics: readonly UnitStatistics[] | null;
  readonly losses: readonly UnitLoss[];
};

/**
 * The document of a merge from what its units measured and lost; undefined when there is neither. Models come in order
 * of first mention, tensors by name; a model that takes no part in a tensor has null there.
 */
export function collectStatistics(method: string, units: readonly MeasuredUnit[]): Statistics | undefined {
  const measured = units.flatMap(({ statistics }) => statistics ?? []);
  const losses = units.flatMap((unit) => unit.losses);
  const models = [...new Set(measured.flatMap((tensor) => tensor.models))];
  if (models.length === 0 && losses.length === 0) return undefined;
  const pairs = listPairs(models.length);
  const tensors = measured.map((tensor): TensorStatistics => {
    const place = models.map((model) => tensor.models.indexOf(model));
    const own = listPairs(tensor.models.length).map(([i, j]) => `${i},${j}`);
    const cosineOf = (a: number, b: number): number | null =>
      tensor.cosines[own.indexOf(a < b ? `${a},${b}` : `${b},${a}`)] ?? null;
    return {
      name: tensor.name,
      elements: tensor.elements,
      norms: place.map((index) => tensor.norms[index] ?? null),
      cosines: pairs.map(([i, j]) => cosineOf(place[i] ?? -1, place[j] ?? -1)),
      signConflicts: tensor.signConflicts,
      kept: place.map((index) => tensor.kept?.[index] ?? null),
      nonFinite: place.map((index) => tensor.nonFinite[index] ?? null),
    };
  });
  const base = measured.find((tensor) => tensor.base !== null)?.base ?? null;
  return {
    statistics: 1,
    method,
    vectors: base === null ? "weights" : "task",
    base,
    models,
    tensors: sortByName(tensors),
    quantized: [...listQuantized(losses)],
  };
}

/** The file's bytes: canonical JSON and a newline. */
export function encodeStatistics(statistics: Statistics): Uint8Array {
  return new TextEncoder().encode(`${canonicalJson(statistics)}\n`);
}
