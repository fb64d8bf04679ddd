// Measures models on several threads; results come in the order of the tasks whichever thread is faster.
import { Worker } from "node:worker_threads";
import * as z from "zod";
import type { Scores, Scoring } from "./score.ts";

const scoresSchema = z.record(z.string(), z.array(z.number()));

/** Scores of every scoring, `threads` at a time; `onDone` hears each as it ends. */
export async function scoreAll(
  module: WebAssembly.Module,
  scorings: readonly Scoring[],
  threads: number,
  onDone: (index: number) => void,
): Promise<readonly Scores[]> {
  const scores: Scores[] = scorings.map(() => ({}));
  let next = 0;
  const drain = async (): Promise<void> => {
    for (let index = next++; index < scorings.length; index = next++) {
      scores[index] = await scoreOne(module, scorings[index]);
      onDone(index);
    }
  };
  await Promise.all(Array.from({ length: threads }, drain));
  return scores;
}

function scoreOne(module: WebAssembly.Module, scoring: Scoring | undefined): Promise<Scores> {
  const worker = new Worker(new URL("thread.ts", import.meta.url), { workerData: { module, scoring } });
  return new Promise((resolve, reject) => {
    worker.once("message", (message: unknown) => resolve(scoresSchema.parse(message)));
    worker.once("error", reject);
    worker.once("exit", (code) => reject(new Error(`a thread ended with ${code} and no scores`)));
  });
}
