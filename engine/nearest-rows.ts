// Rows as combinations of the atoms nearest to them, many at once, in one pass over the atoms. Products of integers
// show which atoms may be near enough; those few are measured by the values themselves, in float64 sums over float32
// values. Of equally distant ones the first atoms count.
// Source: mergekit, mergekit/tokensurgeon/common_interpolation.py.
import { createDirections, type Directions, describeDirection, innerProduct } from "../core/ops/directions.ts";
import { barycentric, inverseDistances, leastSquares, normalised } from "../core/ops/linalg/interpolation.ts";
import { allocateMatrix, onHeap } from "../core/ops/linalg/matrix.ts";
import { allocatedBytes } from "../core/ops/memory.ts";
import type { ApproximateTask, Approximation, NearestMethod } from "./approximate-request.ts";
import { type AtomBlock, checkFinite, createAtomScan, integersOf, rowForm, scanBytes } from "./atom-blocks.ts";
import type { RegionDeps } from "./merge-region.ts";

/** Norms whose product is below this have the cosine that it gives. */
const NORM_PRODUCT_MIN = 1e-6;

type Task = ApproximateTask<NearestMethod>;

/** Memory of searching for `count` rows at once: that of the kernels, and besides. */
export function nearestBytes({ matrix, method: { k } }: Pick<Task, "matrix" | "method">, count: number) {
  const { width, rowBytes, depth } = rowForm(matrix);
  const own = allocatedBytes(2 * count * depth) + allocatedBytes(4 * count * width) + allocatedBytes(rowBytes);
  return { kernels: scanBytes(matrix, count) + own, heap: count * (rowBytes + k * (4 * width + 48)) };
}

/** The nearest atoms of one row, nearest first. */
type Nearest = {
  readonly row: Float32Array;
  readonly distances: number[];
  readonly atoms: number[];
  readonly values: Float32Array[];
};

/** Combinations of `method.k` atoms. Throws EngineNonFinite and what the store throws. */
export async function combineNearest(task: Task, deps: RegionDeps): Promise<Approximation> {
  const { kernels } = deps;
  const { targets, method } = task;
  const { width, dtype, rowBytes } = rowForm(task.matrix);
  const mark = kernels.mark();
  try {
    const scan = createAtomScan(task, targets.length, deps);
    const integers = integersOf(kernels.allocateBlock(2 * targets.length * scan.depth)).fill(0);
    const floats = kernels.allocateTile(targets.length * width);
    const directions = createDirections(targets.length);
    const stored = await scan.readRows(targets);
    const stage = kernels.allocateBlock(rowBytes);
    const rows = Array.from(targets, (target, index): Nearest => {
      const row = floats.values.subarray(index * width, (index + 1) * width);
      stage.bytes.set(stored.subarray(index * rowBytes, (index + 1) * rowBytes));
      checkFinite(kernels.widen(dtype, stage, 0, { address: row.byteOffset, values: row }, width), task, target);
      const own = integers.subarray(index * scan.depth, index * scan.depth + width);
      describeDirection(directions, index, row, own, kernels);
      return { row, distances: [], atoms: [], values: [] };
    });
    for await (const block of scan.blocks({ integers, directions })) {
      const search = { directions, atoms: scan.atoms, method };
      for (const [index, row] of rows.entries()) searchBlock(row, index, block, search);
    }
    const weights = rows.flatMap((row) => [...weigh(row, method)]);
    return {
      counts: new Int32Array(targets.length).fill(method.k),
      chosen: Int32Array.from(rows.flatMap(({ atoms }) => atoms)),
      weights: Float64Array.from(weights),
    };
  } finally {
    kernels.release(mark);
  }
}

type Search = { readonly directions: Directions; readonly atoms: Directions; readonly method: NearestMethod };

function searchBlock(
  row: Nearest,
  index: number,
  { first, count, products, values }: AtomBlock,
  { directions, atoms, method }: Search,
): void {
  const { k, cosine } = method;
  const norm = directions.norms[index] ?? 0;
  const scale = directions.scales[index] ?? 0;
  const error = directions.errors[index] ?? 0;
  let farthest = row.distances[k - 1] ?? Number.POSITIVE_INFINITY;
  for (let at = 0; at < count; at++) {
    const atom = first + at;
    const [other, otherError] = [atoms.norms[atom] ?? 0, atoms.errors[atom] ?? 0];
    const about = (products[index * count + at] ?? 0) * scale * (atoms.scales[atom] ?? 0);
    const most = about + error * other + (norm + error) * otherError;
    const least = cosine ? 1 - most / Math.max(norm * other, NORM_PRODUCT_MIN) : norm ** 2 + other ** 2 - 2 * most;
    if (least > farthest) continue;
    const atomValues = values(at);
    const exact = cosine
      ? 1 - innerProduct(row.row, atomValues) / Math.max(norm * other, NORM_PRODUCT_MIN)
      : squaredDistance(row.row, atomValues);
    if (exact >= farthest) continue;
    insert(row, exact, atom, atomValues, method);
    farthest = row.distances[k - 1] ?? Number.POSITIVE_INFINITY;
  }
}

/** Sum of (a[i] - b[i])^2 in order. */
function squaredDistance(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] ?? 0) - (b[i] ?? 0)) ** 2;
  return sum;
}

/** Puts an atom after those that are as near; of more than k the farthest goes, and its memory is taken. */
function insert(
  { distances, atoms, values, row }: Nearest,
  distance: number,
  atom: number,
  own: Float32Array,
  { k, weighting }: NearestMethod,
): void {
  const place = distances.findLastIndex((known) => known <= distance) + 1;
  distances.splice(place, 0, distance);
  atoms.splice(place, 0, atom);
  if (weighting !== "distance_proportional") {
    const copy = values.length === k ? values.pop() : undefined;
    values.splice(place, 0, copy ?? new Float32Array(row.length));
    values[place]?.set(own);
  }
  if (distances.length > k) [distances.length, atoms.length] = [k, k];
}

function weigh({ row, distances, values }: Nearest, { cosine, weighting }: NearestMethod): Float64Array {
  if (weighting === "distance_proportional") {
    return cosine
      ? normalised(Float64Array.from(distances, (distance) => 1 - distance))
      : inverseDistances(distances.map(Math.sqrt));
  }
  const gram = allocateMatrix(onHeap, values.length, values.length);
  for (const [i, left] of values.entries()) {
    for (const [j, right] of values.entries()) gram.values[i * values.length + j] = innerProduct(left, right);
  }
  const products = { gram, aims: Float64Array.from(values, (own) => innerProduct(own, row)) };
  return weighting === "barycentric" ? barycentric(products) : leastSquares(products);
}
