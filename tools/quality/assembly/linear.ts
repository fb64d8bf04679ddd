// y = x W^T in float32, four sums of a dot product side by side. Compiled when the tool starts; no kernel of the engine.

/** Shapes: x [rows, ins], w [outs, ins], y [rows, outs]; `ins` is a multiple of 4. */
export function linear(y: usize, x: usize, w: usize, rows: i32, outs: i32, ins: i32): void {
  const stride = <usize>ins << 2;
  const outStride = <usize>outs << 2;
  let row = 0;
  for (; row + 2 <= rows; row += 2) {
    const a = x + <usize>row * stride;
    const target = y + <usize>row * outStride;
    let out = 0;
    for (; out + 4 <= outs; out += 4) tile(target + (<usize>out << 2), outStride, a, w + <usize>out * stride, stride);
    for (; out < outs; out++) {
      const b = w + <usize>out * stride;
      f32.store(target + (<usize>out << 2), dot(a, b, stride));
      f32.store(target + outStride + (<usize>out << 2), dot(a + stride, b, stride));
    }
  }
  if (row < rows) {
    const a = x + <usize>row * stride;
    const target = y + <usize>row * outStride;
    for (let out = 0; out < outs; out++) f32.store(target + (<usize>out << 2), dot(a, w + <usize>out * stride, stride));
  }
}

// @ts-ignore: decorator
@inline
function total(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}

function dot(a: usize, b: usize, bytes: usize): f32 {
  let sum = f32x4.splat(0);
  for (let i: usize = 0; i < bytes; i += 16) sum = f32x4.add(sum, f32x4.mul(v128.load(a + i), v128.load(b + i)));
  return total(sum);
}

/** Two rows of x against four rows of w. */
function tile(y: usize, outStride: usize, a: usize, b: usize, stride: usize): void {
  let s00 = f32x4.splat(0);
  let s01 = f32x4.splat(0);
  let s02 = f32x4.splat(0);
  let s03 = f32x4.splat(0);
  let s10 = f32x4.splat(0);
  let s11 = f32x4.splat(0);
  let s12 = f32x4.splat(0);
  let s13 = f32x4.splat(0);
  const end = a + stride;
  const b1 = b + stride;
  const b2 = b1 + stride;
  const b3 = b2 + stride;
  for (let p = a, at: usize = 0; p < end; p += 16, at += 16) {
    const x0 = v128.load(p);
    const x1 = v128.load(p + stride);
    const w0 = v128.load(b + at);
    const w1 = v128.load(b1 + at);
    const w2 = v128.load(b2 + at);
    const w3 = v128.load(b3 + at);
    s00 = f32x4.add(s00, f32x4.mul(x0, w0));
    s01 = f32x4.add(s01, f32x4.mul(x0, w1));
    s02 = f32x4.add(s02, f32x4.mul(x0, w2));
    s03 = f32x4.add(s03, f32x4.mul(x0, w3));
    s10 = f32x4.add(s10, f32x4.mul(x1, w0));
    s11 = f32x4.add(s11, f32x4.mul(x1, w1));
    s12 = f32x4.add(s12, f32x4.mul(x1, w2));
    s13 = f32x4.add(s13, f32x4.mul(x1, w3));
  }
  f32.store(y, total(s00));
  f32.store(y, total(s01), 4);
  f32.store(y, total(s02), 8);
  f32.store(y, total(s03), 12);
  f32.store(y + outStride, total(s10));
  f32.store(y + outStride, total(s11), 4);
  f32.store(y + outStride, total(s12), 8);
  f32.store(y + outStride, total(s13), 12);
}
