// One input of one tensor: its elements as they come to the method, read straight into kernel memory one window ahead
// of the arithmetic. What is stored comes from stored-reader.ts, adapters are merged in lora-reader.ts, and
// row-reader.ts puts rows into another order; here they are put together, and embeddings are cut.
import type { StoredTensor, UnitInput } from "../core/plan/schema.ts";
import { elementBytes } from "../core/tensor.ts";
import { createLoraReader } from "./lora-reader.ts";
import { createRowReader } from "./row-reader.ts";
import {
  createStoredReader,
  type ReadElements,
  type ReaderDeps,
  type StoredReader,
  subBlock,
} from "./stored-reader.ts";

/** Throws EngineInputChanged, and what the store throws; a short read is an error there, never zeros. */
export function createInputReader(input: UnitInput, deps: ReaderDeps): ReadElements {
  const own = createTensorReader(input, deps);
  const { rows, cut, shape } = input;
  const storedColumns = shape.slice(1).reduce((product, length) => product * length, 1);
  if (rows !== undefined) {
    const tensors = [own, ...rows.others.map((other) => createTensorReader(other, deps))];
    return createRowReader(rows, storedColumns, tensors, deps.kernels);
  }
  if (cut === undefined || cut.columns === storedColumns) return own.read;
  return createCutReader(own, cut.columns, storedColumns);
}

function createTensorReader(tensor: StoredTensor, deps: ReaderDeps): StoredReader {
  const { lora } = tensor;
  const own = createStoredReader(tensor, deps);
  return lora === undefined ? own : createLoraReader(own, { ...tensor, lora }, deps);
}

/** The leftmost columns of a matrix: one read a row. */
function createCutReader(matrix: StoredReader, columns: number, storedColumns: number): ReadElements {
  const unit = elementBytes(matrix.dtype, 1);
  return async (first, count, target) => {
    const reads: Promise<void>[] = [];
    for (let done = 0; done < count; ) {
      const row = Math.floor((first + done) / columns);
      const column = (first + done) % columns;
      const length = Math.min(columns - column, count - done);
      const place = subBlock(target, done * unit, length * unit);
      reads.push(matrix.read(row * storedColumns + column, length, place));
      done += length;
    }
    await Promise.all(reads);
  };
}
