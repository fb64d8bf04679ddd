// Hessians of layers' inputs, as a calibration collected them: one safetensors file with the sum of x x^T for each
// matrix, [columns, columns], under the matrix's own name. Headers only; Hessians are read when their turn comes.
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { isFloatDtype } from "../../core/ops/cast.ts";
import type { CompressedUnit } from "../../core/plan/compressed-model.ts";
import { sameShape } from "../../core/tensor.ts";
import type { Hessians } from "../../engine/parts-request.ts";
import { openCheckpointFile } from "../open-checkpoint.ts";
import type { StepDeps } from "../step.ts";

/**
 * The Hessian of every matrix. Throws QuantizeHessianInvalid for a matrix without one or with one of another form, and
 * the codes of opening a safetensors file.
 */
export async function openHessians(
  { store: uri, key }: { readonly store: string; readonly key: string },
  units: readonly CompressedUnit[],
  { openStore, signal }: StepDeps,
): Promise<Hessians> {
  const { checkpoint } = await openCheckpointFile(openStore(uri), key, signal);
  const given = new Map(checkpoint.tensors.map((entry) => [entry.name, entry]));
  const matrices = units.filter((unit) => unit.kind === "matrix");
  const entries = matrices.map(({ entry: { name }, matrix: { columns } }): [string, TensorEntry] => {
    const hessian = given.get(name);
    const expected = `floats [${columns}, ${columns}]`;
    if (hessian !== undefined && isFloatDtype(hessian.dtype) && sameShape(hessian.shape, [columns, columns])) {
      return [name, hessian];
    }
    const found = hessian === undefined ? "no such tensor" : `${hessian.dtype} [${hessian.shape.join(", ")}]`;
    throw new MergeyardError("QuantizeHessianInvalid", {
      where: { store: uri, file: key, tensor: name },
      found,
      expected,
      ...(hessian === undefined
        ? { hint: "collect the inputs of every module, or leave this one out (--ignore)" }
        : {}),
    });
  });
  return { store: uri, prefix: key.slice(0, key.lastIndexOf("/") + 1), entries: Object.fromEntries(entries) };
}
