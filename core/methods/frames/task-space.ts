// A shared basis for task matrices: side by side they have one singular value decomposition, whose left vectors all
// tasks share.
// Source: KnOTS, arXiv:2410.19735; fusion_bench `subspace_alignment`, merge reference section 13.
import { type Allocate, firstRows, type Matrix } from "../../ops/linalg/matrix.ts";
import { type Svd, svd } from "../../ops/linalg/svd.ts";

/**
 * The decomposition of [D_1 ... D_n], without singular values at or below `eps`: with V_i the part of the right vectors
 * that belongs to task i, U S V_i is D_i.
 */
export function alignTasks(sideBySide: Matrix, eps: number, allocate: Allocate): Svd {
  const { left, values, right } = svd(sideBySide, allocate);
  const kept = values.filter((value) => value > eps).length;
  return { left: firstRows(left, kept), values: values.subarray(0, kept), right: firstRows(right, kept) };
}
