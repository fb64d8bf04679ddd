// What a quantization scheme is: a frozen object of declared properties and pure functions over rows of float32. There
// are two kinds, by what they store: one stream of blocks (GGUF), or several named parts side by side (safetensors).
// Writers of containers and the planner read the properties; none asks which scheme it is. Adding one: its object in a
// file here, a line in registry.ts, a golden case.
import assert from "node:assert/strict";
import { type Dtype, type ScaleDtype, type Shape, tensorBytes } from "../tensor.ts";
import type { FolderForm } from "./folder-form.ts";

/** What must be seen at once to quantize: one block, a whole row (one output channel), or the whole tensor. */
export type SchemeNeeds = "stream" | "row" | "tensor";

type SchemeIdentity = {
  /** As files and tools in the wild spell it, in lower case. */
  readonly id: string;
  readonly title: string;
  /** Where the layout and the algorithm come from. */
  readonly source: string;
  readonly needs: SchemeNeeds;
};

/**
 * The values that codes reach. `read` gives, for every run of values that share a scale, the least and the greatest
 * that round to the first or the last code: what lies beyond was clipped.
 */
export type CodeLimits<Width, Stored> = {
  /** Values of a run; runs do not cross rows. */
  readonly width: Width;
  read(stored: Stored, low: Float32Array, high: Float32Array): void;
};

/** Every row is a run of equal blocks, and the tensor is its rows: what GGUF files hold. */
export type BlockScheme = SchemeIdentity & {
  /** Elements of one block; a row holds whole blocks. */
  readonly blockElements: number;
  readonly blockBytes: number;
  /** ignored: an importance matrix changes nothing; else what must be seen at once when there is one. */
  readonly importance: "ignored" | SchemeNeeds;
  /**
   * Bytes of one row. `target` holds exactly the row's blocks; `importance` is one value >= 0 for each element of the
   * row (mean square of that input), left out when there is none. Order and rounding: every operation rounds to
   * float32, products are not fused, sums run from index 0, so that the bytes are those of the reference. Values must
   * be finite.
   */
  quantize(row: Float32Array, target: Uint8Array, importance?: Float32Array): void;
  /** Values of one row of blocks, each operation rounded to float32. */
  dequantize(source: Uint8Array, target: Float32Array): void;
  /** Of the blocks of a row; undefined where the scale always reaches every value of its block. */
  readonly limits: CodeLimits<number, Uint8Array> | undefined;
};

/** Bytes of a row of `count` elements; `count` is a multiple of the block. */
export function rowBytes(scheme: Pick<BlockScheme, "blockElements" | "blockBytes">, count: number): number {
  assert.ok(count % scheme.blockElements === 0, "a row holds whole blocks");
  return (count / scheme.blockElements) * scheme.blockBytes;
}

/** A matrix of weights, [rows, columns]: output channels by inputs. */
export type Matrix = { readonly rows: number; readonly columns: number; readonly dtype: ScaleDtype };

/** One tensor that a scheme stores of a matrix. */
export type Part = {
  /** What follows the module's path and a dot: `weight_packed`. */
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: Shape;
  /**
   * How the first axis goes with the matrix's rows: `slices` of it for every `rows` rows, rounded up at the end.
   * Undefined: the part belongs to the tensor as a whole (a single scale, the shape, a transposed layout).
   */
  readonly along: { readonly slices: number; readonly rows: number } | undefined;
  /** Its bytes, where the matrix's shape and dtype alone say them. */
  readonly known?: Uint8Array | undefined;
};

/**
 * Some rows of a matrix. `values` is [count, columns], row-major and finite; the bytes of parts by name are those that
 * belong to these rows, or all bytes of a part that belongs to the tensor as a whole.
 */
export type RowWindow = {
  readonly matrix: Matrix;
  /** A multiple of `rowsTogether`, as is `count` unless the window is the last one. */
  readonly first: number;
  readonly count: number;
  readonly values: Float32Array;
  readonly parts: ReadonlyMap<string, Uint8Array>;
};

/** What is known of the whole tensor before its first window is quantized. */
export type TensorFacts = {
  /** max|x| of the tensor, or of all tensors that a server fuses with it; where the scheme measures it. */
  readonly largest?: number | undefined;
  /** Sum of x x^T over the calibration inputs, [columns, columns] row-major; where the scheme takes one. */
  readonly hessian?: Float32Array | undefined;
};

/** A matrix becomes several tensors of one safetensors file: what compressed-tensors, GPTQ, AWQ and others store. */
export type PartScheme = SchemeIdentity & {
  /** What one pass over the tensor must measure before; shared by fused tensors. */
  readonly measures: "nothing" | "largest";
  /** Whether a Hessian of the inputs changes what is stored. */
  readonly hessian: "ignored" | "optional" | "required";
  /** How a folder that servers load describes it; undefined for schemes that no such folder holds. */
  readonly form: FolderForm | undefined;
  /** A row holds a whole number of these; 1 where any width fits. */
  readonly columnUnit: number;
  /** Windows begin at a multiple of this many rows. With `needs: "tensor"` there is one window of all rows. */
  rowsTogether(columns: number): number;
  /** The parts, the one with most bytes first; `columns` is a multiple of `columnUnit`. */
  parts(matrix: Matrix): readonly Part[];
  /**
   * Fills the window's parts from its values. Windows may come in any order. What `matrix.dtype` is to rounding is the
   * scheme's to say; nothing else than its arguments changes a byte.
   */
  quantize(window: RowWindow, facts: TensorFacts): void;
  /** Fills the window's values from its parts; every operation rounds to float32. */
  dequantize(window: RowWindow): void;
  /** Of a window's parts; undefined where scales always reach every value. */
  readonly limits: CodeLimits<(columns: number) => number, RowWindow> | undefined;
};

/** What reads a matrix back from its parts. */
export type StoredScheme = Pick<
  PartScheme,
  "id" | "title" | "needs" | "columnUnit" | "rowsTogether" | "parts" | "dequantize"
> &
  Partial<Pick<PartScheme, "form">>;

/** Where the bytes of rows [first, first + count) lie in a part. */
export function partRange(
  part: Part,
  first: number,
  count: number,
): { readonly offset: number; readonly bytes: number } {
  const [length = 1, ...inner] = part.shape;
  const sliceBytes = tensorBytes(part.dtype, inner);
  if (part.along === undefined) return { offset: 0, bytes: length * sliceBytes };
  const { slices, rows } = part.along;
  assert.ok((first * slices) % rows === 0, "a window begins where a slice does");
  const begin = (first * slices) / rows;
  const end = Math.min(length, Math.ceil(((first + count) * slices) / rows));
  return { offset: begin * sliceBytes, bytes: (end - begin) * sliceBytes };
}

/** The bytes of a part in a window. */
export function partOf({ parts }: Pick<RowWindow, "parts">, name: string): Uint8Array {
  const bytes = parts.get(name);
  assert.ok(bytes !== undefined, `a window has the part ${name}`);
  return bytes;
}
