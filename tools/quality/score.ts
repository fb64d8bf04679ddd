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
  /** Folder of the samples, and for a vision transformer that of the tasks' heads beside it. */
  readonly data: string;
  readonly tasks: readonly string[];
  /** Images, or windows of 128 bytes, of each task, evenly spread over all. */
  readonly samples: number;
};

/** By task, one number a sample: 100 for a right answer and 0 for a wrong one, or a window's bits per byte. */
export type Scores = Readonly<Record<string, readonly number[]>>;

const WINDOW = 128;

/** Measures a model on every task of a scoring. */
export async function score(module: WebAssembly.Module, scoring: Scoring): Promise<Scores> {
  return scoring.kind === "vit" ? scoreVit(module, scoring) : scoreLlama(module, scoring);
}

async function scoreVit(module: WebAssembly.Module, { model, data: folder, tasks, samples }: Scoring): Promise<Scores> {
  const vit = createVit(module, await readWeights(model));
  const scores: Record<string, readonly number[]> = {};
  for (const task of tasks) {
    const data = await readTensorFile(folder, `${task}.safetensors`);
    const head = (await readTensorFile(join(folder, "../heads"), `${task}.safetensors`)).get("weight");
    const [images, labels] = [data.get("images"), data.get("labels")];
    if (head === undefined || images === undefined || labels === undefined) throw new Error(`${task} is not whole`);
    const taken = spread(labels.bytes.length, samples);
    const size = images.bytes.length / labels.bytes.length;
    const chosen = taken.map((image) => images.bytes.subarray(image * size, (image + 1) * size));
    const features = vit.features(Buffer.concat(chosen), taken.length);
    const [classes = 0] = head.shape;
    const weight = valuesOf(head);
    scores[task] = taken.map((image, index) => {
      const feature = features.subarray(index * vit.width, (index + 1) * vit.width);
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

async function scoreLlama(
  module: WebAssembly.Module,
  { model, data: folder, tasks, samples }: Scoring,
): Promise<Scores> {
  const llama = createLlama(module, await readWeights(model));
  const scores: Record<string, readonly number[]> = {};
  for (const task of tasks) {
    const text = (await readTensorFile(folder, `${task}.safetensors`)).get("text");
    if (text === undefined) throw new Error(`${task} has no text`);
    const windows = spread(Math.floor((text.bytes.length - 1) / WINDOW), samples);
    const own: number[] = [];
    while (own.length < windows.length) {
      const taken = windows.slice(own.length, own.length + llama.sequencesMax(WINDOW));
      const cut = (from: number) =>
        Buffer.concat(taken.map((window) => text.bytes.subarray(window * WINDOW + from, (window + 1) * WINDOW + from)));
      own.push(...surprise(llama.logits(cut(0), taken.length, WINDOW), cut(1), llama.vocabulary));
    }
    scores[task] = own;
  }
  return scores;
}

/** At most `count` of the places 0 to `total` - 1, evenly spread. */
function spread(total: number, count: number): readonly number[] {
  const taken = Math.min(total, count);
  return Array.from({ length: taken }, (_, index) => Math.floor((index * total) / taken));
}

/** By window, the mean of -log2 p of `next`, the byte after each position. */
function surprise(logits: Float32Array, next: Uint8Array, vocabulary: number): readonly number[] {
  const windows = new Array<number>(next.length / WINDOW).fill(0);
  for (let row = 0; row < next.length; row++) {
    const own = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
    let largest = Number.NEGATIVE_INFINITY;
    for (const logit of own) largest = Math.max(largest, logit);
    let total = 0;
    for (const logit of own) total += Math.exp(logit - largest);
    const bits = (Math.log(total) + largest - (own[next[row] ?? 0] ?? 0)) / Math.LN2;
    const window = Math.floor(row / WINDOW);
    windows[window] = (windows[window] ?? 0) + bits / WINDOW;
  }
  return windows;
}
