// Schemes that store named parts: the reference's bytes, and what must hold for all of them.
import assert from "node:assert/strict";
import { join } from "node:path";
import { suite, test } from "node:test";
import { compressedScheme } from "../../../core/schemes/compressed-scheme.ts";
import { allocateParts, dequantizeMatrix, quantizeMatrix, windowOf } from "../../../core/schemes/part-matrix.ts";
import { BLOCK_SCHEME_IDS, COMPRESSED_SCHEMES, PART_SCHEMES } from "../../../core/schemes/registry.ts";
import { largestOf } from "../../../core/schemes/rounding.ts";
import { type Matrix, type PartScheme, partRange } from "../../../core/schemes/scheme.ts";
import { E2M1, E2M5, E3M4, E4M3, E5M2, encodeFloat, encodeSaturated } from "../../../core/schemes/small-floats.ts";
import { tensorBytes } from "../../../core/tensor.ts";
import { runGolden } from "../../../tools/golden.ts";

const GOLDEN = join(import.meta.dirname, "../../golden/quant-parts");
const SCHEMES = [...PART_SCHEMES.values()];
const FORMATS = { E4M3, E5M2, E3M4, E2M5, E2M1 };

/** Values in [-1, 1) without a pattern that fits a group; rows of growing size. */
function noise({ rows, columns }: Pick<Matrix, "rows" | "columns">): Float32Array {
  return Float32Array.from(
    { length: rows * columns },
    (_, i) => (1 + Math.floor(i / columns)) * (2 * ((i * 0.754877666) % 1) - 1),
  );
}

/** Rows of the smallest window. */
function stepOf({ needs, measures, rowsTogether }: PartScheme, { rows, columns }: Matrix): number {
  return needs === "tensor" && measures === "nothing" ? rows : rowsTogether(columns);
}

function factsOf(values: Float32Array) {
  return { largest: largestOf(values, 0, values.length) };
}

function roundTrip(scheme: PartScheme, matrix: Matrix, values: Float32Array): Float32Array {
  return dequantizeMatrix(scheme, matrix, quantizeMatrix(scheme, matrix, values, factsOf(values)));
}

suite("schemes of parts", () => {
  test("every golden case has the reference's bytes", async () => {
    const report = await runGolden(GOLDEN);
    assert.deepEqual(report.failed, []);
    assert.deepEqual(report.skipped, []);
    assert.equal(report.passed, 29);
  });

  test("the registry names each scheme by its own id, and none twice", () => {
    for (const [id, scheme] of PART_SCHEMES) assert.equal(scheme.id, id);
    for (const id of BLOCK_SCHEME_IDS) assert.ok(!PART_SCHEMES.has(id), id);
  });

  test("parts cover their bytes window by window, whatever the number of rows", () => {
    for (const scheme of SCHEMES) {
      for (const rows of [1, 7, 32, 130]) {
        const matrix: Matrix = { rows, columns: 256, dtype: "BF16" };
        const step = stepOf(scheme, matrix);
        for (const part of scheme.parts(matrix).filter(({ along }) => along !== undefined)) {
          let end = 0;
          for (let first = 0; first < rows; first += step) {
            const range = partRange(part, first, Math.min(step, rows - first));
            assert.equal(range.offset, end, `${scheme.id} ${part.name}`);
            end += range.bytes;
          }
          assert.equal(end, tensorBytes(part.dtype, part.shape), `${scheme.id} ${part.name}`);
        }
      }
    }
  });

  test("parts that are known beforehand have the bytes that quantizing gives", () => {
    const matrix: Matrix = { rows: 128, columns: 256, dtype: "BF16" };
    const values = noise(matrix);
    const known = SCHEMES.flatMap((scheme) => {
      const made = quantizeMatrix(scheme, matrix, values, factsOf(values));
      return scheme.parts(matrix).flatMap((part) => (part.known === undefined ? [] : [{ part, made }]));
    });
    assert.ok(known.some(({ part }) => part.name === "compute_dtype"));
    for (const { part, made } of known) {
      assert.equal(part.along, undefined, part.name);
      assert.deepEqual(made.get(part.name), part.known, part.name);
    }
  });

  test("windows in any order give the bytes of the whole", () => {
    for (const scheme of SCHEMES) {
      const matrix: Matrix = { rows: 130, columns: 256, dtype: "F16" };
      const values = noise(matrix);
      const whole = quantizeMatrix(scheme, matrix, values, factsOf(values));
      const parts = scheme.parts(matrix);
      const pieces = allocateParts(parts);
      const step = stepOf(scheme, matrix);
      const firsts = Array.from({ length: Math.ceil(matrix.rows / step) }, (_, i) => i * step).reverse();
      for (const first of firsts) {
        const rows = values.subarray(first * matrix.columns, (first + step) * matrix.columns);
        scheme.quantize(windowOf(matrix, parts, pieces, first, rows), factsOf(values));
      }
      assert.deepEqual(pieces, whole, scheme.id);
    }
  });

  test("values come back within what their bits allow, zeros as zeros", () => {
    const matrix: Matrix = { rows: 64, columns: 256, dtype: "BF16" };
    const values = noise(matrix);
    const signal = values.reduce((sum, value) => sum + value * value, 0);
    const least: readonly (readonly [RegExp, number])[] = [
      [/^int3/, 9],
      [/^(?:int4|nvfp4|mxfp4)/, 15],
      [/^int6/, 28],
      [/^fp8_e5m2/, 22],
      [/^fp8/, 28],
      [/^(?:int8|gptq8|hqq8)/, 35],
      [/^(?:gptq4|hqq4|awq4|nf4)/, 15],
      [/^(?:gptq3|hqq3)/, 9],
      [/^(?:gptq2|hqq2|sparse24)/, 3],
      [/^dense_shift/, 9],
      [/^binary/, 3],
      [/^low_rank/, 1],
    ];
    for (const scheme of SCHEMES) {
      const noisePower = roundTrip(scheme, matrix, values).reduce((sum, v, i) => sum + (v - (values[i] ?? 0)) ** 2, 0);
      const decibel = 10 * Math.log10(signal / noisePower);
      const bound = least.find(([pattern]) => pattern.test(scheme.id))?.[1];
      assert.ok(bound !== undefined && decibel > bound, `${scheme.id}: ${decibel} dB`);
      assert.ok(
        roundTrip(scheme, matrix, new Float32Array(values.length)).every((value) => value === 0),
        scheme.id,
      );
    }
  });

  test("what a scheme says of itself for compressed-tensors is enough to read it", () => {
    const matrix: Matrix = { rows: 32, columns: 256, dtype: "F32" };
    const values = noise(matrix);
    for (const scheme of COMPRESSED_SCHEMES.values()) {
      const other = compressedScheme(scheme.form);
      assert.ok(other !== undefined, scheme.id);
      assert.deepEqual(
        quantizeMatrix(other, matrix, values, factsOf(values)),
        quantizeMatrix(scheme, matrix, values, factsOf(values)),
        scheme.id,
      );
    }
  });

  test("a description that no scheme stores has none", () => {
    const int4 = COMPRESSED_SCHEMES.get("int4_group128")?.form;
    assert.ok(int4 !== undefined);
    assert.equal(compressedScheme({ ...int4, format: "int-quantized" }), undefined);
    assert.equal(compressedScheme({ ...int4, strategy: "block", block: [2, 2] }), undefined);
    assert.equal(compressedScheme({ ...int4, format: "nvfp4-pack-quantized" }), undefined);
    assert.equal(compressedScheme({ ...int4, bits: 9 }), undefined);
  });

  test("a permuted column is read with the scale of its own group", () => {
    const scheme = PART_SCHEMES.get("int4_group32");
    assert.ok(scheme !== undefined);
    const matrix: Matrix = { rows: 2, columns: 64, dtype: "F32" };
    const values = noise(matrix);
    const parts = new Map(quantizeMatrix(scheme, matrix, values));
    const plain = dequantizeMatrix(scheme, matrix, parts);
    const index = Int32Array.from({ length: 64 }, (_, i) => (i < 32 ? 1 : 0));
    const back = new Float32Array(values.length);
    const window = windowOf(matrix, scheme.parts(matrix), parts, 0, back);
    scheme.dequantize({ ...window, parts: new Map([...window.parts, ["weight_g_idx", new Uint8Array(index.buffer)]]) });
    const [scales] = [new Float32Array(parts.get("weight_scale")?.slice().buffer ?? new ArrayBuffer(0))];
    for (let i = 0; i < 64; i++) {
      const [own, other] = [scales[Math.floor(i / 32)] ?? 0, scales[index[i] ?? 0] ?? 0];
      assert.equal(back[i], Math.fround(Math.round((plain[i] ?? 0) / own) * other));
    }
    const forged = new Uint8Array(index.map((group) => group + 2).buffer);
    const hostile = { ...window, parts: new Map([...window.parts, ["weight_g_idx", forged]]) };
    assert.throws(() => scheme.dequantize(hostile), { code: "QuantizedFolderInvalid" });
  });
});

suite("small floats", () => {
  test("every number is its own nearest code", () => {
    for (const [name, format] of Object.entries(FORMATS)) {
      format.values.forEach((value, code) => {
        if (Number.isNaN(value)) return;
        assert.equal(encodeFloat(format, value), code, `${name} ${code}`);
        if (Number.isFinite(value)) assert.equal(encodeSaturated(format, value), code, `${name} ${code}`);
      });
    }
  });

  test("midpoints go to the even code, neighbours of midpoints to their own side", () => {
    for (const [name, format] of Object.entries(FORMATS)) {
      for (let code = 0; code < format.largestCode; code++) {
        const [low = 0, high = 0] = [format.values[code], format.values[code + 1]];
        const middle = (low + high) / 2;
        assert.equal(encodeFloat(format, middle), code % 2 === 0 ? code : code + 1, `${name} ${code}`);
        assert.equal(encodeFloat(format, middle * (1 - 2 ** -20)), code, `${name} ${code}`);
        assert.equal(encodeFloat(format, -middle * (1 + 2 ** -20)), (code + 1) | format.signBit, `${name} ${code}`);
      }
    }
  });

  test("beyond the largest: plain casts overflow, saturating ones do not; NaN stays NaN where there is one", () => {
    assert.equal(encodeFloat(E4M3, 464), 0x7e);
    assert.equal(encodeFloat(E4M3, 465), 0x7f);
    assert.equal(encodeFloat(E5M2, 61439), 0x7b);
    assert.equal(encodeFloat(E5M2, 61440), 0x7c);
    assert.equal(encodeFloat(E3M4, 1000), 0x70);
    assert.equal(encodeFloat(E2M1, -1000), 15);
    for (const format of [E4M3, E5M2, E3M4]) {
      assert.equal(encodeSaturated(format, 3e38), format.largestCode);
      assert.ok(Number.isNaN(format.values[encodeFloat(format, Number.NaN)] ?? 0));
    }
  });
});
