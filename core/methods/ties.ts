import { taskVectorMethod } from "./frames/task-vectors.ts";
import { magnitude } from "./sparsify/magnitude.ts";

/**
 * TIES: the k largest magnitudes of each task vector, then election of signs and a weighted mean
 * of the values that agree.
 * Source: TIES-Merging, arXiv:2306.01708; mergekit `ties`, merge reference section 4.7.
 */
export const ties = taskVectorMethod({
  id: "ties",
  title: "TIES",
  source: "TIES-Merging, arXiv:2306.01708",
  sparsifier: magnitude,
  elects: true,
  normalize: true,
  rescale: false,
});
