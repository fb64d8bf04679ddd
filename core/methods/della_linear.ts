import { taskVectorMethod } from "./frames/task-vectors.ts";
import { rankedBernoulli } from "./sparsify/random.ts";

/**
 * DELLA (linear): elements are dropped at random, small magnitudes of a row more often than large ones, the
 * rest is rescaled and added.
 * Source: DELLA-Merging, arXiv:2406.11617; mergekit `della_linear`, merge reference section 4.9.
 */
export const della_linear = taskVectorMethod({
  id: "della_linear",
  title: "DELLA (linear)",
  source: "DELLA-Merging, arXiv:2406.11617",
  sparsifier: rankedBernoulli,
  elects: false,
  normalize: false,
  rescale: true,
});
