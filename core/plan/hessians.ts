// Hessians of layers' inputs, as a calibration collected them: one safetensors file with the sum of x x^T for each
// matrix, [columns, columns], under the matrix's own name. Known by the file's header; read when their turn comes.
import type { TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { isFloatDtype } from "../ops/cast.ts";
import { sameShape } from "../tensor.ts";
import type { CompressedMatrix } from "./compressed-model.ts";
import type { HessianFile } from "./merge-task.ts";

/** The Hessian of a matrix. Throws QuantizeHessianInvalid: none, or one of another form. */
export function findHessian(
  { store, prefix, file, entries }: HessianFile,
  { entry: { name }, matrix: { columns } }: Pick<CompressedMatrix, "entry" | "matrix">,
): TensorEntry {
  const hessian = entries.get(name);
  if (hessian !== undefined && isFloatDtype(hessian.dtype) && sameShape(hessian.shape, [columns, columns])) {
    return hessian;
  }
  const found = hessian === undefined ? "no such tensor" : `${hessian.dtype} [${hessian.shape.join(", ")}]`;
  throw new MergeyardError("QuantizeHessianInvalid", {
    where: { store, file: `${prefix}${file}`, tensor: name },
    found,
    expected: `floats [${columns}, ${columns}]`,
    ...(hessian === undefined ? { hint: "collect the inputs of every module, or leave this one out (--ignore)" } : {}),
  });
}
