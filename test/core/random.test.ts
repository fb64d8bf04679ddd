import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { fillUniform, philox4x32, streamKey, uniformAt } from "../../core/random.ts";

// Known answers of the Random123 distribution (kat_vectors, philox 4x32 with 10 rounds): counter, key, expected words.
const KNOWN_ANSWERS: readonly (readonly [number[], [number, number], string])[] = [
  [[0, 0, 0, 0], [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
  [Array(4).fill(0xffffffff), [0xffffffff, 0xffffffff], "408f276d 41c83b0e a20bc7c6 6d5451fd"],
  [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], "d16cfe09 94fdcceb 5001e420 24126ea1"],
];

test("Philox 4x32-10 gives the published known answers", () => {
  for (const [counter, key, expected] of KNOWN_ANSWERS) {
    const words = new Uint32Array(4);
    philox4x32(counter, key, words);
    assert.equal([...words].map((word) => word.toString(16).padStart(8, "0")).join(" "), expected);
  }
});

test("a stream key is the documented prefix of a SHA-256", () => {
  // printf '["philox4x32-10",42,"lm_head.weight","ft-python"]' | sha256sum
  assert.deepEqual(streamKey(42, "lm_head.weight", "ft-python"), [0xd6687f0f, 0x19a315f9]);
});

test("streams of another seed, tensor or model are different streams", () => {
  const keys = [
    streamKey(1, "a", "m"),
    streamKey(2, "a", "m"),
    streamKey(1, "b", "m"),
    streamKey(1, "a", "n"),
    streamKey(1, "am"),
    streamKey(1, "m", "a"),
  ];
  assert.equal(new Set(keys.map((key) => key.join())).size, keys.length);
});

test("any cut of a stream into pieces gives the values of uniformAt", () => {
  fc.assert(
    fc.property(fc.nat(2 ** 31), fc.integer({ min: 0, max: 2 ** 40 }), fc.array(fc.nat(9)), (seed, first, sizes) => {
      const key = streamKey(seed, "t");
      let index = first;
      for (const size of sizes) {
        const piece = new Float32Array(size);
        fillUniform(key, index, piece);
        for (const value of piece) assert.equal(value, uniformAt(key, index++));
      }
    }),
    { numRuns: 100, seed: 7 },
  );
});

test("elements beyond 2^34 do not repeat the first ones", () => {
  const key = streamKey(0, "t");
  const near = new Float32Array(8);
  const far = new Float32Array(8);
  fillUniform(key, 0, near);
  fillUniform(key, 2 ** 34, far);
  assert.notDeepEqual(far, near);
});

test("values are uniform on [0, 1) and exact in float32", () => {
  // Goal: no lane, bit or edge is biased. Method: 2^20 values in 256 bins, chi-square of 255 degrees of freedom; the
  // bound 350 is exceeded by chance once in 10^4, and the seed is fixed.
  const values = new Float32Array(2 ** 20);
  fillUniform(streamKey(3, "uniform"), 5, values);
  const bins = new Float64Array(256);
  for (const value of values) {
    assert.ok(value >= 0 && value < 1);
    assert.equal(value * 2 ** 24, Math.floor(value * 2 ** 24));
    bins[Math.floor(value * 256)] = (bins[Math.floor(value * 256)] ?? 0) + 1;
  }
  const expected = values.length / bins.length;
  const chiSquare = bins.reduce((sum, seen) => sum + (seen - expected) ** 2 / expected, 0);
  assert.ok(chiSquare > 170 && chiSquare < 350, `chi-square ${chiSquare}`);
});
