// What quantizing values lost: sums that add up over tiles, rows and tensors. Measured by core/ops/quantize.ts.

/** In float64. Of no values, all are 0. */
export type Loss = {
  readonly elements: number;
  /** Sum of squares of the values, and of what they differ by after quantization. */
  readonly signal: number;
  readonly noise: number;
  /** Largest difference. */
  readonly largest: number;
  /** Values beyond what codes reach: they became the first or last code, and lost more than half a step. */
  readonly clipped: number;
};

export const NO_LOSS: Loss = Object.freeze({ elements: 0, signal: 0, noise: 0, largest: 0, clipped: 0 });

/** Of all values of both. */
export function addLoss(a: Loss, b: Loss): Loss {
  return {
    elements: a.elements + b.elements,
    signal: a.signal + b.signal,
    noise: a.noise + b.noise,
    largest: Math.max(a.largest, b.largest),
    clipped: a.clipped + b.clipped,
  };
}

/** Signal to noise in dB; null for nothing lost. */
export function signalToNoise({ signal, noise }: Pick<Loss, "signal" | "noise">): number | null {
  return noise === 0 ? null : 10 * Math.log10(Math.max(signal, Number.MIN_VALUE) / noise);
}
