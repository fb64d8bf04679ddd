// core/ops/integer-product.ts: four rows of the left matrix and two of the right one are multiplied at a time, eight
// integers in a vector.

/** Rows of the left matrix that stay in the processor's cache while all of the right one passes by. */
const BLOCK_ROWS: i32 = 32;

export function integerProduct(target: usize, a: usize, b: usize, rows: i32, columns: i32, depth: i32): void {
  const stride = (<usize>depth) << 1;
  for (let block = 0; block < rows; block += BLOCK_ROWS) {
    const end = min(rows, block + BLOCK_ROWS);
    let j = 0;
    for (; j + 2 <= columns; j += 2) {
      const y = b + <usize>j * stride;
      let i = block;
      for (; i + 4 <= end; i += 4) {
        multiplyTile(target + (<usize>(i * columns + j) << 2), (<usize>columns) << 2, a + <usize>i * stride, y, stride);
      }
      for (; i < end; i++) {
        const own = target + (<usize>(i * columns + j) << 2);
        const x = a + <usize>i * stride;
        store<i32>(own, dot(x, y, stride));
        store<i32>(own, dot(x, y + stride, stride), 4);
      }
    }
    if (j == columns) continue;
    const y = b + <usize>j * stride;
    for (let i = block; i < end; i++) {
      store<i32>(target + (<usize>(i * columns + j) << 2), dot(a + <usize>i * stride, y, stride));
    }
  }
}

function multiplyTile(t: usize, tStride: usize, a: usize, b: usize, stride: usize): void {
  let p00 = i32x4.splat(0);
  let p01 = p00;
  let p10 = p00;
  let p11 = p00;
  let p20 = p00;
  let p21 = p00;
  let p30 = p00;
  let p31 = p00;
  let x0 = a;
  let x1 = x0 + stride;
  let x2 = x1 + stride;
  let x3 = x2 + stride;
  let y = b;
  let z = y + stride;
  for (const end = b + stride; y < end; x0 += 16, x1 += 16, x2 += 16, x3 += 16, y += 16, z += 16) {
    const y0 = v128.load(y);
    const y1 = v128.load(z);
    const a0 = v128.load(x0);
    p00 = i32x4.add(p00, i32x4.dot_i16x8_s(a0, y0));
    p01 = i32x4.add(p01, i32x4.dot_i16x8_s(a0, y1));
    const a1 = v128.load(x1);
    p10 = i32x4.add(p10, i32x4.dot_i16x8_s(a1, y0));
    p11 = i32x4.add(p11, i32x4.dot_i16x8_s(a1, y1));
    const a2 = v128.load(x2);
    p20 = i32x4.add(p20, i32x4.dot_i16x8_s(a2, y0));
    p21 = i32x4.add(p21, i32x4.dot_i16x8_s(a2, y1));
    const a3 = v128.load(x3);
    p30 = i32x4.add(p30, i32x4.dot_i16x8_s(a3, y0));
    p31 = i32x4.add(p31, i32x4.dot_i16x8_s(a3, y1));
  }
  storePair(t, p00, p01);
  storePair(t + tStride, p10, p11);
  storePair(t + 2 * tStride, p20, p21);
  storePair(t + 3 * tStride, p30, p31);
}

@inline function storePair(t: usize, first: v128, second: v128): void {
  store<i32>(t, sumLanes(first));
  store<i32>(t, sumLanes(second), 4);
}

@inline function sumLanes(sums: v128): i32 {
  const low = i32x4.extract_lane(sums, 0) + i32x4.extract_lane(sums, 1);
  return low + i32x4.extract_lane(sums, 2) + i32x4.extract_lane(sums, 3);
}

function dot(a: usize, b: usize, bytes: usize): i32 {
  let sums = i32x4.splat(0);
  for (const end = a + bytes; a < end; a += 16, b += 16) {
    sums = i32x4.add(sums, i32x4.dot_i16x8_s(v128.load(a), v128.load(b)));
  }
  return sumLanes(sums);
}

export function roundToIntegers(target: usize, source: usize, factor: f32, count: i32): void {
  const factors = f32x4.splat(factor);
  const end = source + ((<usize>(count & ~7)) << 2);
  for (; source < end; source += 32, target += 16) {
    const low = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(source), factors)));
    const high = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(source, 16), factors)));
    v128.store(target, i16x8.narrow_i32x4_s(low, high));
  }
  for (let i = 0; i < (count & 7); i++, source += 4, target += 2) {
    store<i16>(target, <i16>nearest<f32>(load<f32>(source) * factor));
  }
}
