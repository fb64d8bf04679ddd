// core/ops/quantize.ts: measureLoss. Partial sums 0 and 1 stand in one vector, 2 and 3 in the other.

const SUMS: usize = memory.data(24, 16);

/** Where signal, noise and the largest difference are found afterwards: three f64. */
export function lossSums(): usize {
  return SUMS;
}

@inline function upper(v: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<u64>(v, v, 1, 1));
}

export function measureLoss(values: usize, back: usize, count: i32): void {
  let signal = f64x2.splat(0);
  let signal2 = f64x2.splat(0);
  let noise = f64x2.splat(0);
  let noise2 = f64x2.splat(0);
  let largest = f64x2.splat(0);
  let a = values;
  let b = back;
  const vectorEnd = values + (<usize>(count & ~3) << 2);
  for (; a < vectorEnd; a += 16, b += 16) {
    const x = v128.load(a);
    const y = v128.load(b);
    const x0 = f64x2.promote_low_f32x4(x);
    const x1 = upper(x);
    const lost0 = f64x2.sub(x0, f64x2.promote_low_f32x4(y));
    const lost1 = f64x2.sub(x1, upper(y));
    signal = f64x2.add(signal, f64x2.mul(x0, x0));
    signal2 = f64x2.add(signal2, f64x2.mul(x1, x1));
    noise = f64x2.add(noise, f64x2.mul(lost0, lost0));
    noise2 = f64x2.add(noise2, f64x2.mul(lost1, lost1));
    largest = f64x2.pmax(f64x2.pmax(largest, f64x2.abs(lost0)), f64x2.abs(lost1));
  }
  // The rest, up to three values, as lanes that are zero where there is none.
  let x = f32x4.splat(0);
  let y = f32x4.splat(0);
  const rest = count & 3;
  if (rest > 0) {
    x = f32x4.replace_lane(x, 0, load<f32>(a));
    y = f32x4.replace_lane(y, 0, load<f32>(b));
  }
  if (rest > 1) {
    x = f32x4.replace_lane(x, 1, load<f32>(a, 4));
    y = f32x4.replace_lane(y, 1, load<f32>(b, 4));
  }
  if (rest > 2) {
    x = f32x4.replace_lane(x, 2, load<f32>(a, 8));
    y = f32x4.replace_lane(y, 2, load<f32>(b, 8));
  }
  const x0 = f64x2.promote_low_f32x4(x);
  const x1 = upper(x);
  const lost0 = f64x2.sub(x0, f64x2.promote_low_f32x4(y));
  const lost1 = f64x2.sub(x1, upper(y));
  signal = f64x2.add(signal, f64x2.mul(x0, x0));
  signal2 = f64x2.add(signal2, f64x2.mul(x1, x1));
  noise = f64x2.add(noise, f64x2.mul(lost0, lost0));
  noise2 = f64x2.add(noise2, f64x2.mul(lost1, lost1));
  largest = f64x2.pmax(f64x2.pmax(largest, f64x2.abs(lost0)), f64x2.abs(lost1));
  store<f64>(SUMS, total(signal, signal2));
  store<f64>(SUMS, total(noise, noise2), 8);
  store<f64>(SUMS, max(f64x2.extract_lane(largest, 0), f64x2.extract_lane(largest, 1)), 16);
}

/** Values outside the limits of their run of `width`; `count` is a multiple of it. */
export function countBeyond(values: usize, count: i32, width: i32, low: usize, high: usize): i32 {
  let beyond = 0;
  let s = values;
  const end = values + (<usize>count << 2);
  for (let run: usize = 0; s < end; run += 4) {
    const runEnd = s + (<usize>width << 2);
    const least = load<f32>(low + run);
    const most = load<f32>(high + run);
    const leasts = f32x4.splat(least);
    const mosts = f32x4.splat(most);
    let found = i32x4.splat(0);
    const vectorEnd = s + (<usize>(width & ~3) << 2);
    for (; s < vectorEnd; s += 16) {
      const x = v128.load(s);
      found = i32x4.sub(found, v128.or(f32x4.lt(x, leasts), f32x4.gt(x, mosts)));
    }
    beyond +=
      i32x4.extract_lane(found, 0) + i32x4.extract_lane(found, 1) + (i32x4.extract_lane(found, 2) + i32x4.extract_lane(found, 3));
    for (; s < runEnd; s += 4) {
      const x = load<f32>(s);
      if (x < least || x > most) beyond++;
    }
  }
  return beyond;
}

@inline function total(low: v128, high: v128): f64 {
  return (
    f64x2.extract_lane(low, 0) + f64x2.extract_lane(low, 1) + (f64x2.extract_lane(high, 0) + f64x2.extract_lane(high, 1))
  );
}
