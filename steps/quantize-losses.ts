// What a quantization lost, summed up for its result: the whole in dB, and the tensor that lost most.
import { z } from "zod";
import { type Loss, scalarQuantize } from "../core/ops/quantize.ts";

/** Fields of a result. */
export const lossSchema = {
  /** Signal to noise of all quantized tensors together, in dB; null where nothing was lost. */
  snr: z.number().nullable(),
  /** The tensor that lost most. */
  worst: z.strictObject({ tensor: z.string(), scheme: z.string(), snr: z.number() }).nullable(),
  /** Every tensor's, in the order of the file; null where nothing was lost. */
  losses: z.array(z.strictObject({ tensor: z.string(), scheme: z.string(), snr: z.number().nullable() })),
};

export type TensorLoss = { readonly tensor: string; readonly scheme: string; readonly loss: Loss };

/** Of values against those that came back. */
export function measureLoss(values: Float32Array, back: Float32Array): Loss {
  return scalarQuantize.measureLoss({ address: 0, values }, 0, { address: 0, values: back }, values.length);
}

export function addLoss(sum: Loss = { signal: 0, noise: 0 }, { signal, noise }: Loss): Loss {
  return { signal: sum.signal + signal, noise: sum.noise + noise };
}

/** In dB; null for nothing lost. */
export function signalToNoise({ signal, noise }: Loss): number | null {
  return noise === 0 ? null : 10 * Math.log10(Math.max(signal, Number.MIN_VALUE) / noise);
}

export function summariseLosses(losses: readonly TensorLoss[]) {
  const total = losses.reduce((sum, { loss }) => addLoss(sum, loss), { signal: 0, noise: 0 });
  const each = losses.map(({ tensor, scheme, loss }) => ({ tensor, scheme, snr: signalToNoise(loss) }));
  const lossy = each.flatMap(({ tensor, scheme, snr }) => (snr === null ? [] : [{ tensor, scheme, snr }]));
  const [worst = null] = lossy.sort((a, b) => a.snr - b.snr);
  return { snr: signalToNoise(total), worst, losses: each };
}
