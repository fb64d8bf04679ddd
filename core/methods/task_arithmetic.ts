import { taskVectorMethod } from "./frames/task-vectors.ts";

/**
 * Task arithmetic: R = W0 + lambda * sum_i w_i (W_i - W0), the sum divided by sum_i w_i when `normalize`.
 * Source: Ilharco et al., arXiv:2212.04089; mergekit `task_arithmetic`, merge reference section 4.6.
 */
export const task_arithmetic = taskVectorMethod({
  id: "task_arithmetic",
  title: "Task Arithmetic",
  source: "Editing models with task arithmetic, arXiv:2212.04089",
  sparsifier: undefined,
  elects: false,
  normalize: false,
  rescale: false,
});
