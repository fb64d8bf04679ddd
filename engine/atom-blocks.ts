// The shared rows of a matrix, the atoms, block by block as they are read, with their products with other rows as
// integers. Every search over atoms is such passes; nothing of the matrix stays in memory from one to the next but
// three numbers for each atom.
import { MergeyardError } from "../core/error.ts";
import { type FloatDtype, floatDtype } from "../core/ops/cast.ts";
import { createDirections, type Directions, describeDirection, integerFactor } from "../core/ops/directions.ts";
import { INTEGER_LANES } from "../core/ops/integer-product.ts";
import type { Block, Tile } from "../core/ops/kernels.ts";
import { allocatedBytes, subTile } from "../core/ops/memory.ts";
import { elementBytes } from "../core/tensor.ts";
import type { ApproximateTask } from "./approximate-request.ts";
import type { RegionDeps } from "./merge-region.ts";
import { createEntryReader } from "./stored-reader.ts";

/** Rows of the matrix that a block spans, shared or not. */
const BLOCK_ROWS = 256;

/** Rows that others are compared with: their integers, and how these lie to the rows. */
export type ComparedRows = { readonly integers: Int16Array; readonly directions: Directions };

/** Atoms [first, first + count) of the task. */
export type AtomBlock = {
  readonly first: number;
  readonly count: number;
  /** Atom `index` of the block, in float32 and as it is stored; valid until the next block is asked for. */
  readonly values: (index: number) => Float32Array;
  readonly stored: (index: number) => Uint8Array;
  /** [compared rows, count]: products of integers. */
  readonly products: Int32Array;
};

export type AtomScan = {
  /** Integers of a row, and the zeros that follow them. */
  readonly depth: number;
  readonly atoms: Directions;
  /** One pass; reads every block once. */
  blocks(rows: ComparedRows): AsyncGenerator<AtomBlock>;
  /** Rows of the matrix as they are stored, one after the other. */
  readRows(rows: Int32Array): Promise<Uint8Array>;
};

/** What is the same for every row of a matrix. */
export function rowForm({ dtype, shape }: ApproximateTask["matrix"]) {
  const width = shape[1] ?? 0;
  const float: FloatDtype = floatDtype(dtype);
  const depth = INTEGER_LANES * Math.ceil(width / INTEGER_LANES);
  return { width, dtype: float, rowBytes: elementBytes(dtype, width), depth };
}

/** Kernel memory of a scan that compares `count` rows: those rows' products, and blocks. */
export function scanBytes(matrix: ApproximateTask["matrix"], count: number): number {
  const { width, rowBytes, depth } = rowForm(matrix);
  const read = 2 * allocatedBytes(BLOCK_ROWS * rowBytes) + allocatedBytes(4 * BLOCK_ROWS * width);
  return read + allocatedBytes(2 * BLOCK_ROWS * depth) + allocatedBytes(4 * BLOCK_ROWS * count);
}

/** Takes `scanBytes` of the kernels' memory. */
export function createAtomScan(task: ApproximateTask, count: number, deps: RegionDeps): AtomScan {
  const { matrix, atoms, source } = task;
  const { kernels, signal, progress } = deps;
  const { width, dtype, rowBytes, depth } = rowForm(matrix);
  const read = createEntryReader(matrix, { ...source, store: deps.openStore(source.store) }, signal);
  const stages = [kernels.allocateBlock(BLOCK_ROWS * rowBytes), kernels.allocateBlock(BLOCK_ROWS * rowBytes)] as const;
  const floats = kernels.allocateTile(BLOCK_ROWS * width);
  const integers = integersOf(kernels.allocateBlock(2 * BLOCK_ROWS * depth)).fill(0);
  const sums = kernels.allocateBlock(4 * BLOCK_ROWS * count);
  const directions = createDirections(atoms.length);
  const spans = cutSpans(atoms);
  let described = false;
  const readSpan = async (index: number): Promise<void> => {
    const span = spans[index];
    if (span === undefined) return;
    await read(span.row * width, span.rows * width, stageOf(stages, index).bytes.subarray(0, span.rows * rowBytes));
    progress(span.rows * rowBytes, 0);
  };
  /** Widens an atom and makes its integers; what integers are made with is measured in the first pass alone. */
  const prepare = (at: number, atom: number, stage: Block, offset: number): void => {
    const tile: Tile = subTile(floats, at * width, width);
    checkFinite(kernels.widen(dtype, stage, offset, tile, width), task, atoms[atom] ?? 0);
    const own = integers.subarray(at * depth, at * depth + width);
    if (!described) describeDirection(directions, atom, tile.values, own, kernels);
    else kernels.roundToIntegers(own, tile.values, integerFactor(directions.norms[atom] ?? 0));
  };
  return {
    depth,
    atoms: directions,
    async *blocks(rows) {
      let ahead = readSpan(0);
      for (const [index, span] of spans.entries()) {
        await ahead;
        signal.throwIfAborted();
        ahead = readSpan(index + 1);
        ahead.catch(() => undefined); // awaited in the next turn, or dropped when the reader stops before
        const stage = stageOf(stages, index);
        const offsetOf = (at: number): number => ((atoms[span.first + at] ?? 0) - span.row) * rowBytes;
        for (let at = 0; at < span.count; at++) prepare(at, span.first + at, stage, offsetOf(at));
        const shape = { rows: count, columns: span.count, depth };
        const products = new Int32Array(sums.bytes.buffer, sums.address, count * span.count);
        kernels.integerProduct(products, rows.integers, integers, shape);
        yield {
          first: span.first,
          count: span.count,
          values: (at) => floats.values.subarray(at * width, (at + 1) * width),
          stored: (at) => stage.bytes.subarray(offsetOf(at), offsetOf(at) + rowBytes),
          products,
        };
      }
      described = true;
    },
    async readRows(wanted) {
      const bytes = new Uint8Array(wanted.length * rowBytes);
      for (const [index, row] of wanted.entries()) {
        await read(row * width, width, bytes.subarray(index * rowBytes, (index + 1) * rowBytes));
      }
      return bytes;
    },
  };
}

/** The stage that a span is read into: the other one is being read from. */
function stageOf(stages: readonly [Block, Block], index: number): Block {
  return stages[index % 2 === 0 ? 0 : 1];
}

/** Kernel memory as int16. */
export function integersOf({ bytes }: Block): Int16Array {
  return new Int16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 1);
}

/** Throws EngineNonFinite. */
export function checkFinite(bad: number, { source, matrix }: ApproximateTask, row: number): void {
  if (bad === 0) return;
  const where = { store: source.store, tensor: matrix.name };
  throw new MergeyardError("EngineNonFinite", {
    where,
    found: `${bad} values in row ${row}`,
    expected: "finite numbers",
  });
}

/** Rows [row, row + rows) of the matrix, with atoms [first, first + count) at both ends and between. */
type Span = { readonly row: number; readonly rows: number; readonly first: number; readonly count: number };

function cutSpans(atoms: Int32Array): readonly Span[] {
  const spans: Span[] = [];
  for (let first = 0; first < atoms.length; ) {
    const row = atoms[first] ?? 0;
    let end = first + 1;
    while (end < atoms.length && (atoms[end] ?? 0) < row + BLOCK_ROWS) end += 1;
    spans.push({ row, rows: (atoms[end - 1] ?? 0) - row + 1, first, count: end - first });
    first = end;
  }
  return spans;
}
