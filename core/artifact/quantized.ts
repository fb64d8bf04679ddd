// What quantizing did to each tensor, as results, statistics.json and reports state it.
import * as z from "zod";
import { type Loss, signalToNoise } from "../ops/loss.ts";
import type { UnitLoss } from "../plan/receipt.ts";

export const quantizedTensorSchema = z.strictObject({
  tensor: z.string(),
  scheme: z.string(),
  /** Signal to noise in dB; null where nothing was lost. */
  snr: z.number().nullable(),
  /** Largest |W - Q(W)|. */
  maxError: z.number(),
  /** Share of elements beyond what the codes reach, which became the first or the last one. */
  clipped: z.number(),
});

/** A tensor of a merge: also how its error compares with what the merge changed. */
const mergedTensorSchema = quantizedTensorSchema.extend({
  /** ||W - Q(W)|| / ||W - W_base||: beyond 1 the merge is lost in it. Null without a base, or where nothing changed. */
  errorToDelta: z.number().nullable(),
});

/** One quantized output of a merge; tensors in the order of its files. */
export const quantizedOutputSchema = z.strictObject({
  /** Format and scheme, as recipes spell them. */
  output: z.string(),
  tensors: z.array(mergedTensorSchema),
});

export type QuantizedTensor = z.infer<typeof quantizedTensorSchema> & { readonly errorToDelta?: number | null };
export type QuantizedOutput = z.infer<typeof quantizedOutputSchema>;

/** The measures of a tensor. */
export function quantizedTensor(tensor: string, scheme: string, loss: Loss): z.infer<typeof quantizedTensorSchema> {
  const { elements, largest, clipped } = loss;
  return { tensor, scheme, snr: signalToNoise(loss), maxError: largest, clipped: clipped / Math.max(1, elements) };
}

/** ||W - Q(W)|| / ||W - W_base||. */
function errorToDelta({ noise, delta }: UnitLoss): number | null {
  return delta === null || delta === 0 ? null : Math.sqrt(noise / delta);
}

/** Outputs in the order of their first mention. */
export function listQuantized(losses: readonly UnitLoss[]): readonly QuantizedOutput[] {
  return [...Map.groupBy(losses, ({ output }) => output)].map(([output, own]) => ({
    output,
    tensors: own.map((loss) => ({
      ...quantizedTensor(loss.tensor, loss.scheme, loss),
      errorToDelta: errorToDelta(loss),
    })),
  }));
}
