// GPTQ, SparseGPT, HQQ and Double Rounding: what must hold of them beside the golden cases.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { deriveCodes, deriveScale, LOWER_BITS, refitScale } from "../../../core/schemes/double-rounding.ts";
import { type GptqForm, gptqRow } from "../../../core/schemes/gptq.ts";
import { factorHessian, sparsify24 } from "../../../core/schemes/gptq-solver.ts";
import { hqqPackedRows, packHqq, solveHqq } from "../../../core/schemes/hqq.ts";
import { lowRankSparse } from "../../../core/schemes/low-rank-sparse.ts";
import { dequantizeMatrix, quantizeMatrix } from "../../../core/schemes/part-matrix.ts";
import { PART_SCHEMES } from "../../../core/schemes/registry.ts";
import { keepTwo } from "../../../core/schemes/sparse24.ts";
import { gaussians } from "./gaussians.ts";

const SIZE = 64;
const FORM: GptqForm = { bits: 4, group: 32, symmetric: false, byActivation: false, staticGroups: false };

/** Values without a pattern that fits a group. */
function noise(count: number, seed = 0): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin((i + 1) * (seed + 1.37)) * Math.cos(i * 0.713 + seed));
}

/** Sum of x x^T over inputs that share a few directions; column 5 never sees anything. */
function hessianOf(): Float32Array {
  const hessian = new Float32Array(SIZE * SIZE);
  for (let sample = 0; sample < 3 * SIZE; sample++) {
    const x = noise(SIZE, sample).map((value, i) => (i === 5 ? 0 : value + Math.sin(sample) * (1 + i / 16)));
    for (let i = 0; i < SIZE; i++) {
      for (let j = 0; j < SIZE; j++) hessian[i * SIZE + j] = (hessian[i * SIZE + j] ?? 0) + (x[i] ?? 0) * (x[j] ?? 0);
    }
  }
  return hessian;
}

/** Error of the layer's output: d^T H d. */
function outputError(hessian: Float32Array, before: Float32Array, after: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < SIZE; i++) {
    for (let j = 0; j < SIZE; j++) {
      const [a, b] = [(before[i] ?? 0) - (after[i] ?? 0), (before[j] ?? 0) - (after[j] ?? 0)];
      sum += a * (hessian[i * SIZE + j] ?? 0) * b;
    }
  }
  return sum;
}

function rounded(form: GptqForm, row: Float32Array, hessian: Float32Array | undefined): Float32Array {
  const own = row.slice();
  const factor = hessian === undefined ? undefined : factorHessian({ size: SIZE, values: hessian }, form.byActivation);
  const target = { codes: new Uint8Array(SIZE), scales: new Float32Array(2), zeros: new Uint8Array(2) };
  gptqRow(form, own, factor, target);
  return own;
}

suite("gptq", () => {
  test("the factor is the root of the inverse, in the order of its columns", () => {
    const values = hessianOf();
    const factor = factorHessian({ size: SIZE, values }, true);
    assert.ok(factor !== undefined);
    assert.equal(factor.dead[5], 1);
    const { upper, order } = factor;
    const diagonal = Array.from(order, (column) => (column === 5 ? 1 : (values[column * SIZE + column] ?? 0)));
    assert.deepEqual(
      diagonal,
      diagonal.toSorted((a, b) => b - a),
    );
    const damping = (0.01 * diagonal.reduce((sum, value) => sum + value, 0)) / SIZE;
    for (let i = 0; i < SIZE; i++) {
      for (let j = 0; j < SIZE; j++) {
        let product = 0;
        for (let k = 0; k < SIZE; k++) {
          let inverse = 0;
          for (let m = 0; m <= Math.min(i, k); m++) inverse += (upper[m * SIZE + i] ?? 0) * (upper[m * SIZE + k] ?? 0);
          const [row = 0, column = 0] = [order[k], order[j]];
          const entry = row === column && row === 5 ? 1 : (values[row * SIZE + column] ?? 0);
          product += inverse * (entry + (k === j ? damping : 0));
        }
        assert.ok(Math.abs(product - (i === j ? 1 : 0)) < 1e-6, `${i}, ${j}: ${product}`);
      }
    }
  });

  test("the output's error is smaller than that of rounding to the nearest, in every order", () => {
    const [hessian, row] = [hessianOf(), noise(SIZE, 9)];
    const nearest = outputError(hessian, row, rounded(FORM, row, undefined));
    for (const byActivation of [false, true]) {
      for (const staticGroups of [false, true]) {
        const error = outputError(hessian, row, rounded({ ...FORM, byActivation, staticGroups }, row, hessian));
        assert.ok(error < nearest / 2, `${error}, ${nearest}`);
      }
    }
  });

  test("inputs without correlation leave rounding to the nearest", () => {
    const identity = new Float32Array(SIZE * SIZE).map((_, i) => (i % (SIZE + 1) === 0 ? 1 : 0));
    const row = noise(SIZE, 3);
    assert.deepEqual(rounded(FORM, row, identity), rounded(FORM, row, undefined));
  });

  test("a Hessian that is not positive, or of another size, is refused", () => {
    const values = new Float32Array(SIZE * SIZE).map((_, i) => (i % (SIZE + 1) === 0 ? 1e-6 : 1e9));
    assert.equal(factorHessian({ size: SIZE, values }, false), undefined);
    const scheme = PART_SCHEMES.get("gptq4_channel");
    assert.ok(scheme !== undefined);
    const matrix = { rows: 3, columns: SIZE, dtype: "F32" } as const;
    const weights = noise(3 * SIZE);
    for (const hessian of [values, values.subarray(1)]) {
      assert.throws(() => quantizeMatrix(scheme, matrix, weights, { hessian }), { code: "QuantizeHessianInvalid" });
    }
  });

  test("pruning with the Hessian loses less of the output than pruning by size", () => {
    const [hessian, row] = [hessianOf(), noise(SIZE, 4)];
    const factor = factorHessian({ size: SIZE, values: hessian }, false);
    assert.ok(factor !== undefined);
    const own = row.slice();
    sparsify24(factor, own);
    const bySize = row.map((value, i) => (((keepTwo(row, i - (i % 4)) >> (i % 4)) & 1) === 1 ? value : 0));
    for (let first = 0; first < SIZE; first += 4) {
      assert.ok([0, 1, 2, 3].filter((i) => own[first + i] === 0).length >= 2);
    }
    assert.ok(outputError(hessian, row, own) < outputError(hessian, row, bySize));
  });
});

suite("hqq", () => {
  test("fitting the zero point loses less than taking it from the range, where there are outliers", () => {
    const values = noise(64 * 64).map((value, i) => (i % 97 === 0 ? 6 * value : value));
    const { codes, scales, zeros } = solveHqq({ width: 64, values }, 4);
    const errorOf = (zeroOf: (group: number) => number) =>
      values.reduce((sum, value, i) => {
        const group = Math.floor(i / 64);
        const [scale, zero] = [scales[group] ?? 0, zeroOf(group)];
        const code = Math.min(Math.max(Math.round(value / scale + zero), 0), 15);
        return sum + Math.abs(value - (code - zero) * scale) ** 0.7;
      }, 0);
    const lowest = (group: number) =>
      -Math.min(...values.subarray(64 * group, 64 * (group + 1))) / (scales[group] ?? 1);
    assert.ok(errorOf((group) => zeros[group] ?? 0) < errorOf(lowest));
    assert.equal(codes.length, values.length);
  });

  test("packing keeps every code, whichever rows come first", () => {
    for (const bits of [2, 3, 4, 8] as const) {
      const place = { rows: 12, width: 8, bits };
      const codes = Uint8Array.from({ length: 96 }, (_, i) => (i * 7) % 2 ** bits);
      const bytes = (bits === 3 ? 4 : 1) * hqqPackedRows(12, bits) * 8;
      const [whole, pieces] = [new Uint8Array(bytes), new Uint8Array(bytes)];
      packHqq(codes, { ...place, first: 0 }, whole);
      for (const first of [8, 4, 0]) packHqq(codes.subarray(8 * first, 8 * (first + 4)), { ...place, first }, pieces);
      assert.deepEqual(pieces, whole);
    }
  });
});

suite("double rounding", () => {
  const codes = Int8Array.from({ length: 256 }, (_, i) => i - 128);

  test("a derived code is within half a step of the stored one, but for the largest", () => {
    for (const bits of [6, 4, 2] as const) {
      const step = 2 ** (8 - bits);
      deriveCodes(codes, bits).forEach((derived, i) => {
        const stored = codes[i] ?? 0;
        const highest = 2 ** (bits - 1) - 1;
        if (derived === highest && stored > highest * step) return;
        assert.ok(Math.abs(derived * step - stored) <= step / 2, `${stored} becomes ${derived} at ${bits} bits`);
      });
    }
    assert.equal(deriveCodes(Int8Array.of(127), 4)[0], 7);
  });

  test("halves go to the even code", () => {
    assert.deepEqual([...deriveCodes(Int8Array.of(8, 24, 40, -8, -24), 4)], [0, 2, 2, 0, -2]);
  });

  test("without training it costs at most 0.7 dB against the weights, as the reference measured", () => {
    // Gaussian groups of 128, step max|x| / 127.5: derived, rounded from the weights with the same step, refitted.
    const table = { 6: [30.9, 31.6, 31.0], 4: [19.5, 19.5, 19.5], 2: [7.3, 7.3, 7.7] } as const;
    for (const bits of LOWER_BITS) {
      const lost = [0, 0, 0];
      let signal = 0;
      for (let group = 0; group < 400; group++) {
        const values = gaussians(128, group);
        const scale = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127.5;
        const stored = Int8Array.from(values, (value) => Math.min(Math.max(Math.round(value / scale), -128), 127));
        const [derived, step] = [deriveCodes(stored, bits), deriveScale(scale, bits)];
        const refitted = refitScale(stored, derived, scale, bits);
        const [low, high] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
        values.forEach((value, i) => {
          const direct = Math.min(Math.max(Math.round(value / step), low), high) * step;
          const back = [(derived[i] ?? 0) * step, direct, (derived[i] ?? 0) * refitted];
          signal += value ** 2;
          back.forEach((own, column) => {
            lost[column] = (lost[column] ?? 0) + (value - own) ** 2;
          });
        });
      }
      table[bits].forEach((expected, column) => {
        const found = 10 * Math.log10(signal / (lost[column] ?? 0));
        assert.ok(Math.abs(found - expected) < 0.12, `${bits} bits, column ${column}: ${found} dB, not ${expected}`);
      });
    }
  });

  test("a refitted step loses no more than the plain one, and zeros keep it", () => {
    const stored = Int8Array.from(noise(128), (value) => Math.round(100 * value));
    const derived = deriveCodes(stored, 2);
    const lossOf = (scale: number) =>
      derived.reduce((sum, code, i) => sum + (code * scale - (stored[i] ?? 0) * 0.01) ** 2, 0);
    assert.ok(lossOf(refitScale(stored, derived, 0.01, 2)) < lossOf(deriveScale(0.01, 2)));
    assert.equal(refitScale(new Int8Array(4), new Int8Array(4), 0.5, 4), 8);
  });
});

suite("low rank and sparse", () => {
  test("a matrix that is a thin product and a few large entries comes back nearly whole", () => {
    const matrix = { rows: 48, columns: 64, dtype: "F32" } as const;
    const [left, right] = [noise(48 * 3, 1), noise(3 * 64, 2)];
    const values = Float32Array.from({ length: 48 * 64 }, (_, i) => {
      const [row, column] = [Math.floor(i / 64), i % 64];
      const product = [0, 1, 2].reduce((sum, k) => sum + (left[3 * row + k] ?? 0) * (right[64 * k + column] ?? 0), 0);
      return product + ((row * 7) % 64 === column ? 5 : 0);
    });
    const back = dequantizeMatrix(lowRankSparse, matrix, quantizeMatrix(lowRankSparse, matrix, values));
    const lost = back.reduce((sum, value, i) => sum + (value - (values[i] ?? 0)) ** 2, 0);
    const all = values.reduce((sum, value) => sum + value ** 2, 0);
    assert.ok(10 * Math.log10(all / lost) > 25, `${10 * Math.log10(all / lost)} dB`);
  });
});
