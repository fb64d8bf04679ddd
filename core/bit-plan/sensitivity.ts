// How much a scheme hurts a tensor, from the weights alone or with an importance matrix: what a bit plan adds up and
// makes least. A proxy is a guess of what the model loses; each says what it counts.
// Source: quantization reference section 11.
import type { TensorKind } from "../schemes/mixes.ts";

/** Sums over the sampled rows of a tensor. Weighted: each column's square by its importance, 1 where there is none. */
export type SchemeError = {
  readonly sampledElements: number;
  readonly signal: number;
  readonly noise: number;
  readonly weightedSignal: number;
  readonly weightedNoise: number;
};

/** Where a tensor stands in its model: `index` is its number among those of its kind, of `count`. */
export type SensitivityPlace = {
  readonly kind: TensorKind;
  readonly index: number;
  readonly count: number;
  /** Of the whole tensor; errors are of a sample of them. */
  readonly elements: number;
};

export type Sensitivity = {
  readonly id: string;
  readonly title: string;
  readonly source: string;
  readonly needsImportance: boolean;
  /** Of one tensor in one scheme; comparable between tensors, and at least 0. */
  loss(error: SchemeError, place: SensitivityPlace): number;
};

/** What the mixes of llama-quantize spend their bits on: values and the matrix back to the residual stream first. */
const KIND_WEIGHTS: Partial<Record<TensorKind, number>> = { attn_v: 4, ffn_down: 4, attn_output: 2 };

const relative: Sensitivity = Object.freeze({
  id: "relative",
  title: "relative squared error, every tensor alike",
  source: "noise to signal of a layer's output for inputs without structure",
  needsImportance: false,
  loss: ({ signal, noise }) => ratio(noise, signal),
});

const squared: Sensitivity = Object.freeze({
  id: "squared",
  title: "squared error, every weight alike",
  source: "mean squared error of the model's weights",
  needsImportance: false,
  loss: ({ noise, sampledElements }, { elements }) => (noise * elements) / sampledElements,
});

const mixed: Sensitivity = Object.freeze({
  id: "mixed",
  title: "relative squared error, weighted by what the K_M mixes protect",
  source: "llama-quantize's rules for Q4_K_M, as weights",
  needsImportance: false,
  loss(error, { kind, index, count }) {
    const eighth = Math.floor(count / 8);
    const isOuter = index < eighth || index >= count - eighth;
    return relative.loss(error, { kind, index, count, elements: 1 }) * (KIND_WEIGHTS[kind] ?? 1) * (isOuter ? 2 : 1);
  },
});

const importance: Sensitivity = Object.freeze({
  id: "importance",
  title: "relative squared error of the output, by the importance matrix",
  source: "AdaQuant's local objective without cross terms, arXiv:2006.10518",
  needsImportance: true,
  loss: ({ weightedSignal, weightedNoise }) => ratio(weightedNoise, weightedSignal),
});

/** Of a tensor of zeros nothing can be lost. */
function ratio(noise: number, signal: number): number {
  return noise === 0 ? 0 : noise / Math.max(signal, Number.MIN_VALUE);
}

/** Of a plan without an importance matrix: on small trained models it lost least (`npm run quality`). */
export const SENSITIVITY_DEFAULT = squared.id;

/** Every proxy by its id. */
export const SENSITIVITIES: ReadonlyMap<string, Sensitivity> = new Map(
  [squared, relative, mixed, importance].map((proxy) => [proxy.id, proxy]),
);
