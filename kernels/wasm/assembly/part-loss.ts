// What the groups of quantized parts lost since `beginPartsLoss`, as core/ops/loss.ts has it but for the number of
// elements: signal, noise, the largest difference and what was clipped. Differences are taken in steps of a group, x /
// scale less the code's value, in float32; their sums over one group are weighed by scale^2 and added in float64.
import { maxOfLanes } from "./quant-lanes";

const LOSS: usize = memory.data(32, 16);

/** Forgets what was lost; returns where it is found afterwards: four f64. */
export function beginPartsLoss(): usize {
  memory.fill(LOSS, 0, 32);
  return LOSS;
}

@inline function sumOfLanes(v: v128): f32 {
  return (
    f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3))
  );
}

/** Sums over a group: squares of values, squares of differences and their largest, all in steps; counts, negated. */
@inline export function addLoss(scale: f32, signal: v128, noise: v128, largest: v128, clipped: v128): void {
  const square = <f64>scale * <f64>scale;
  store<f64>(LOSS, load<f64>(LOSS) + square * <f64>sumOfLanes(signal));
  store<f64>(LOSS, load<f64>(LOSS, 8) + square * <f64>sumOfLanes(noise), 8);
  store<f64>(LOSS, max(load<f64>(LOSS, 16), <f64>scale * sqrt<f64>(<f64>maxOfLanes(largest))), 16);
  const count =
    i32x4.extract_lane(clipped, 0) +
    i32x4.extract_lane(clipped, 1) +
    (i32x4.extract_lane(clipped, 2) + i32x4.extract_lane(clipped, 3));
  store<f64>(LOSS, load<f64>(LOSS, 24) - <f64>count, 24);
}

@inline export function square(v: v128): v128 {
  return f32x4.mul(v, v);
}

@inline export function sumOf(a: v128, b: v128, c: v128, d: v128): v128 {
  return f32x4.add(f32x4.add(a, b), f32x4.add(c, d));
}

@inline export function largestOf(a: v128, b: v128, c: v128, d: v128): v128 {
  return f32x4.pmax(f32x4.pmax(a, b), f32x4.pmax(c, d));
}
