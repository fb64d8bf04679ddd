// Goal: the WebAssembly operations on windows of parts give the bytes and values of the schemes themselves. Method:
// every scheme that stores parts, for each dtype of weights, on matrices of many kinds, whole and in windows of rows.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createScalarKernels, type Kernels } from "../../core/ops/kernels.ts";
import { PART_SCHEMES } from "../../core/schemes/registry.ts";
import { largestOf } from "../../core/schemes/rounding.ts";
import { type Matrix, type PartScheme, partRange } from "../../core/schemes/scheme.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { fillImage } from "./oracle.ts";

/** A block of 128 rows, and a rest. */
const ROWS = 130;
const both = [createScalarKernels(2 ** 22), createWasmKernels(2 ** 22)] as const;

const KINDS = ["weights", "ties", "zero rows", "subnormal", "huge", "edges"];

/** Matrices by what they are like. */
function valuesOf(kind: string, columns: number): Float32Array {
  const values = new Float32Array(ROWS * columns);
  if (kind === "edges") fillImage(new Uint8Array(values.buffer), 17, true);
  else {
    const size = { weights: 0.02, subnormal: 1e-40, huge: 1e38, ties: 1 }[kind] ?? 0;
    for (let i = 0; i < values.length; i++) {
      const wave = Math.sin(i * 12.9898) * Math.cos(i * 0.37);
      values[i] = kind === "ties" ? Math.round(30 * wave) / 2 : kind === "zero rows" ? -0 : size * wave;
    }
  }
  return values;
}

function quantize(kernels: Kernels, scheme: PartScheme, matrix: Matrix, values: Float32Array, step: number) {
  const pieces: Buffer[] = [];
  const largest = largestOf(values, 0, values.length);
  for (let first = 0; first < matrix.rows; first += step) {
    const mark = kernels.mark();
    const count = Math.min(step, matrix.rows - first);
    const parts = new Map(
      scheme.parts(matrix).map((part) => {
        const { bytes } = kernels.allocateBlock(partRange(part, first, count).bytes);
        return [part.name, bytes.fill(0xa5)] as const;
      }),
    );
    const [source, back] = [0, 1].map(() => kernels.allocateTile(count * matrix.columns).values);
    assert.ok(source !== undefined && back !== undefined);
    source.set(values.subarray(first * matrix.columns, (first + count) * matrix.columns));
    const window = { matrix, first, count, values: source, parts };
    kernels.quantizeParts(scheme, window, { largest });
    kernels.dequantizeParts(scheme, { ...window, values: back });
    for (const bytes of parts.values()) pieces.push(Buffer.from(bytes));
    pieces.push(Buffer.from(back.slice().buffer));
    kernels.release(mark);
  }
  return pieces;
}

for (const dtype of ["F32", "BF16", "F16"] as const) {
  test(`windows of every scheme have its own bytes and values, for weights of ${dtype}`, () => {
    for (const scheme of PART_SCHEMES.values()) {
      if (scheme.hessian === "required" || (scheme.needs === "tensor" && scheme.measures === "nothing")) continue;
      for (const columns of [256, 24].filter((width) => width % scheme.columnUnit === 0)) {
        const matrix = { rows: ROWS, columns, dtype };
        const step = Math.max(scheme.rowsTogether(columns), ROWS);
        for (const kind of KINDS) {
          const values = valuesOf(kind, columns);
          // Small windows once: of one row where the scheme allows it.
          for (const rows of new Set(kind === "weights" ? [step, scheme.rowsTogether(columns)] : [step])) {
            const [scalar, wasm] = both.map((kernels) => quantize(kernels, scheme, matrix, values, rows));
            const isSame = wasm?.every((bytes, i) => Buffer.compare(bytes, scalar?.[i] ?? Buffer.of()) === 0);
            assert.ok(isSame, `${scheme.id}, ${columns} columns, ${kind}, ${rows} rows at a time`);
          }
        }
      }
    }
  });
}

test("what is measured while quantizing is what measuring afterwards gives", () => {
  const [, kernels] = both;
  const integerIds = ["int8_dynamic", "int8_channel", "int8_tensor", "int4_group128", "int3_channel", "int6_group64"];
  const affineIds = ["int8_channel_asym", "int4_group32_asym"];
  for (const id of [...integerIds, ...affineIds, "fp8_channel", "fp8_block", "mxfp4a16", "nvfp4a16"]) {
    const scheme = PART_SCHEMES.get(id);
    assert.ok(scheme !== undefined, id);
    for (const dtype of ["F32", "BF16", "F16"] as const) {
      // Halves have no scale for what is huge.
      for (const kind of ["weights", "ties", "huge", "zero rows"].slice(0, dtype === "F16" ? 2 : 4)) {
        const mark = kernels.mark();
        const matrix = { rows: ROWS, columns: 256, dtype };
        const values = valuesOf(kind, 256);
        const [source, back] = [kernels.allocateTile(values.length), kernels.allocateTile(values.length)];
        source.values.set(values);
        const parts = scheme.parts(matrix).map((part) => {
          return [part.name, kernels.allocateBlock(partRange(part, 0, ROWS).bytes).bytes.fill(0)] as const;
        });
        const window = { matrix, first: 0, count: ROWS, values: source.values, parts: new Map(parts) };
        const found = kernels.quantizeParts(scheme, window, { largest: largestOf(values, 0, values.length) });
        kernels.dequantizeParts(scheme, { ...window, values: back.values });
        const width = scheme.limits?.width(256) ?? 256;
        const [low, high] = [0, 1].map(() => kernels.allocateTile(values.length / width));
        assert.ok(found !== undefined && low !== undefined && high !== undefined, id);
        scheme.limits?.read(window, low.values, high.values);
        const limits = scheme.limits && { low, high, width };
        const expected = kernels.measureLoss(source, 0, back, values.length, limits);
        const label = `${id}, ${dtype}, ${kind}`;
        assert.deepEqual([found.elements, found.clipped], [expected.elements, expected.clipped], label);
        for (const field of ["signal", "noise", "largest"] as const) {
          assert.ok(Math.abs(found[field] - expected[field]) <= 1e-5 * expected[field], `${label}: ${field}`);
        }
        kernels.release(mark);
      }
    }
  }
});

test("the schemes that servers run have SIMD code, and others say that they have none", () => {
  const quantizerOf = (id: string, matrix: Partial<Matrix> = {}) => {
    const scheme = PART_SCHEMES.get(id);
    assert.ok(scheme !== undefined, id);
    return both[1].partsQuantizerOf(scheme, { rows: 8, columns: 256, dtype: "BF16", ...matrix });
  };
  for (const id of ["int8_dynamic", "int8_channel", "int4_group128", "int4_group32", "fp8_dynamic", "fp8_tensor"]) {
    assert.equal(quantizerOf(id), "wasm", id);
    for (const dtype of ["F32", "F16"] as const) assert.equal(quantizerOf(id, { dtype }), "wasm", id);
  }
  for (const id of ["int4_group128_asym", "int8_channel_asym", "int3_channel"])
    assert.equal(quantizerOf(id), "wasm", id);
  for (const id of ["fp8_e5m2_channel", "hqq4_group64"]) assert.equal(quantizerOf(id), "scalar", id);
  assert.equal(quantizerOf("int8_channel", { columns: 24 }), "scalar");
});
