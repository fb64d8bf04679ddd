import { taskVectorMethod } from "./frames/task-vectors.ts";
import { bernoulli } from "./sparsify/random.ts";

/**
 * DARE (linear): every element of a task vector is dropped with probability 1 - density, the rest is
 * rescaled and added.
 * Source: DARE, arXiv:2311.03099; mergekit `dare_linear`, merge reference section 4.8.
 */
export const dare_linear = taskVectorMethod({
  id: "dare_linear",
  title: "DARE (linear)",
  source: "DARE, arXiv:2311.03099",
  sparsifier: bernoulli,
  elects: false,
  normalize: false,
  rescale: true,
});
