// What a model is worth on its data: accuracy of a vision transformer with a task's frozen head, bits per byte of a
// language model on bytes.
import { join } from "node:path";
import { valuesOf } from "../golden/tensors.ts";
import { createLlama } from "./llama.ts";
import { createVit } from "./vit.ts";
import { readTensorFile, readWeights } from "./weights.ts";

/** One model to measure, on some tasks or domains; may be sent to a thread. */
export type Scoring = {
  readonly kind: "vit" | "llama";
  /** Folder of the weights. */
  readonly model: string;
  /** Folder that holds `data/`, and `heads/` for a vision transformer. */
  readonly suite: string;
  readonly tasks: readonly string[];
  /** Images, or windows of 128 bytes, of each task; the first ones. */
  readonly samples: number;
};

/** By task, one number a sample: 100 for a right answer and 0 for a wrong one, or a window's bits per byte. */
export type Scores = Readonly<Record<string, readonly number[]>>;

const WINDOW = 128;

/** Measures a model on every task of a scoring. */
export async function score(module: WebAssembly.Module, scoring: Scoring): Promise<Scores> {
  return scoring.kind === "vit" ? scoreVit(module, scoring) : scoreLlama(module, scoring);
}

async function scoreVit(module: WebAssembly.Module, { model, suite, tasks, samples }: Scoring): Promise<Scores> {
  const vit = createVit(module, await readWeights(model));
  const scores: Record<string, readonly number[]> = {};
  for (const task of tasks) {
    const data = await readTensorFile(join(suite, "data"), `${task}.safetensors`);
    const head = (await readTensorFile(join(suite, "heads"), `${task}.safetensors`)).get("weight");
    const [images, labels] = [data.get("images"), data.get("labels")];
    if (head === undefined || images === undefined || labels === undefined) throw new Error(`${task} is not whole`);
    const count = Math.min(samples, labels.bytes.length);
    const features = vit.features(images.bytes, count);
    const [classes = 0] = head.shape;
    const weight = valuesOf(head);
    scores[task] = Array.from({ length: count }, (_, image) => {
      const feature = features.subarray(image * vit.width, (image + 1) * vit.width);
      return bestClass(feature, weight, classes) === labels.bytes[image] ? 100 : 0;
    });
  }
  return scores;
}

function bestClass(feature: Float32Array, weight: Float32Array, classes: number): number {
  let [best, most] = [-1, Number.NEGATIVE_INFINITY];
  for (let row = 0; row < classes; row++) {
    let sum = 0;
    for (let i = 0; i < feature.length; i++) sum += (weight[row * feature.length + i] ?? 0) * (feature[i] ?? 0);
    if (sum > most) [best, most] = [row, sum];
  }
  return best;
}

async function scoreLlama(module: WebAssembly.Module, { model, suite, tasks, samples }: Scoring): Promise<Scores> {
  const llama = createLlama(module, await readWeights(model));
  const scores: Record<string, readonly number[]> = {};
  for (const task of tasks) {
    const text = (await readTensorFile(join(suite, "data"), `${task}.safetensors`)).get("text");
    if (text === undefined) throw new Error(`${task} has no text`);
    const windows = Math.min(samples, Math.floor((text.bytes.length - 1) / WINDOW));
    const own: number[] = [];
    while (own.length < windows) {
      const taken = Math.min(llama.sequencesMax(WINDOW), windows - own.length);
      const bytes = text.bytes.subarray(own.length * WINDOW, (own.length + taken) * WINDOW + 1);
      own.push(...surprise(llama.logits(bytes, taken, WINDOW), bytes, llama.vocabulary));
    }
    scores[task] = own;
  }
  return scores;
}

/** By window, the mean of -log2 p of the byte after each position. */
function surprise(logits: Float32Array, bytes: Uint8Array, vocabulary: number): readonly number[] {
  const windows = new Array<number>((bytes.length - 1) / WINDOW).fill(0);
  for (let row = 0; row < bytes.length - 1; row++) {
    const own = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
    let largest = Number.NEGATIVE_INFINITY;
    for (const logit of own) largest = Math.max(largest, logit);
    let total = 0;
    for (const logit of own) total += Math.exp(logit - largest);
    const bits = (Math.log(total) + largest - (own[bytes[row + 1] ?? 0] ?? 0)) / Math.LN2;
    const window = Math.floor(row / WINDOW);
    windows[window] = (windows[window] ?? 0) + bits / WINDOW;
  }
  return windows;
}
