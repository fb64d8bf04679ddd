// Goal: matching pursuit takes the atoms, and gives the weights, that its definition gives, for any number of threads
// and memory. Method: random rows in a file, beside a plain pursuit by orthogonal vectors in float64.
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

function away(a: Float64Array, q: Float64Array): Float64Array {
  const along = dot(a, q);
  return a.map((value, i) => value - along * (q[i] ?? 0));
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

test("threads and memory change no bit", async () => {
  const { request } = await prepare({ rows: 900, width: 40, k: 6, dtype: "BF16" });
  const one = await run(request);
  const { batches } = cutBatches(request, 1, request.memoryBytes);
  const tight = { ...request, threads: 3, memoryBytes: 230 * 2 ** 20 };
  assert.ok(cutBatches(tight, 3, tight.memoryBytes).batches.length > batches.length);
  assert.deepEqual(await run(tight), one);
  await assert.rejects(run({ ...request, memoryBytes: 2 ** 20 }), { code: "EngineMemoryTooSmall" });
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
