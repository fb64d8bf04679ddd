// Goal: exponential and logarithm keep the error that they state, and the divergence of rows its signs. Method: against
// the engine's own functions, which are within an ulp, on a dense grid.
import assert from "node:assert/strict";
import test from "node:test";
import { rowDivergence } from "../../../core/ops/divergence.ts";
import { exponential, logarithm } from "../../../core/ops/exponential.ts";

/** Two units in the last place, and one of the function compared with. */
const ERROR = 3 * 2 ** -52;

test("exponential of 0 is 1, of NaN is NaN, and 0 where it cannot matter", () => {
  assert.equal(exponential(0), 1);
  assert.equal(exponential(-0), 1);
  assert.ok(Number.isNaN(exponential(Number.NaN)));
  assert.equal(exponential(-694), 0);
  assert.equal(exponential(Number.NEGATIVE_INFINITY), 0);
});

test("exponential of negative numbers is within two units in the last place", () => {
  for (let i = 1; i < 60_000; i++) {
    const x = -(i * i) / 5_300_000;
    const wanted = Math.exp(x);
    assert.ok(Math.abs(exponential(x) - wanted) <= ERROR * wanted, `e^${x} is ${exponential(x)}, not ${wanted}`);
  }
});

test("logarithm of positive numbers is within two units in the last place, near 1 too", () => {
  assert.equal(logarithm(1), 0);
  assert.ok(Number.isNaN(logarithm(Number.NaN)));
  for (let i = -60_000; i < 60_000; i++) {
    for (const x of [1 + i / 1e9, Math.exp(i / 100_000), Math.exp(i / 100)]) {
      if (x < 2 ** -1022 || !Number.isFinite(x)) continue;
      const wanted = Math.log(x);
      assert.ok(Math.abs(logarithm(x) - wanted) <= ERROR * Math.abs(wanted), `ln ${x} is ${logarithm(x)}`);
    }
  }
});

test("the divergence of rows is 0 when they are equal, else positive, and known for two values", () => {
  const scratch = { p: new Float64Array(2), q: new Float64Array(2) };
  const [a, b] = [Float32Array.of(0, 0), Float32Array.of(Math.log(3), 0)];
  assert.equal(rowDivergence(b, b, scratch), 0);
  const wanted = 0.75 * Math.log(1.5) + 0.25 * Math.log(0.5);
  assert.ok(Math.abs(rowDivergence(b, a, scratch) - wanted) < 1e-7);
  assert.ok(Number.isNaN(rowDivergence(Float32Array.of(Number.NaN, 0), a, scratch)));
});
