// What a quantization lost, summed up for its result: the whole in dB, the tensor that lost most, and every tensor.
import * as z from "zod";
import { quantizedTensor, quantizedTensorSchema } from "../../core/artifact/quantized.ts";
import { addLoss, type Loss, NO_LOSS, signalToNoise } from "../../core/ops/loss.ts";
import { scalarQuantize } from "../../core/ops/quantize.ts";

/** Fields of a result. */
export const lossSchema = {
  /** Signal to noise of all quantized tensors together, in dB; null where nothing was lost. */
  snr: z.number().nullable(),
  /** The tensor that lost most. */
  worst: z.strictObject({ tensor: z.string(), scheme: z.string(), snr: z.number() }).nullable(),
  /** Every tensor's, in the order of the file. */
  losses: z.array(quantizedTensorSchema),
};

export type TensorLoss = { readonly tensor: string; readonly scheme: string; readonly loss: Loss };

/** Of values against those that came back. */
export function measureLoss(values: Float32Array, back: Float32Array): Loss {
  return scalarQuantize.measureLoss({ address: 0, values }, 0, { address: 0, values: back }, values.length);
}

export function summariseLosses(losses: readonly TensorLoss[]) {
  const total = losses.map(({ loss }) => loss).reduce(addLoss, NO_LOSS);
  const each = losses.map(({ tensor, scheme, loss }) => quantizedTensor(tensor, scheme, loss));
  const lossy = each.flatMap(({ tensor, scheme, snr }) => (snr === null ? [] : [{ tensor, scheme, snr }]));
  const [worst = null] = lossy.sort((a, b) => a.snr - b.snr);
  return { snr: signalToNoise(total), worst, losses: each };
}
