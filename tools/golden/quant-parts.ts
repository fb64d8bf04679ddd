// Golden cases of schemes that store parts: a matrix through the scheme must give the reference's bytes, part by part,
// and so must a window of rows at a time.
import { createHash } from "node:crypto";
import * as z from "zod";
import type { CompressedForm } from "../../core/schemes/compressed-form.ts";
import { compressedScheme } from "../../core/schemes/compressed-scheme.ts";
import { allocateParts, quantizeMatrix, windowOf } from "../../core/schemes/part-matrix.ts";
import { largestOf } from "../../core/schemes/rounding.ts";
import type { Matrix, PartScheme } from "../../core/schemes/scheme.ts";
import { sameShape } from "../../core/tensor.ts";
import { failed, PASSED, skipped, type Verdict } from "./case.ts";
import { type Tensor, valuesOf } from "./tensors.ts";

const parametersSchema = z.object({
  num_bits: z.int(),
  type: z.enum(["int", "float"]),
  strategy: z.enum(["tensor", "channel", "group", "block", "tensor_group"]),
  group_size: z.int().nullish(),
  block_structure: z.tuple([z.int(), z.int()]).nullish(),
  symmetric: z.boolean(),
  arithmetic: z.literal("bfloat16").optional(),
});

const formatSchema = z.enum([
  "pack-quantized",
  "int-quantized",
  "float-quantized",
  "nvfp4-pack-quantized",
  "mxfp4-pack-quantized",
]);

/** What a case expects of one stored tensor. */
export type ExpectedPart = { readonly dtype: string; readonly shape: readonly number[]; readonly sha256: string };

/** A case of compressed-tensors; undefined when the scheme's name is of another kind. */
export function runCompressed(
  name: string,
  parametersValue: unknown,
  inputNames: readonly string[],
  inputs: ReadonlyMap<string, Tensor>,
  expected: ReadonlyMap<string, ExpectedPart>,
): Verdict | undefined {
  const format = formatSchema.safeParse(name).data;
  if (format === undefined) return undefined;
  const parameters = parametersSchema.parse(parametersValue);
  const form: CompressedForm = {
    container: "compressed-tensors",
    format,
    bits: parameters.num_bits,
    type: parameters.type,
    symmetric: parameters.symmetric,
    strategy: parameters.strategy,
    group: parameters.group_size ?? undefined,
    block: parameters.block_structure ?? undefined,
    activations: "none",
  };
  const scheme = compressedScheme(form);
  if (scheme === undefined) return skipped(`${name} of ${JSON.stringify(parameters)}`);
  const dtype = parameters.arithmetic === undefined ? "F32" : "BF16";
  for (const input of inputNames) {
    const why = compareMatrix(scheme, dtype, inputs.get(input), input.replace(/^w\./, ""), expected);
    if (why !== undefined) return failed(`${input}: ${why}`);
  }
  return PASSED;
}

function compareMatrix(
  scheme: PartScheme,
  dtype: Matrix["dtype"],
  input: Tensor | undefined,
  name: string,
  expected: ReadonlyMap<string, ExpectedPart>,
): string | undefined {
  if (input === undefined) return "no such input";
  const [values, [rows = 0, columns = 0]] = [valuesOf(input), input.shape];
  const matrix = { rows, columns, dtype };
  const facts = { largest: largestOf(values, 0, values.length) };
  const whole = quantizeMatrix(scheme, matrix, values, facts);
  const parts = scheme.parts(matrix);
  const pieces = allocateParts(parts);
  const step = scheme.rowsTogether(columns);
  for (let first = 0; first < rows; first += step) {
    const end = Math.min(rows, first + step);
    scheme.quantize(windowOf(matrix, parts, pieces, first, values.subarray(first * columns, end * columns)), facts);
  }
  let compared = 0;
  for (const part of parts) {
    const [got, golden] = [whole.get(part.name), expected.get(`${name}.${part.name}`)];
    const piecewise = pieces.get(part.name);
    if (got === undefined || piecewise === undefined) return `no part ${part.name}`;
    if (Buffer.compare(got, piecewise) !== 0) return `${part.name} differs by windows`;
    if (golden === undefined) continue;
    compared++;
    if (golden.dtype !== part.dtype || !sameShape(golden.shape, part.shape)) {
      return `${part.name} is ${part.dtype} [${part.shape}], expected ${golden.dtype} [${golden.shape}]`;
    }
    if (createHash("sha256").update(got).digest("hex") !== golden.sha256) return `the bytes of ${part.name} differ`;
  }
  return compared > 0 ? undefined : "nothing to compare with";
}
