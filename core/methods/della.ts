import { taskVectorMethod } from "./frames/task-vectors.ts";
import { rankedBernoulli } from "./sparsify/random.ts";

/**
 * DELLA: elements are dropped at random, small magnitudes of a row more often than large ones, the rest is
 * rescaled, then signs are elected and averaged.
 * Source: DELLA-Merging, arXiv:2406.11617; mergekit `della`, merge reference section 4.9.
 */
export const della = taskVectorMethod({
  id: "della",
  title: "DELLA",
  source: "DELLA-Merging, arXiv:2406.11617",
  sparsifier: rankedBernoulli,
  elects: true,
  normalize: true,
  rescale: true,
});
