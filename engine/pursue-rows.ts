// Orthogonal matching pursuit of many rows at once: in every step each row takes the atom along which most of what is
// left of it points, and is then the best combination of all that it has taken. One pass over the atoms a step.
// Products of integers show where the largest may be; those few are computed from the values themselves, so the choice
// is that of float64 sums over float32 values, whatever the blocks. Of equal ones the first atom counts.
// Source: Pati, Rezaiifar and Krishnaprasad, Orthogonal Matching Pursuit, Asilomar 1993; its use on embeddings:
// Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit, arXiv:2506.06607. Atoms are not normalised:
// the inner product itself is compared, as the paper's code does.
import { createDirections, type Directions, describeDirection, innerProduct } from "../core/ops/directions.ts";
import type { Block, Tile } from "../core/ops/kernels.ts";
import {
  addVector,
  createNormalEquations,
  factorLength,
  type NormalEquations,
  solveNormalEquations,
} from "../core/ops/linalg/normal-equations.ts";
import { allocatedBytes } from "../core/ops/memory.ts";
import type { ApproximateTask, Approximation, PursuitMethod } from "./approximate-request.ts";
import {
  type AtomBlock,
  type AtomScan,
  checkFinite,
  createAtomScan,
  integersOf,
  rowForm,
  scanBytes,
} from "./atom-blocks.ts";
import type { RegionDeps } from "./merge-region.ts";

/** A row of which less than this is left is what its atoms make of it, as far as float32 values tell. */
const REST_FLOOR = 2 ** -20;

type Task = ApproximateTask<PursuitMethod>;

/** Memory of pursuing `count` rows at once: that of the kernels, and besides. */
export function pursuitBytes(
  { matrix, method: { k } }: Pick<Task, "matrix" | "method">,
  count: number,
): { readonly kernels: number; readonly heap: number } {
  const { width, rowBytes, depth } = rowForm(matrix);
  const work = allocatedBytes((k + 1) * rowBytes) + allocatedBytes(4 * (k + 1) * width);
  const kernels = scanBytes(matrix, count) + allocatedBytes(2 * count * depth) + work;
  return { kernels, heap: count * ((k + 1) * rowBytes + 4 * width + 8 * factorLength(k) + 24 * k) };
}

/** The rows that are pursued, as many as the task has targets. */
type Pursued = {
  readonly k: number;
  /** As they are stored. */
  readonly stored: Uint8Array;
  /** The atoms that each has taken, as they are stored: k for each row. */
  readonly taken: Uint8Array;
  /** What is left of each: in float32, and as integers. */
  readonly rests: Float32Array;
  readonly integers: Int16Array;
  readonly directions: Directions;
  readonly equations: readonly NormalEquations[];
  readonly chosen: Int32Array;
  readonly weights: Float64Array;
  /** 1 of a row that takes no more. */
  readonly done: Uint8Array;
};

type Context = {
  readonly task: Task;
  readonly deps: RegionDeps;
  readonly scan: AtomScan;
  /** Room for the atoms that a row has taken, and for it, as they are stored. */
  readonly stage: Block;
  /** The same in float32. */
  readonly work: Tile;
};

/** Combinations of at most `method.k` atoms. Throws EngineNonFinite and what the store throws. */
export async function pursueRows(task: Task, deps: RegionDeps): Promise<Approximation> {
  const { kernels } = deps;
  const { k } = task.method;
  const count = task.targets.length;
  const { width, rowBytes } = rowForm(task.matrix);
  const mark = kernels.mark();
  try {
    const scan = createAtomScan(task, count, deps);
    const rows: Pursued = {
      k,
      stored: await scan.readRows(task.targets),
      taken: new Uint8Array(count * k * rowBytes),
      rests: new Float32Array(count * width),
      integers: integersOf(kernels.allocateBlock(2 * count * scan.depth)).fill(0),
      directions: createDirections(count),
      equations: Array.from({ length: count }, () => createNormalEquations(k)),
      chosen: new Int32Array(count * k),
      weights: new Float64Array(count * k),
      done: new Uint8Array(count),
    };
    const stage = kernels.allocateBlock((k + 1) * rowBytes);
    const context = { task, deps, scan, stage, work: kernels.allocateTile((k + 1) * width) };
    const norms = Float64Array.from(task.targets, (_, row) => beginRow(rows, row, context));
    rows.done.set(norms.map((norm) => (norm > 0 ? 0 : 1)));
    for (let step = 0; step < k && rows.done.includes(0); step++) {
      const best = await findAtoms(rows, context);
      for (let row = 0; row < count; row++) {
        if (rows.done[row] === 1) continue;
        const rest = takeAtom(rows, row, best[row] ?? -1, context);
        if (!(rest > REST_FLOOR * (norms[row] ?? 0))) rows.done[row] = 1;
      }
    }
    const counts = Int32Array.from(rows.equations, (own) => own.count);
    return { counts, chosen: rows.chosen, weights: rows.weights };
  } finally {
    kernels.release(mark);
  }
}

/** Nothing is taken yet: all of the row is left. Returns its norm. */
function beginRow(rows: Pursued, row: number, context: Context): number {
  const { width } = rowForm(context.task.matrix);
  const { own } = widenTaken(rows, row, 0, context);
  rows.rests.set(own, row * width);
  return measureRest(rows, row, context);
}

/** The atom along which most of what is left of each row points; -1 where it points along none. */
async function findAtoms(rows: Pursued, context: Context): Promise<Int32Array> {
  const best = new Int32Array(rows.done.length).fill(-1);
  const most = new Float64Array(rows.done.length);
  for await (const block of context.scan.blocks(rows)) {
    for (let row = 0; row < best.length; row++) {
      if (rows.done[row] === 0) searchBlock(rows, row, block, { best, most }, context);
    }
  }
  return best;
}

/** The same among the atoms of a block. What is taken is copied, for the block's memory is used again. */
function searchBlock(
  rows: Pursued,
  row: number,
  { first, count, products, values, stored }: AtomBlock,
  { best, most }: { readonly best: Int32Array; readonly most: Float64Array },
  { task, scan }: Context,
): void {
  const { width, rowBytes } = rowForm(task.matrix);
  const { norms, scales, errors } = scan.atoms;
  const own = rows.directions;
  const [norm, scale, error] = [own.norms[row] ?? 0, own.scales[row] ?? 0, own.errors[row] ?? 0];
  const rest = rows.rests.subarray(row * width, (row + 1) * width);
  const taken = rows.equations[row]?.count ?? 0;
  const already = rows.chosen.subarray(row * rows.k, row * rows.k + taken);
  let largest = most[row] ?? 0;
  for (let at = 0; at < count; at++) {
    const atom = first + at;
    const about = Math.abs(products[row * count + at] ?? 0) * scale * (scales[atom] ?? 0);
    const slack = error * (norms[atom] ?? 0) + (norm + error) * (errors[atom] ?? 0);
    if (about + slack <= largest || already.includes(atom)) continue;
    const exact = Math.abs(innerProduct(rest, values(at)));
    if (exact <= largest) continue;
    largest = exact;
    best[row] = atom;
    rows.taken.set(stored(at), (row * rows.k + taken) * rowBytes);
  }
  most[row] = largest;
}

/** Adds an atom, whose values are the last taken ones, to a row; returns the norm of what is then left of it. */
function takeAtom(rows: Pursued, row: number, atom: number, context: Context): number {
  const equations = rows.equations[row];
  if (atom < 0 || equations === undefined) return 0;
  const { width } = rowForm(context.task.matrix);
  const last = equations.count;
  const { own, atoms } = widenTaken(rows, row, last + 1, context);
  const added = atoms[last] ?? own;
  const products = Float64Array.from(atoms, (other) => innerProduct(other, added));
  if (!addVector(equations, products, innerProduct(added, own))) return 0;
  rows.chosen[row * rows.k + last] = atom;
  const weights = rows.weights.subarray(row * rows.k, row * rows.k + equations.count);
  solveNormalEquations(equations, weights);
  const rest = new Float64Array(own);
  for (const [index, values] of atoms.entries()) subtract(rest, values, weights[index] ?? 0);
  rows.rests.set(rest, row * width);
  return measureRest(rows, row, context);
}

function subtract(target: Float64Array, values: Float32Array, factor: number): void {
  for (let i = 0; i < target.length; i++) target[i] = (target[i] ?? 0) - factor * (values[i] ?? 0);
}

/** Integers of what is left of a row; returns its norm. */
function measureRest(rows: Pursued, row: number, { task, deps, scan, work }: Context): number {
  const { width } = rowForm(task.matrix);
  const rest = work.values.subarray(0, width);
  rest.set(rows.rests.subarray(row * width, (row + 1) * width));
  const integers = rows.integers.subarray(row * scan.depth, row * scan.depth + width);
  describeDirection(rows.directions, row, rest, integers, deps.kernels);
  return rows.directions.norms[row] ?? 0;
}

/** A row and the first `count` atoms that it has taken, in float32. */
function widenTaken(rows: Pursued, row: number, count: number, { task, deps, stage, work }: Context) {
  const { width, dtype, rowBytes } = rowForm(task.matrix);
  stage.bytes.set(rows.stored.subarray(row * rowBytes, (row + 1) * rowBytes));
  const first = row * rows.k * rowBytes;
  stage.bytes.set(rows.taken.subarray(first, first + count * rowBytes), rowBytes);
  const bad = deps.kernels.widen(dtype, stage, 0, work, (count + 1) * width);
  checkFinite(bad, task, task.targets[row] ?? 0);
  const valuesOf = (index: number): Float32Array => work.values.subarray(index * width, (index + 1) * width);
  return { own: valuesOf(0), atoms: Array.from({ length: count }, (_, index) => valuesOf(index + 1)) };
}
