// The file of a prepare unit: what one round measured of the unit's tensors, a safetensors file of float64 vectors. A
// total that is a sum has one row for each tensor, in the unit's order. Written and read by steps/units/prepare.ts.
import {
  encodeSafetensorsFile,
  encodeSafetensorsHeader,
  type PlacedTensor,
  type TensorSpec,
} from "../formats/safetensors/safetensors.ts";
import { type TotalSpecs, totalOf } from "../methods/method.ts";
import type { TensorFile } from "../plan/receipt.ts";
import { digestBytes, digestTensorFile } from "./digest.ts";
import type { PartTotals } from "./totals.ts";

type TotalsLayout = {
  readonly header: Uint8Array;
  /** In file order. */
  readonly totals: readonly PlacedTensor[];
  readonly fileBytes: number;
};

/** The layout of a file with the totals of so many tensors; nothing in it depends on what was measured. */
export function layOutTotals(specs: TotalSpecs, tensorCount: number): TotalsLayout {
  const { header, tensors: totals, fileBytes } = encodeSafetensorsHeader(specsOfTotals(specs, tensorCount));
  return { header, totals, fileBytes };
}

function specsOfTotals(specs: TotalSpecs, tensorCount: number): readonly TensorSpec[] {
  return Object.entries(specs).map(([name, { kind, length }]) => {
    return { name, dtype: "F64", shape: kind === "sum" ? [tensorCount, length] : [length] };
  });
}

/** The whole file of the totals of a unit. */
export function encodeTotals(specs: TotalSpecs, { tensors, values }: PartTotals): Uint8Array {
  return encodeSafetensorsFile(specsOfTotals(specs, tensors.length), ({ name }) => totalOf(values, name));
}

/** The listing of a totals file, its digest made of those of its parts like any tensor file's. */
export function listTotals(name: string, specs: TotalSpecs, tensorCount: number, file: Uint8Array): TensorFile {
  const { header, totals } = layOutTotals(specs, tensorCount);
  const tensors = totals.map(({ name: total, dtype, shape, offset, bytes }) => {
    const start = header.length + offset;
    const digest = digestBytes(file.subarray(start, start + bytes));
    return { name: total, dtype, shape: [...shape], offset: start, bytes, digest };
  });
  const headerDigest = digestBytes(file.subarray(0, header.length));
  const digests = tensors.map(({ digest }) => digest);
  return { name, bytes: file.length, digest: digestTensorFile(headerDigest, digests), headerDigest, tensors };
}

/** The totals of a file whose digest was checked. */
export function decodeTotals(specs: TotalSpecs, tensors: readonly string[], file: Uint8Array): PartTotals {
  const { header, totals } = layOutTotals(specs, tensors.length);
  const values = totals.map(({ name, offset, bytes }) => {
    const start = header.length + offset;
    // A copy of its own: a Buffer's slice would be a view of all of its memory.
    return [name, new Float64Array(new Uint8Array(file.subarray(start, start + bytes)).buffer)] as const;
  });
  return { tensors, values: Object.fromEntries(values) };
}
