// core/ops/reduce.ts: `dot` in eight float64 lanes by element index mod 8, lanes added 0 to 7. Products of stored
// vectors are made three at a time, in float32 for short runs: that many sums still fit into registers. Dtypes come as
// a number: 0 BF16, 1 F16, 2 F32.
import { lower, one, rest, upper } from "./stored";

/** The sums of one product, where its tail is added: eight float64, or four float32. */
const LANES: usize = memory.data(64);
/** Elements of stored vectors whose products are added in float32. */
const RUN: i32 = 32;
/** Three products of stored vectors. */
const PRODUCTS: usize = memory.data(24);

export function storedProducts(): usize {
  return PRODUCTS;
}

@inline function promoteHigh(values: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<u32>(values, values, 2, 3, 2, 3));
}

@inline function addProduct(sum: v128, a: v128, b: v128): v128 {
  return f64x2.add(sum, f64x2.mul(a, b));
}

@inline function keepLanes(sum01: v128, sum23: v128, sum45: v128, sum67: v128): void {
  v128.store(LANES, sum01);
  v128.store(LANES, sum23, 16);
  v128.store(LANES, sum45, 32);
  v128.store(LANES, sum67, 48);
}

/** The tail has fewer than eight elements: element `lane` of it belongs to that lane. */
@inline function addToLane(lane: i32, product: f64): void {
  const address = LANES + (<usize>lane << 3);
  store<f64>(address, load<f64>(address) + product);
}

@inline function sumLanes(): f64 {
  let sum: f64 = 0;
  for (let lane = 0; lane < 8; lane++) sum += load<f64>(LANES + (<usize>lane << 3));
  return sum;
}

export function dot(a: usize, b: usize, count: i32): f64 {
  let sum01 = f64x2.splat(0);
  let sum23 = f64x2.splat(0);
  let sum45 = f64x2.splat(0);
  let sum67 = f64x2.splat(0);
  let i: usize = 0;
  const vectorEnd = <usize>(count & ~7) << 2;
  for (; i < vectorEnd; i += 32) {
    const a0 = v128.load(a + i);
    const b0 = v128.load(b + i);
    const a1 = v128.load(a + i, 16);
    const b1 = v128.load(b + i, 16);
    sum01 = addProduct(sum01, f64x2.promote_low_f32x4(a0), f64x2.promote_low_f32x4(b0));
    sum23 = addProduct(sum23, promoteHigh(a0), promoteHigh(b0));
    sum45 = addProduct(sum45, f64x2.promote_low_f32x4(a1), f64x2.promote_low_f32x4(b1));
    sum67 = addProduct(sum67, promoteHigh(a1), promoteHigh(b1));
  }
  keepLanes(sum01, sum23, sum45, sum67);
  const tail = count & 7;
  for (let j = 0; j < tail; j++) {
    addToLane(j, <f64>load<f32>(a + i + (<usize>j << 2)) * <f64>load<f32>(b + i + (<usize>j << 2)));
  }
  return sumLanes();
}

/** Values 0 to 3 of eight, less the base's where there is one. */
@inline function lowerOf<T>(first: v128, base: v128, differs: bool): v128 {
  return differs ? f32x4.sub(lower<T>(first), lower<T>(base)) : lower<T>(first);
}

/** Values 4 to 7. */
@inline function upperOf<T>(address: usize, first: v128, base: usize, baseFirst: v128, differs: bool): v128 {
  const own = upper<T>(rest<T>(address, first));
  return differs ? f32x4.sub(own, upper<T>(rest<T>(base, baseFirst))) : own;
}

@inline function oneOf<T>(address: usize, base: usize, differs: bool): f32 {
  return differs ? one<T>(address) - one<T>(base) : one<T>(address);
}

/** The four sums of an incomplete run of two vectors. */
function tailOf<T>(a: usize, b: usize, base: usize, count: i32, differs: bool): v128 {
  v128.store(LANES, f32x4.splat(0));
  for (let j = 0; j < count; j++) {
    const at = <usize>j * sizeof<T>();
    const lane = LANES + ((<usize>j & 3) << 2);
    store<f32>(lane, load<f32>(lane) + oneOf<T>(a + at, base + at, differs) * oneOf<T>(b + at, base + at, differs));
  }
  return v128.load(LANES);
}

/** Ends one product of a tile: its last run, and the sum of its lanes added to entry `index`. */
@inline function finishProduct(index: usize, sum01: v128, sum23: v128, tail: v128): void {
  const last01 = f64x2.add(sum01, f64x2.promote_low_f32x4(tail));
  const last23 = f64x2.add(sum23, promoteHigh(tail));
  const product = PRODUCTS + (index << 3);
  const sum = f64x2.extract_lane(last01, 0) + f64x2.extract_lane(last01, 1) + f64x2.extract_lane(last23, 0);
  store<f64>(product, load<f64>(product) + (sum + f64x2.extract_lane(last23, 1)));
}

/**
 * Three products of stored vectors: x.x, x.y and y.y, or, where `z` is a third vector, z.x, z.y and z.z. All are less
 * the base where there is one.
 */
@inline function productsOf<T>(
  x: usize,
  y: usize,
  z: usize,
  base: usize,
  count: i32,
  crosses: bool,
  differs: bool,
): void {
  let a01 = f64x2.splat(0);
  let a23 = f64x2.splat(0);
  let b01 = f64x2.splat(0);
  let b23 = f64x2.splat(0);
  let c01 = f64x2.splat(0);
  let c23 = f64x2.splat(0);
  const step: usize = 8 * sizeof<T>();
  const end = <usize>(count & ~(RUN - 1)) * sizeof<T>();
  let i: usize = 0;
  while (i < end) {
    let a = f32x4.splat(0);
    let b = f32x4.splat(0);
    let c = f32x4.splat(0);
    for (const runEnd = i + <usize>RUN * sizeof<T>(); i < runEnd; i += step) {
      const xs = v128.load(x + i);
      const ys = v128.load(y + i);
      const zs = crosses ? v128.load(z + i) : xs;
      const bs = differs ? v128.load(base + i) : xs;
      let xf = lowerOf<T>(xs, bs, differs);
      let yf = lowerOf<T>(ys, bs, differs);
      let zf = crosses ? lowerOf<T>(zs, bs, differs) : xf;
      a = f32x4.add(a, f32x4.mul(zf, xf));
      b = f32x4.add(b, f32x4.mul(zf, yf));
      c = f32x4.add(c, crosses ? f32x4.mul(zf, zf) : f32x4.mul(yf, yf));
      xf = upperOf<T>(x + i, xs, base + i, bs, differs);
      yf = upperOf<T>(y + i, ys, base + i, bs, differs);
      zf = crosses ? upperOf<T>(z + i, zs, base + i, bs, differs) : xf;
      a = f32x4.add(a, f32x4.mul(zf, xf));
      b = f32x4.add(b, f32x4.mul(zf, yf));
      c = f32x4.add(c, crosses ? f32x4.mul(zf, zf) : f32x4.mul(yf, yf));
    }
    a01 = f64x2.add(a01, f64x2.promote_low_f32x4(a));
    a23 = f64x2.add(a23, promoteHigh(a));
    b01 = f64x2.add(b01, f64x2.promote_low_f32x4(b));
    b23 = f64x2.add(b23, promoteHigh(b));
    c01 = f64x2.add(c01, f64x2.promote_low_f32x4(c));
    c23 = f64x2.add(c23, promoteHigh(c));
  }
  const left = (crosses ? z : x) + i;
  const last = (crosses ? z : y) + i;
  const tail = count & (RUN - 1);
  finishProduct(0, a01, a23, tailOf<T>(left, x + i, base + i, tail, differs));
  finishProduct(1, b01, b23, tailOf<T>(left, y + i, base + i, tail, differs));
  finishProduct(2, c01, c23, tailOf<T>(last, last, base + i, tail, differs));
}

@inline function productsIn<T>(x: usize, y: usize, z: usize, base: usize, count: i32, tileElements: i32): void {
  for (let done = 0; done < count; done += tileElements) {
    const now = min(tileElements, count - done);
    const at = <usize>done * sizeof<T>();
    if (z == 0) {
      if (base == 0) productsOf<T>(x + at, y + at, z, base, now, false, false);
      else productsOf<T>(x + at, y + at, z, base + at, now, false, true);
    } else if (base == 0) productsOf<T>(x + at, y + at, z + at, base, now, true, false);
    else productsOf<T>(x + at, y + at, z + at, base + at, now, true, true);
  }
}

/**
 * `z` and `base` are 0 where there is none. The three products are added, tile by tile, to those at `storedProducts`.
 */
export function multiplyStored(
  dtype: i32,
  x: usize,
  y: usize,
  z: usize,
  base: usize,
  count: i32,
  tileElements: i32,
): void {
  if (dtype == 0) productsIn<u16>(x, y, z, base, count, tileElements);
  else if (dtype == 1) productsIn<i16>(x, y, z, base, count, tileElements);
  else productsIn<f32>(x, y, z, base, count, tileElements);
}
