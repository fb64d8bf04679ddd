import { taskVectorMethod } from "./frames/task-vectors.ts";
import { outliers } from "./sparsify/magnitude.ts";

/**
 * Model Breadcrumbs: a band of magnitudes, without the smallest and without the share gamma of the largest,
 * is kept and added.
 * Source: Model Breadcrumbs, arXiv:2312.06795; mergekit `breadcrumbs`, merge reference section 4.10.
 */
export const breadcrumbs = taskVectorMethod({
  id: "breadcrumbs",
  title: "Model Breadcrumbs",
  source: "Model Breadcrumbs, arXiv:2312.06795",
  sparsifier: outliers,
  elects: false,
  normalize: false,
  rescale: false,
});
