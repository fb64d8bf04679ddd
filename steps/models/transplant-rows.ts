// A matrix with a row for each token, written for another vocabulary: rows of the base where it has the token, the mean
// of its rows, and combinations of its rows, a window of rows at a time. For every window the base's matrix is read
// once.
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { floatDtype, scalarCast } from "../../core/ops/cast.ts";
import { elementBytes, elementCount } from "../../core/tensor.ts";
import { type Combinations, FIRST_TARGET, MEAN_ROW } from "../../core/transplant/row-plan.ts";
import { createEntryReader } from "../../engine/stored-reader.ts";
import { type ReadableModel, roundValues } from "./whole-tensors.ts";

export type RowWork = {
  readonly model: ReadableModel;
  /** [rows, ...], of floats. */
  readonly matrix: TensorEntry;
  /** As `RowPlan` has them, of core/transplant/row-plan.ts. */
  readonly rows: Int32Array;
  /** Undefined where targets are zeros. */
  readonly combinations: Combinations | "mean" | undefined;
  /** Ids of the base's tokens. */
  readonly tokens: Int32Array;
  /** Memory of the sums of a window; it decides no value. */
  readonly memoryBytes: number;
  readonly signal: AbortSignal;
};

/** Bytes of the base's matrix that are read at a time. */
const READ_BYTES = 4 * 2 ** 20;

type Rows = {
  readonly width: number;
  readonly rowBytes: number;
  readonly rows: number;
  /** `use` is called with the index of a row and its values, for those of which `isUsed` is true, in order. */
  readonly visit: (isUsed: (row: number) => boolean, use: (row: number, values: Float32Array) => void) => Promise<void>;
  readonly read: (row: number, count: number, target: Uint8Array) => Promise<void>;
};

/**
 * The stored bytes of the new matrix, in pieces; a combination is a float64 sum in ascending order of the base's rows,
 * rounded to float32 and to the dtype. Throws EngineNonFinite and what the store throws.
 */
export async function* transplantedRows(work: RowWork): AsyncGenerator<Uint8Array> {
  const { rows, combinations, memoryBytes } = work;
  const source = openRows(work);
  const { width, rowBytes } = source;
  const needsMean = rows.includes(MEAN_ROW) || (combinations === "mean" && rows.some((row) => row <= FIRST_TARGET));
  const mean = needsMean ? await meanOfRows(source, work) : undefined;
  const windowRows = Math.max(1, Math.floor(memoryBytes / (8 * width + rowBytes)));
  for (let first = 0; first < rows.length; first += windowRows) {
    const own = rows.subarray(first, first + windowRows);
    const window = new Uint8Array(own.length * rowBytes);
    await copyRows(source, own, window);
    if (typeof combinations === "object") await combineRows(source, work, combinations, own, window);
    for (const [index, row] of own.entries()) {
      if (mean === undefined || row >= 0 || (row !== MEAN_ROW && combinations !== "mean")) continue;
      window.set(mean, index * rowBytes);
    }
    yield window;
  }
}

function openRows({ model, matrix, signal }: RowWork): Rows {
  const rows = matrix.shape[0] ?? 0;
  const width = elementCount(matrix.shape.slice(1));
  const dtype = floatDtype(matrix.dtype);
  const rowBytes = elementBytes(dtype, width);
  const readElements = createEntryReader(matrix, model, signal);
  const read: Rows["read"] = (row, count, target) => readElements(row * width, count * width, target);
  const visit: Rows["visit"] = async (isUsed, use) => {
    const together = Math.max(1, Math.floor(READ_BYTES / rowBytes));
    const bytes = new Uint8Array(together * rowBytes);
    const values = new Float32Array(width);
    for (let first = 0; first < rows; first += together) {
      signal.throwIfAborted();
      const used = Array.from({ length: Math.min(together, rows - first) }, (_, at) => first + at).filter(isUsed);
      const [from, last] = [used[0], used.at(-1)];
      if (from === undefined || last === undefined) continue;
      await read(from, last - from + 1, bytes.subarray(0, (last - from + 1) * rowBytes));
      for (const row of used) {
        const offset = (row - from) * rowBytes;
        const bad = scalarCast.widen(dtype, { address: 0, bytes }, offset, { address: 0, values }, width);
        if (bad > 0) throw nonFinite(model.store.uri, matrix.name, bad, row);
        use(row, values);
      }
    }
  };
  return { width, rowBytes, rows, visit, read };
}

function nonFinite(store: string, tensor: string, bad: number, row: number): MergeyardError {
  const found = `${bad} values in row ${row}`;
  return new MergeyardError("EngineNonFinite", { where: { store, tensor }, found, expected: "finite numbers only" });
}

/** The stored bytes of the mean of the rows of tokens: a float64 sum in their order. */
async function meanOfRows({ visit, width }: Rows, { matrix, tokens }: RowWork): Promise<Uint8Array> {
  const isToken = new Set(tokens);
  const sums = new Float64Array(width);
  await visit(
    (row) => isToken.has(row),
    (_, values) => addScaled(sums, 0, values, 1),
  );
  return roundValues(
    sums.map((sum) => sum / isToken.size),
    floatDtype(matrix.dtype),
  );
}

/** Rows of the base as they are stored; runs of neighbours are read at once. */
async function copyRows({ read, rowBytes }: Rows, rows: Int32Array, window: Uint8Array): Promise<void> {
  for (let first = 0; first < rows.length; ) {
    const row = rows[first] ?? 0;
    let count = 1;
    while (row >= 0 && rows[first + count] === row + count) count += 1;
    if (row >= 0) await read(row, count, window.subarray(first * rowBytes, (first + count) * rowBytes));
    first += count;
  }
}

/** The combinations of a window's targets, row by row of the base. */
async function combineRows(
  { visit, width, rowBytes, rows }: Rows,
  { matrix }: RowWork,
  combinations: Combinations,
  window: Int32Array,
  bytes: Uint8Array,
): Promise<void> {
  const targets = [...window.keys()].filter((index) => (window[index] ?? 0) <= FIRST_TARGET);
  const uses = groupByRow(
    combinations,
    targets.map((index) => FIRST_TARGET - (window[index] ?? 0)),
    rows,
  );
  const sums = new Float64Array(targets.length * width);
  await visit(
    (row) => (uses.starts[row + 1] ?? 0) > (uses.starts[row] ?? 0),
    (row, values) => {
      for (let use = uses.starts[row] ?? 0; use < (uses.starts[row + 1] ?? 0); use++) {
        addScaled(sums, (uses.places[use] ?? 0) * width, values, uses.weights[use] ?? 0);
      }
    },
  );
  for (const [place, index] of targets.entries()) {
    const values = sums.subarray(place * width, (place + 1) * width);
    bytes.set(roundValues(values, floatDtype(matrix.dtype)), index * rowBytes);
  }
}

/** By row of the base, which of the targets take it (`places` in the list of them), and how much. */
function groupByRow({ starts: from, rows, weights }: Combinations, targets: readonly number[], rowCount: number) {
  const starts = new Int32Array(rowCount + 1);
  const eachEntry = (use: (row: number, place: number, entry: number) => void): void => {
    for (const [place, target] of targets.entries()) {
      for (let entry = from[target] ?? 0; entry < (from[target + 1] ?? 0); entry++) use(rows[entry] ?? 0, place, entry);
    }
  };
  eachEntry((row) => increment(starts, row + 1, 1));
  for (let row = 0; row < rowCount; row++) increment(starts, row + 1, starts[row] ?? 0);
  const next = starts.slice();
  const total = starts[rowCount] ?? 0;
  const grouped = { starts, places: new Int32Array(total), weights: new Float64Array(total) };
  eachEntry((row, place, entry) => {
    const at = next[row] ?? 0;
    grouped.places[at] = place;
    grouped.weights[at] = weights[entry] ?? 0;
    increment(next, row, 1);
  });
  return grouped;
}

function increment(counts: Int32Array, index: number, by: number): void {
  counts[index] = (counts[index] ?? 0) + by;
}

/** target[offset + i] += factor values[i]. */
function addScaled(target: Float64Array, offset: number, values: Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) target[offset + i] = (target[offset + i] ?? 0) + factor * (values[i] ?? 0);
}
