import { taskVectorMethod } from "./frames/task-vectors.ts";
import { bernoulli } from "./sparsify/random.ts";

/**
 * DARE TIES: every element is dropped with probability 1 - density, the rest is rescaled, then signs are elected.
 * Source: DARE, arXiv:2311.03099; TIES-Merging, arXiv:2306.01708; mergekit `dare_ties`, merge reference section 4.8.
 */
export const dare_ties = taskVectorMethod({
  id: "dare_ties",
  title: "DARE TIES",
  source: "DARE, arXiv:2311.03099; TIES-Merging, arXiv:2306.01708",
  sparsifier: bernoulli,
  elects: true,
  normalize: false,
  rescale: true,
});
