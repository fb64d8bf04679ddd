// Rows of a matrix as combinations of others, by the method that the task names: the one place that tells them apart.
import type { ApproximateTask, Approximation } from "./approximate-request.ts";
import type { RegionDeps } from "./merge-region.ts";
import { combineNearest, nearestBytes } from "./nearest-rows.ts";
import { pursueRows, pursuitBytes } from "./pursue-rows.ts";

/** Throws EngineNonFinite and what the store throws. */
export function approximateRows({ method, ...task }: ApproximateTask, deps: RegionDeps): Promise<Approximation> {
  return method.id === "omp" ? pursueRows({ ...task, method }, deps) : combineNearest({ ...task, method }, deps);
}

/** Memory of working on `count` rows at once, that of the kernels and besides, and the passes over the atoms. */
export function approximationCosts({ matrix, method }: Pick<ApproximateTask, "matrix" | "method">, count: number) {
  if (method.id === "omp") return { ...pursuitBytes({ matrix, method }, count), passes: method.k };
  return { ...nearestBytes({ matrix, method }, count), passes: 1 };
}
