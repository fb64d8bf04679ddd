// Cuts a quantized file into portions, which are read, quantized and written at a time, and those into regions, which
// one thread writes from start to end. Portions depend on the tensors alone: what is measured of them is added in their
// order and is the same for any number of threads.
import { isFloatDtype } from "../core/ops/cast.ts";
import { allocatedBytes } from "../core/ops/memory.ts";
import { type Fit, fitMemory, needFit, packedBytes, rowQuantizerBytes } from "../core/plan/memory.ts";
import { BLOCK_SCHEMES } from "../core/schemes/registry.ts";
import { rowBytes } from "../core/schemes/scheme.ts";
import { elementBytes, elementCount } from "../core/tensor.ts";
import type { Region } from "../stores/store.ts";
import type { QuantizeRequest, QuantizeTensor } from "./quantize-request.ts";
import { regionBytes } from "./region-size.ts";

/** Elements of a portion, unless one head of attention has more: 1 MiB of BF16. Higher: more memory, no less work. */
const PORTION_ELEMENTS = 1 << 19;

/** How a tensor is cut: rows of `columns`, whole heads of `headRows` at a time. */
export type PortionShape = {
  readonly columns: number;
  readonly rows: number;
  readonly headRows: number;
  readonly portionRows: number;
};

export type Portion = {
  /** Index of the tensor in the request. */
  readonly tensor: number;
  readonly firstRow: number;
  readonly rows: number;
  /** Zeros after it, up to the next tensor or the end of the file. */
  readonly paddingBytes: number;
};

export type PortionRegion = Region & { readonly portions: readonly Portion[] };

/** Rows of a tensor, and how many of them are a portion. A bias whose values move is a column. */
export function shapePortions({ source, permutedHeads }: QuantizeTensor): PortionShape {
  const { shape } = source;
  const columns = permutedHeads !== undefined && shape.length === 1 ? 1 : (shape.at(-1) ?? 1);
  const rows = elementCount(shape) / columns;
  const headRows = permutedHeads === undefined ? 1 : rows / permutedHeads;
  const heads = Math.max(1, Math.floor(PORTION_ELEMENTS / (headRows * columns)));
  return { columns, rows, headRows, portionRows: Math.min(rows, headRows * heads) };
}

/** Regions of the file in order; they cover it exactly, the first one with the header. */
export function cutPortions({ tensors, header, fileBytes, threads }: QuantizeRequest): readonly PortionRegion[] {
  const target = regionBytes(fileBytes, threads);
  const regions: PortionRegion[] = [];
  let [offset, bytes, portions]: [number, number, Portion[]] = [0, header.byteLength, []];
  const close = (): void => {
    regions.push({ offset, bytes, portions });
    [offset, bytes, portions] = [offset + bytes, 0, []];
  };
  for (const [index, tensor] of tensors.entries()) {
    const { columns, rows, portionRows } = shapePortions(tensor);
    const bytesPerRow = rowBytes(BLOCK_SCHEMES[tensor.scheme], columns);
    const next = tensors[index + 1]?.offset ?? fileBytes;
    for (let firstRow = 0; firstRow < rows; firstRow += portionRows) {
      const taken = Math.min(portionRows, rows - firstRow);
      const paddingBytes = firstRow + taken === rows ? next - tensor.offset - tensor.bytes : 0;
      portions.push({ tensor: index, firstRow, rows: taken, paddingBytes });
      bytes += taken * bytesPerRow + paddingBytes;
      if (bytes >= target) close();
    }
  }
  if (bytes > 0) close();
  return regions;
}

/** Threads for the request within its memory. Throws EngineMemoryTooSmall when one does not fit. */
export function fitPortions(request: QuantizeRequest, threads: number): Fit {
  const threadBytes = request.tensors.reduce((most, tensor) => Math.max(most, portionBytes(tensor)), 0);
  const fit = fitMemory(() => threadBytes, { threads, memoryBytes: request.memoryBytes });
  return needFit(fit, request.memoryBytes, { file: request.target.key });
}

/** Kernel memory for one tensor: two portions as stored, one quantized, one row of values, and the quantizer's. */
function portionBytes(tensor: QuantizeTensor): number {
  const { columns, portionRows } = shapePortions(tensor);
  const { dtype, packing } = tensor.source;
  const stored = isFloatDtype(dtype) ? elementBytes(dtype, portionRows * columns) : 0;
  const quantized = portionRows * rowBytes(BLOCK_SCHEMES[tensor.scheme], columns);
  const values = allocatedBytes(4 * columns);
  const quantizer = rowQuantizerBytes(tensor.scheme, columns, tensor.importance?.length ?? 0);
  return (
    2 * allocatedBytes(stored) +
    allocatedBytes(quantized) +
    values +
    quantizer +
    packedBytes({ packing, shape: tensor.source.shape })
  );
}
