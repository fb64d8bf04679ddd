// core/ops/matrix-product.ts: two rows of the target take four rows of the right factor at a time, two columns in a
// vector. Strides are in bytes.

/** As in core/ops/matrix-product.ts; they change no bit. */
const PART_ROWS: i32 = 64;
const PART_COLUMNS: i32 = 256;

export function addMatrixProduct(
  target: usize,
  targetStride: usize,
  a: usize,
  aStride: usize,
  b: usize,
  bStride: usize,
  rows: i32,
  inner: i32,
  columns: i32,
  sign: f64,
): void {
  for (let from = 0; from < inner; from += PART_ROWS) {
    const depth = min(PART_ROWS, inner - from);
    for (let column = 0; column < columns; column += PART_COLUMNS) {
      const count = min(PART_COLUMNS, columns - column);
      let t = target + ((<usize>column) << 3);
      let x = a + ((<usize>from) << 3);
      const y = b + <usize>from * bStride + ((<usize>column) << 3);
      let row = 0;
      for (; row + 2 <= rows; row += 2, t += 2 * targetStride, x += 2 * aStride) {
        addToPair(t, targetStride, x, aStride, y, bStride, depth, count, sign);
      }
      if (row < rows) addToRow(t, x, y, bStride, depth, count, sign);
    }
  }
}

function addToPair(
  t: usize,
  targetStride: usize,
  x: usize,
  aStride: usize,
  y: usize,
  bStride: usize,
  depth: i32,
  count: i32,
  sign: f64,
): void {
  let k = 0;
  for (; k + 4 <= depth; k += 4, x += 32, y += 4 * bStride) {
    const z = x + aStride;
    const f0 = f64x2.splat(sign * load<f64>(x));
    const f1 = f64x2.splat(sign * load<f64>(x, 8));
    const f2 = f64x2.splat(sign * load<f64>(x, 16));
    const f3 = f64x2.splat(sign * load<f64>(x, 24));
    const g0 = f64x2.splat(sign * load<f64>(z));
    const g1 = f64x2.splat(sign * load<f64>(z, 8));
    const g2 = f64x2.splat(sign * load<f64>(z, 16));
    const g3 = f64x2.splat(sign * load<f64>(z, 24));
    let r0 = y;
    let r1 = r0 + bStride;
    let r2 = r1 + bStride;
    let r3 = r2 + bStride;
    let upper = t;
    let lower = t + targetStride;
    const end = t + ((<usize>(count & ~1)) << 3);
    for (; upper < end; upper += 16, lower += 16, r0 += 16, r1 += 16, r2 += 16, r3 += 16) {
      const y0 = v128.load(r0);
      const y1 = v128.load(r1);
      const y2 = v128.load(r2);
      const y3 = v128.load(r3);
      v128.store(upper, addTerm(addTerm(addTerm(addTerm(v128.load(upper), f0, y0), f1, y1), f2, y2), f3, y3));
      v128.store(lower, addTerm(addTerm(addTerm(addTerm(v128.load(lower), g0, y0), g1, y1), g2, y2), g3, y3));
    }
    if ((count & 1) == 0) continue;
    const y0 = v128.load64_zero(r0);
    const y1 = v128.load64_zero(r1);
    const y2 = v128.load64_zero(r2);
    const y3 = v128.load64_zero(r3);
    const above = addTerm(addTerm(addTerm(addTerm(v128.load64_zero(upper), f0, y0), f1, y1), f2, y2), f3, y3);
    const below = addTerm(addTerm(addTerm(addTerm(v128.load64_zero(lower), g0, y0), g1, y1), g2, y2), g3, y3);
    store<f64>(upper, f64x2.extract_lane(above, 0));
    store<f64>(lower, f64x2.extract_lane(below, 0));
  }
  addToRow(t, x, y, bStride, depth - k, count, sign);
  addToRow(t + targetStride, x + aStride, y, bStride, depth - k, count, sign);
}

function addToRow(t: usize, x: usize, y: usize, bStride: usize, depth: i32, count: i32, sign: f64): void {
  for (let k = 0; k < depth; k++, x += 8, y += bStride) {
    const factor = sign * load<f64>(x);
    const factors = f64x2.splat(factor);
    let own = t;
    let r = y;
    const end = t + ((<usize>(count & ~1)) << 3);
    for (; own < end; own += 16, r += 16) {
      v128.store(own, f64x2.add(v128.load(own), f64x2.mul(factors, v128.load(r))));
    }
    if ((count & 1) != 0) store<f64>(own, load<f64>(own) + factor * load<f64>(r));
  }
}

@inline function addTerm(sum: v128, factor: v128, terms: v128): v128 {
  return f64x2.add(sum, f64x2.mul(factor, terms));
}
