// Goal: matching pursuit and the search for what is nearest take the atoms, and give the weights, that their
// definitions give, for any number of threads and memory. Method: random rows in a file, beside plain float64 code that
// compares all.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { type FloatDtype, scalarCast } from "../../core/ops/cast.ts";
import { elementBytes } from "../../core/tensor.ts";
import { cutBatches } from "../../engine/approximate-batches.ts";
import type { ApproximateRequest, Approximation } from "../../engine/approximate-request.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { openStore } from "../../stores/open.ts";
import { createApproximate } from "../../workers/approximate-executor.ts";
import { plainNumbers } from "../random-numbers.ts";

const folder = mkdtempSync(path.join(tmpdir(), "mergeyard-pursuit-"));
after(() => rmSync(folder, { recursive: true }));
const open = (uri: string) => openStore(uri, process.env);

type Case = { readonly rows: number; readonly width: number; readonly k: number; readonly dtype: FloatDtype };

/** A matrix in a file and the request for every third of its rows; its values as they are stored. */
async function prepare({ rows, width, k, dtype }: Case, change: (values: Float32Array) => void = () => {}) {
  const values = Float32Array.from(plainNumbers(rows * width, rows));
  change(values);
  const bytes = new Uint8Array(elementBytes(dtype, values.length));
  scalarCast.narrow(dtype, { address: 0, values }, { address: 0, bytes }, 0, values.length);
  const file = encodeSafetensorsFile([{ name: "m", dtype, shape: [rows, width] }], () => bytes);
  writeFileSync(path.join(folder, "model.safetensors"), file);
  scalarCast.widen(dtype, { address: 0, bytes }, 0, { address: 0, values }, values.length);
  const store = `file://${folder}`;
  const [matrix] = (await openCheckpoint(open(store), "")).checkpoint.tensors;
  assert.ok(matrix);
  const all = Array.from({ length: rows }, (_, row) => row);
  const request: ApproximateRequest = {
    source: { store, prefix: "" },
    matrix,
    atoms: Int32Array.from(all.filter((row) => row % 3 > 0)),
    targets: Int32Array.from(all.filter((row) => row % 3 === 0)),
    method: { id: "omp", k },
    threads: 1,
    memoryBytes: 512 * 2 ** 20,
  };
  const rowOf = (row: number) => Float64Array.from(values.subarray(row * width, (row + 1) * width));
  return { request, rowOf };
}

function run(request: ApproximateRequest): Promise<Approximation> {
  return createApproximate(open)(request, { signal: new AbortController().signal });
}

const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);

function away(a: Float64Array, q: Float64Array): Float64Array<ArrayBuffer> {
  const along = dot(a, q);
  return Float64Array.from(a, (value, i) => value - along * (q[i] ?? 0));
}

/** The atoms that a row takes, and what is left of it, by vectors that are made orthogonal one by one. */
function pursuePlainly(row: Float64Array, atoms: readonly Float64Array[], k: number) {
  const [chosen, basis]: [number[], Float64Array[]] = [[], []];
  let rest = row;
  while (chosen.length < k && Math.sqrt(dot(rest, rest)) > 2 ** -20 * Math.sqrt(dot(row, row))) {
    const scores = atoms.map((atom, index) => (chosen.includes(index) ? 0 : Math.abs(dot(atom, rest))));
    const best = scores.indexOf(Math.max(...scores));
    chosen.push(best);
    let q = atoms[best] ?? rest;
    for (const other of [...basis, ...basis]) q = away(q, other);
    q = q.map((value) => value / Math.sqrt(dot(q, q)));
    basis.push(q);
    rest = away(rest, q);
  }
  return { chosen, rest };
}

for (const own of [
  { rows: 300, width: 40, k: 9, dtype: "F32" },
  { rows: 280, width: 21, k: 30, dtype: "BF16" },
  { rows: 900, width: 64, k: 5, dtype: "F16" },
] as const) {
  test(`${own.k} atoms of ${own.width} values in ${own.dtype} are those that the definition takes`, async () => {
    const { request, rowOf } = await prepare(own);
    const { counts, chosen, weights } = await run(request);
    const atoms = [...request.atoms].map(rowOf);
    for (const [index, target] of [...request.targets].entries()) {
      if (index % 7 > 0) continue;
      const row = rowOf(target);
      const expected = pursuePlainly(row, atoms, own.k);
      const count = counts[index] ?? 0;
      const taken = [...chosen.subarray(index * own.k, index * own.k + count)];
      assert.deepEqual(taken, expected.chosen);
      const rest = taken.reduce((left, atom, at) => {
        const weight = weights[index * own.k + at] ?? 0;
        return left.map((value, i) => value - weight * (atoms[atom]?.[i] ?? 0));
      }, row);
      const apart = rest.map((value, i) => value - (expected.rest[i] ?? 0));
      assert.ok(Math.sqrt(dot(apart, apart)) < 1e-9 * Math.sqrt(dot(row, row)), `row ${target}`);
    }
  });
}

for (const [cosine, weighting] of [
  [false, "distance_proportional"],
  [true, "distance_proportional"],
  [false, "barycentric"],
  [true, "least_squares"],
] as const) {
  test(`the nearest ${cosine ? "by direction" : "by distance"}, with weights ${weighting}`, async () => {
    const k = 7;
    const { request, rowOf } = await prepare({ rows: 400, width: 24, k, dtype: "BF16" });
    const { chosen, weights, counts } = await run({
      ...request,
      method: { id: "common_interpolation", k, cosine, weighting },
    });
    const atoms = [...request.atoms].map(rowOf);
    for (const [index, target] of [...request.targets].entries()) {
      const row = rowOf(target);
      const distances = atoms.map((atom) => {
        if (cosine) return 1 - dot(row, atom) / Math.sqrt(dot(row, row) * dot(atom, atom));
        return Math.hypot(...row.map((value, i) => value - (atom[i] ?? 0)));
      });
      const order = [...distances.keys()].sort((a, b) => (distances[a] ?? 0) - (distances[b] ?? 0)).slice(0, k);
      assert.equal(counts[index], k);
      assert.deepEqual([...chosen.subarray(index * k, (index + 1) * k)], order);
      checkWeights(
        row,
        order.map((atom) => atoms[atom] ?? row),
        weights.subarray(index * k, (index + 1) * k),
        order.map((atom) => (cosine ? 1 - (distances[atom] ?? 0) : 1 / (distances[atom] ?? 1))),
        weighting,
      );
    }
  });
}

/** Proportional weights are the likeness over its sum; what is least is so where no direction leads further down. */
function checkWeights(
  row: Float64Array,
  points: readonly Float64Array[],
  weights: Float64Array,
  likeness: readonly number[],
  weighting: string,
): void {
  const near = (a: number, b: number) => assert.ok(Math.abs(a - b) < 1e-9 * Math.max(1, Math.abs(b)), `${a} ${b}`);
  const sum = weights.reduce((all, own) => all + own, 0);
  if (weighting !== "least_squares") near(sum, 1);
  const total = likeness.reduce((all, own) => all + own, 0);
  if (weighting === "distance_proportional") {
    for (const [i, own] of likeness.entries()) near(weights[i] ?? 0, own / total);
    return;
  }
  const rest = points.reduce(
    (left, point, at) => left.map((value, i) => value - (weights[at] ?? 0) * (point[i] ?? 0)),
    row,
  );
  const slopes = points.map((point) => dot(point, rest));
  for (const slope of slopes) near(slope, weighting === "barycentric" ? (slopes[0] ?? 0) : 0);
}

test("more points than directions get the shortest weights that fit", async () => {
  const { request, rowOf } = await prepare({ rows: 90, width: 5, k: 9, dtype: "F32" });
  const method = { id: "common_interpolation", k: 9, cosine: false, weighting: "least_squares" } as const;
  const { chosen, weights } = await run({ ...request, method });
  const row = rowOf(request.targets[0] ?? 0);
  const points = [...chosen.subarray(0, 9)].map((atom) => rowOf(request.atoms[atom] ?? 0));
  const rest = points.reduce(
    (left, point, at) => left.map((value, i) => value - (weights[at] ?? 0) * (point[i] ?? 0)),
    row,
  );
  assert.ok(Math.sqrt(dot(rest, rest)) < 1e-9);
  // The shortest weights are a combination of the rows of the points' coordinates: what is orthogonal to them is none.
  const own = weights.slice(0, 9);
  const coordinates = Array.from({ length: 5 }, (_, i) => Float64Array.from(points, (point) => point[i] ?? 0));
  const basis: Float64Array<ArrayBuffer>[] = [];
  for (const coordinate of coordinates) {
    let q = coordinate;
    for (const other of [...basis, ...basis]) q = away(q, other);
    basis.push(q.map((value) => value / Math.sqrt(dot(q, q))));
  }
  const outside = basis.reduce((left: Float64Array, q) => away(left, q), own);
  assert.ok(Math.sqrt(dot(outside, outside)) < 1e-8 * Math.sqrt(dot(own, own)));
});

test("threads and memory change no bit", async () => {
  const { request } = await prepare({ rows: 900, width: 40, k: 6, dtype: "BF16" });
  const one = await run(request);
  const { batches } = cutBatches(request, 1, request.memoryBytes);
  const tight = { ...request, threads: 3, memoryBytes: 230 * 2 ** 20 };
  assert.ok(cutBatches(tight, 3, tight.memoryBytes).batches.length > batches.length);
  assert.deepEqual(await run(tight), one);
  await assert.rejects(run({ ...request, memoryBytes: 2 ** 20 }), { code: "EngineMemoryTooSmall" });
});

test("batches cover all rows within the memory, down to few rows where one takes much", () => {
  const targets = Int32Array.from({ length: 1000 }, (_, row) => row);
  const cut = (width: number, k: number, threads: number, memoryBytes: number) => {
    const matrix = { name: "m", dtype: "F32", shape: [9000, width], ranges: [] } as const;
    const source = { store: "memory:", prefix: "" };
    const task = { source, matrix, atoms: targets, targets, method: { id: "omp", k } } as const;
    const { batches, ...rest } = cutBatches(task, threads, memoryBytes);
    assert.deepEqual([...batches.flatMap((rows) => [...rows])], [...targets]);
    return { rows: batches[0]?.length ?? 0, ...rest };
  };
  assert.deepEqual(cut(64, 4, 4, 2 ** 30).rows, 250, "all threads have the same to do");
  const wide = cut(8192, 256, 8, 512 * 2 ** 20);
  assert.ok(wide.threads <= 2 && wide.rows >= 8 && wide.rows < 64, JSON.stringify(wide));
  assert.ok(cut(8192, 64, 8, 512 * 2 ** 20).rows > 32);
  assert.throws(() => cut(65_536, 512, 1, 256 * 2 ** 20), { code: "EngineMemoryTooSmall" });
});

test("zero rows take nothing, equal atoms count once, and an atom's own row takes that atom alone", async () => {
  const width = 40;
  const { request } = await prepare({ rows: 60, width, k: 6, dtype: "F32" }, (values) => {
    values.fill(0, 0, width);
    values.copyWithin(7 * width, 4 * width, 5 * width);
    values.copyWithin(3 * width, 4 * width, 5 * width);
    values.fill(0, 8 * width, 9 * width);
  });
  const { counts, chosen, weights } = await run(request);
  assert.deepEqual([counts[0], counts[1]], [0, 1]);
  assert.equal(request.atoms[chosen[6] ?? 0], 4);
  assert.ok(Math.abs((weights[6] ?? 0) - 1) < 1e-12);
});

test("numbers that are not finite are refused, in atoms and in targets", async () => {
  for (const row of [3, 4]) {
    const { request } = await prepare({ rows: 60, width: 40, k: 6, dtype: "F32" }, (values) => {
      values[row * 40] = Number.NaN;
    });
    await assert.rejects(run(request), { code: "EngineNonFinite", found: `1 values in row ${row}` });
  }
});
