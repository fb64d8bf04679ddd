import { taskVectorMethod } from "./frames/task-vectors.ts";
import { outliers } from "./sparsify/magnitude.ts";

/**
 * Model Breadcrumbs with TIES: a band of magnitudes, without the smallest and without the share gamma of
 * the largest, is kept, then signs are elected.
 * Source: Model Breadcrumbs, arXiv:2312.06795; TIES-Merging, arXiv:2306.01708; mergekit `breadcrumbs_ties`, merge
 * reference section 4.10.
 */
export const breadcrumbs_ties = taskVectorMethod({
  id: "breadcrumbs_ties",
  title: "Model Breadcrumbs with TIES",
  source: "Model Breadcrumbs, arXiv:2312.06795; TIES-Merging, arXiv:2306.01708",
  sparsifier: outliers,
  elects: true,
  normalize: false,
  rescale: false,
});
