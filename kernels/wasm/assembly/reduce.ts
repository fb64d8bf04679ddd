// core/ops/reduce.ts: float64 sums in eight lanes by element index mod 8, lanes added 0 to 7. Products of stored
// vectors are made three at a time: that many sums still fit into registers. Dtypes come as a number: 0 BF16, 1 F16,
// 2 F32.
import { lower, one, rest, upper } from "./stored";

/** The eight sums of one product, where its tail is added. */
const LANES: usize = memory.data(64);
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

@inline function oneOf<T>(address: usize, base: usize, differs: bool): f64 {
  return <f64>(differs ? one<T>(address) - one<T>(base) : one<T>(address));
}

/** Ends one product of a tile: the tails of its two vectors, and the sum of its lanes added to entry `index`. */
@inline function finishProduct<T>(index: usize, a: usize, b: usize, base: usize, tail: i32, differs: bool): void {
  for (let j = 0; j < tail; j++) {
    const at = <usize>j * sizeof<T>();
    addToLane(j, oneOf<T>(a + at, base + at, differs) * oneOf<T>(b + at, base + at, differs));
  }
  const product = PRODUCTS + (index << 3);
  store<f64>(product, load<f64>(product) + sumLanes());
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
  let a45 = f64x2.splat(0);
  let a67 = f64x2.splat(0);
  let b01 = f64x2.splat(0);
  let b23 = f64x2.splat(0);
  let b45 = f64x2.splat(0);
  let b67 = f64x2.splat(0);
  let c01 = f64x2.splat(0);
  let c23 = f64x2.splat(0);
  let c45 = f64x2.splat(0);
  let c67 = f64x2.splat(0);
  const step: usize = 8 * sizeof<T>();
  const end = <usize>(count & ~7) * sizeof<T>();
  let i: usize = 0;
  for (; i < end; i += step) {
    const xs = v128.load(x + i);
    const ys = v128.load(y + i);
    const zs = crosses ? v128.load(z + i) : xs;
    const bs = differs ? v128.load(base + i) : xs;
    let xf = lowerOf<T>(xs, bs, differs);
    let yf = lowerOf<T>(ys, bs, differs);
    let zf = crosses ? lowerOf<T>(zs, bs, differs) : xf;
    let xd = f64x2.promote_low_f32x4(xf);
    let yd = f64x2.promote_low_f32x4(yf);
    let zd = crosses ? f64x2.promote_low_f32x4(zf) : xd;
    a01 = addProduct(a01, zd, xd);
    b01 = addProduct(b01, zd, yd);
    c01 = crosses ? addProduct(c01, zd, zd) : addProduct(c01, yd, yd);
    xd = promoteHigh(xf);
    yd = promoteHigh(yf);
    zd = crosses ? promoteHigh(zf) : xd;
    a23 = addProduct(a23, zd, xd);
    b23 = addProduct(b23, zd, yd);
    c23 = crosses ? addProduct(c23, zd, zd) : addProduct(c23, yd, yd);
    xf = upperOf<T>(x + i, xs, base + i, bs, differs);
    yf = upperOf<T>(y + i, ys, base + i, bs, differs);
    zf = crosses ? upperOf<T>(z + i, zs, base + i, bs, differs) : xf;
    xd = f64x2.promote_low_f32x4(xf);
    yd = f64x2.promote_low_f32x4(yf);
    zd = crosses ? f64x2.promote_low_f32x4(zf) : xd;
    a45 = addProduct(a45, zd, xd);
    b45 = addProduct(b45, zd, yd);
    c45 = crosses ? addProduct(c45, zd, zd) : addProduct(c45, yd, yd);
    xd = promoteHigh(xf);
    yd = promoteHigh(yf);
    zd = crosses ? promoteHigh(zf) : xd;
    a67 = addProduct(a67, zd, xd);
    b67 = addProduct(b67, zd, yd);
    c67 = crosses ? addProduct(c67, zd, zd) : addProduct(c67, yd, yd);
  }
  const left = crosses ? z : x;
  const last = crosses ? z : y;
  const tail = count & 7;
  keepLanes(a01, a23, a45, a67);
  finishProduct<T>(0, left + i, x + i, base + i, tail, differs);
  keepLanes(b01, b23, b45, b67);
  finishProduct<T>(1, left + i, y + i, base + i, tail, differs);
  keepLanes(c01, c23, c45, c67);
  finishProduct<T>(2, last + i, last + i, base + i, tail, differs);
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
