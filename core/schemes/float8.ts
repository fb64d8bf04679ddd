// 8-bit floats under a scale for a channel, a block or a tensor, as compressed-tensors stores them ("float-quantized").
// Source: compressed-tensors; quantization reference section 4.
import { viewOf } from "../data-view.ts";
import type { Dtype } from "../tensor.ts";
import type { CompressedForm } from "./compressed-form.ts";
import { createRun, largestOf, ROUNDINGS, type Rounding } from "./rounding.ts";
import { type Part, type PartScheme, partOf, type RowWindow } from "./scheme.ts";
import { E4M3, encodeSaturated, type SmallFloat } from "./small-floats.ts";

export type Float8Form = {
  readonly id: string;
  readonly title: string;
  readonly format: SmallFloat;
  /** Of the codes: safetensors has no name for every format. */
  readonly dtype: Dtype;
  /** What shares a scale: a channel, the tensor, or blocks of [rows, columns], which may be cut at the edges. */
  readonly scales: "row" | "tensor" | readonly [number, number];
  readonly activations: CompressedForm["activations"];
};

/**
 * scale = max|x| / largest value of the format; code nearest to x / scale, ties to even; x ~ code scale. Scale and
 * quotient round to the weights' dtype. All zeros have the scale epsilon.
 */
export function float8(form: Float8Form): PartScheme {
  const { id, title, format, scales } = form;
  const isTensor = scales === "tensor";
  return Object.freeze({
    id,
    title,
    source: "compressed-tensors; FP8 formats, arXiv:2209.05433",
    needs: isTensor ? "tensor" : "row",
    measures: isTensor ? "largest" : "nothing",
    hessian: "ignored",
    form: describe(form),
    columnUnit: 1,
    rowsTogether: () => blockOf(form, 1).rows,
    parts: (matrix) => listParts(form, matrix),
    quantize(window, { largest }) {
      const rounding = ROUNDINGS[window.matrix.dtype];
      const codes = partOf(window, "weight");
      const target = viewOf(partOf(window, "weight_scale"));
      const run = createRun(window.matrix.columns);
      const quotients = run.values;
      forEachBlock(form, window, (block, at) => {
        const scale = scaleOf(rounding, format, isTensor ? (largest ?? 0) : largestIn(window, block));
        rounding.write(target, at, scale);
        forEachRun(window, block, (first, count) => {
          for (let i = 0; i < count; i++) quotients[i] = (window.values[first + i] ?? 0) / scale;
          rounding.roundRun(run, count);
          for (let i = 0; i < count; i++) codes[first + i] = encodeSaturated(format, quotients[i] ?? 0);
        });
      });
    },
    dequantize(window) {
      const rounding = ROUNDINGS[window.matrix.dtype];
      const codes = partOf(window, "weight");
      const source = viewOf(partOf(window, "weight_scale"));
      forEachBlock(form, window, (block, at) => {
        const scale = rounding.read(source, at);
        forEachRun(window, block, (first, count) => {
          for (let i = first; i < first + count; i++) {
            window.values[i] = Math.fround((format.values[codes[i] ?? 0] ?? 0) * scale);
          }
        });
      });
    },
    limits: undefined,
  } satisfies PartScheme);
}

/** Servers know E4M3 only. */
function describe({ format, scales, activations }: Float8Form): CompressedForm | undefined {
  if (format !== E4M3) return undefined;
  const isBlock = scales !== "row" && scales !== "tensor";
  return Object.freeze({
    container: "compressed-tensors",
    format: "float-quantized",
    bits: 8,
    type: "float",
    symmetric: true,
    strategy: isBlock ? "block" : scales === "row" ? "channel" : "tensor",
    group: undefined,
    block: isBlock ? scales : undefined,
    activations,
  });
}

function blockOf({ scales }: Float8Form, columns: number): { readonly rows: number; readonly columns: number } {
  if (scales === "row" || scales === "tensor") return { rows: 1, columns };
  return { rows: scales[0], columns: scales[1] };
}

function listParts(form: Float8Form, { rows, columns, dtype }: RowWindow["matrix"]): readonly Part[] {
  const block = blockOf(form, columns);
  const shape = [Math.ceil(rows / block.rows), Math.ceil(columns / block.columns)];
  return [
    { name: "weight", dtype: form.dtype, shape: [rows, columns], along: { slices: 1, rows: 1 } },
    form.scales === "tensor"
      ? { name: "weight_scale", dtype, shape: [1], along: undefined }
      : { name: "weight_scale", dtype, shape, along: { slices: 1, rows: block.rows } },
  ];
}

function scaleOf({ round, epsilon }: Rounding, { largest }: SmallFloat, size: number): number {
  const scale = round(size / largest);
  return scale === 0 ? epsilon : scale;
}

type Block = { readonly row: number; readonly rows: number; readonly column: number; readonly columns: number };

/** Every block of a window, with the place of its scale in the window's part. */
function forEachBlock(form: Float8Form, window: RowWindow, visit: (block: Block, at: number) => void): void {
  const { columns } = window.matrix;
  const size = blockOf(form, columns);
  let at = 0;
  for (let row = 0; row < window.count; row += size.rows) {
    for (let column = 0; column < columns; column += size.columns) {
      const rows = Math.min(size.rows, window.count - row);
      visit(
        { row, rows, column, columns: Math.min(size.columns, columns - column) },
        form.scales === "tensor" ? 0 : at,
      );
      at++;
    }
  }
}

/** The contiguous runs of values of a block. */
function forEachRun({ matrix }: RowWindow, block: Block, visit: (first: number, count: number) => void): void {
  for (let row = block.row; row < block.row + block.rows; row++) {
    visit(row * matrix.columns + block.column, block.columns);
  }
}

function largestIn(window: RowWindow, block: Block): number {
  let largest = 0;
  forEachRun(window, block, (first, count) => {
    largest = Math.max(largest, largestOf(window.values, first, count));
  });
  return largest;
}
