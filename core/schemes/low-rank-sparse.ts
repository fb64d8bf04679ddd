// Low rank and sparse: a matrix as the product of two thin ones and, for each row, the few entries that the product
// misses most. Written for this program's own reader; servers need the matrix put together again.
// Source: LoSparse, arXiv:2306.11222, without its training; range finder of Halko, Martinsson and Tropp,
// arXiv:0909.4061; quantization reference section 14.
import { viewOf } from "../data-view.ts";
import { streamKey, uniformAt } from "../random.ts";
import { ROUNDINGS } from "./rounding.ts";
import { type Matrix, type PartScheme, partOf } from "./scheme.ts";

/** The rank, as a share of the smaller side, and the entries that each row keeps, as a share of its columns. */
const RANK_SHARE = 1 / 8;
const KEPT_SHARE = 1 / 32;
/** Directions beyond the rank, and power steps, of the range finder. */
const OVERSAMPLED = 8;
const POWER_STEPS = 2;
/** Rounds of fitting the product to what the kept entries leave, and the entries to what the product leaves. */
const ROUNDS = 3;

const START = streamKey(0, "low rank and sparse");

function rankOf({ rows, columns }: Matrix): number {
  return Math.max(1, Math.floor(Math.min(rows, columns) * RANK_SHARE));
}

function keptOf({ columns }: Matrix): number {
  return Math.max(1, Math.floor(columns * KEPT_SHARE));
}

/** [rows, columns], row-major, in float64. */
type Dense = { readonly rows: number; readonly columns: number; readonly values: Float64Array };

function dense(rows: number, columns: number): Dense {
  return { rows, columns, values: new Float64Array(rows * columns) };
}

/** a b, or with `transposed` a^T b. */
function multiply(a: Dense, b: Dense, transposed = false): Dense {
  const [rows, inner] = transposed ? [a.columns, a.rows] : [a.rows, a.columns];
  const product = dense(rows, b.columns);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < inner; k++) {
      const factor = a.values[transposed ? k * a.columns + i : i * a.columns + k] ?? 0;
      if (factor === 0) continue;
      for (let j = 0; j < b.columns; j++) {
        const at = i * b.columns + j;
        product.values[at] = (product.values[at] ?? 0) + factor * (b.values[k * b.columns + j] ?? 0);
      }
    }
  }
  return product;
}

/** Makes the columns orthonormal, one after the other, twice against rounding; dependent ones become zero. */
function orthonormalise({ rows, columns, values }: Dense): void {
  const dot = (a: number, b: number) => {
    let sum = 0;
    for (let i = 0; i < rows; i++) sum += (values[i * columns + a] ?? 0) * (values[i * columns + b] ?? 0);
    return sum;
  };
  for (let column = 0; column < columns; column++) {
    const before = Math.sqrt(dot(column, column));
    for (let pass = 0; pass < 2; pass++) {
      for (let other = 0; other < column; other++) {
        const share = dot(column, other);
        for (let i = 0; i < rows; i++) {
          const at = i * columns + column;
          values[at] = (values[at] ?? 0) - share * (values[i * columns + other] ?? 0);
        }
      }
    }
    const norm = Math.sqrt(dot(column, column));
    const scale = norm > 1e-12 * before ? 1 / norm : 0;
    for (let i = 0; i < rows; i++) values[i * columns + column] = (values[i * columns + column] ?? 0) * scale;
  }
}

/** Orthonormal columns that span where the matrix is largest, found from a fixed start. */
function findRange(matrix: Dense, width: number): Dense {
  const start = dense(matrix.columns, width);
  // The same for every matrix, so that the same weights give the same factors.
  for (let i = 0; i < start.values.length; i++) start.values[i] = uniformAt(START, i) - 0.5;
  let range = multiply(matrix, start);
  orthonormalise(range);
  for (let step = 0; step < POWER_STEPS; step++) {
    const back = multiply(matrix, range, true);
    orthonormalise(back);
    range = multiply(matrix, back);
    orthonormalise(range);
  }
  return range;
}

/** Eigenvectors of a symmetric matrix, as columns, the largest eigenvalue first. Jacobi's rotations. */
function eigenvectors({ rows: size, values }: Dense): Dense {
  const a = values.slice();
  const vectors = dense(size, size);
  for (let i = 0; i < size; i++) vectors.values[i * size + i] = 1;
  const rotate = (target: Float64Array, p: number, q: number, c: number, s: number): void => {
    const [x, y] = [target[p] ?? 0, target[q] ?? 0];
    target[p] = c * x - s * y;
    target[q] = s * x + c * y;
  };
  for (let sweep = 0; sweep < 30; sweep++) {
    let [off, on] = [0, 0];
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        if (i === j) on += (a[i * size + j] ?? 0) ** 2;
        else off += (a[i * size + j] ?? 0) ** 2;
      }
    }
    if (off <= 1e-24 * on) break;
    for (let p = 0; p < size; p++) {
      for (let q = p + 1; q < size; q++) {
        const between = a[p * size + q] ?? 0;
        if (between === 0) continue;
        const theta = ((a[q * size + q] ?? 0) - (a[p * size + p] ?? 0)) / (2 * between);
        const tangent = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(tangent * tangent + 1);
        const s = tangent * c;
        for (let i = 0; i < size; i++) rotate(a, i * size + p, i * size + q, c, s);
        for (let i = 0; i < size; i++) rotate(a, p * size + i, q * size + i, c, s);
        for (let i = 0; i < size; i++) rotate(vectors.values, i * size + p, i * size + q, c, s);
      }
    }
  }
  const order = Array.from({ length: size }, (_, i) => i);
  order.sort((x, y) => (a[y * size + y] ?? 0) - (a[x * size + x] ?? 0));
  const sorted = dense(size, size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) sorted.values[i * size + j] = vectors.values[i * size + (order[j] ?? 0)] ?? 0;
  }
  return sorted;
}

/** The leading columns of a matrix. */
function leading({ rows, columns, values }: Dense, count: number): Dense {
  const taken = dense(rows, count);
  for (let i = 0; i < rows; i++) {
    taken.values.set(values.subarray(i * columns, i * columns + count), i * count);
  }
  return taken;
}

/** U [rows, rank] and V [rank, columns] whose product is close to the matrix. */
function factor(matrix: Dense, rank: number): { readonly u: Dense; readonly v: Dense } {
  const width = Math.min(rank + OVERSAMPLED, matrix.rows, matrix.columns);
  const range = findRange(matrix, width);
  const inner = multiply(range, matrix, true);
  const transposed = dense(inner.columns, inner.rows);
  for (let i = 0; i < inner.rows; i++) {
    for (let j = 0; j < inner.columns; j++) {
      transposed.values[j * inner.rows + i] = inner.values[i * inner.columns + j] ?? 0;
    }
  }
  const chosen = leading(eigenvectors(multiply(inner, transposed)), rank);
  return { u: multiply(range, chosen), v: multiply(chosen, inner, true) };
}

function rounded({ rows, columns, values }: Dense, round: (value: number) => number): Dense {
  return { rows, columns, values: values.map(round) };
}

/** Columns of the entries of a row that are largest; of equals, the earlier; in ascending order. */
function largestColumns(row: Float64Array, count: number): Uint32Array {
  const columns = Uint32Array.from(row, (_, i) => i);
  columns.sort((a, b) => Math.abs(row[b] ?? 0) - Math.abs(row[a] ?? 0) || a - b);
  return columns.slice(0, count).sort();
}

/** x ~ U V + S. U, V and the kept entries have the weights' dtype; S keeps as many entries in every row. */
export const lowRankSparse = Object.freeze({
  id: "low_rank_sparse",
  title: "rank an eighth of the smaller side, and the largest 1/32 of each row of the rest",
  source: "LoSparse, arXiv:2306.11222, without training",
  needs: "tensor",
  measures: "nothing",
  hessian: "ignored",
  form: undefined,
  columnUnit: 1,
  rowsTogether: () => 1,
  parts(matrix) {
    const { rows, columns, dtype } = matrix;
    const [rank, kept] = [rankOf(matrix), keptOf(matrix)];
    const along = { slices: 1, rows: 1 };
    return [
      { name: "weight_u", dtype, shape: [rows, rank], along },
      { name: "weight_v", dtype, shape: [rank, columns], along: undefined },
      { name: "weight_sparse", dtype, shape: [rows, kept], along },
      { name: "weight_sparse_columns", dtype: "I32", shape: [rows, kept], along },
    ];
  },
  quantize(window) {
    const { matrix, values } = window;
    const { rows, columns } = matrix;
    const { round, write } = ROUNDINGS[matrix.dtype];
    const [rank, kept] = [rankOf(matrix), keptOf(matrix)];
    const rest = { rows, columns, values: Float64Array.from(values) };
    const places = new Uint32Array(rows * kept);
    let factors = factor(rest, rank);
    for (let turn = 0; turn < ROUNDS; turn++) {
      if (turn > 0) factors = factor(rest, rank);
      factors = { u: rounded(factors.u, round), v: rounded(factors.v, round) };
      const product = multiply(factors.u, factors.v);
      rest.values.set(values);
      for (let row = 0; row < rows; row++) {
        const [first, end] = [row * columns, (row + 1) * columns];
        const missed = product.values.subarray(first, end).map((value, i) => (values[first + i] ?? 0) - value);
        const chosen = largestColumns(missed, kept);
        places.set(chosen, row * kept);
        // The next product need not fit what is kept beside it.
        for (const column of chosen) rest.values[first + column] = product.values[first + column] ?? 0;
      }
    }
    const product = multiply(factors.u, factors.v);
    const [u, v] = [viewOf(partOf(window, "weight_u")), viewOf(partOf(window, "weight_v"))];
    factors.u.values.forEach((value, i) => void write(u, i, value));
    factors.v.values.forEach((value, i) => void write(v, i, value));
    const [entries, index] = [viewOf(partOf(window, "weight_sparse")), viewOf(partOf(window, "weight_sparse_columns"))];
    places.forEach((column, i) => {
      const at = Math.floor(i / kept) * columns + column;
      index.setInt32(4 * i, column, true);
      write(entries, i, (values[at] ?? 0) - (product.values[at] ?? 0));
    });
  },
  dequantize(window) {
    const { matrix, count, values } = window;
    const { read } = ROUNDINGS[matrix.dtype];
    const [rank, kept] = [rankOf(matrix), keptOf(matrix)];
    const take = (name: string, rows: number, columns: number): Dense => {
      const view = viewOf(partOf(window, name));
      return { rows, columns, values: Float64Array.from({ length: rows * columns }, (_, i) => read(view, i)) };
    };
    const product = multiply(take("weight_u", count, rank), take("weight_v", rank, matrix.columns));
    const [entries, index] = [viewOf(partOf(window, "weight_sparse")), viewOf(partOf(window, "weight_sparse_columns"))];
    for (let i = 0; i < count * kept; i++) {
      const at = Math.floor(i / kept) * matrix.columns + index.getInt32(4 * i, true);
      product.values[at] = (product.values[at] ?? 0) + read(entries, i);
    }
    values.set(product.values);
  },
  limits: undefined,
} satisfies PartScheme);
