// core/ops/masked.ts: sums of the magnitudes of task vectors, of all elements and of those under a mask, by tile.
import { laneMask } from "./masked-sources";
import { lower, one, rest, upper } from "./stored";

/** What addMagnitudes adds to: two float64. */
const SUMS: usize = memory.data(16);
/** The last, incomplete run of 32 magnitudes, and its mask. */
const TAIL: usize = memory.data(128);

export function maskedSums(): usize {
  return SUMS;
}

@inline function lowerDelta<T>(source: v128, base: v128): v128 {
  return f32x4.sub(lower<T>(source), lower<T>(base));
}

@inline function upperDelta<T>(source: v128, base: v128): v128 {
  return f32x4.sub(upper<T>(source), upper<T>(base));
}

@inline function promoteHigh(values: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<u32>(values, values, 2, 3, 2, 3));
}

@inline function tree(
  m0: v128,
  m1: v128,
  m2: v128,
  m3: v128,
  m4: v128,
  m5: v128,
  m6: v128,
  m7: v128,
): v128 {
  const first = f32x4.add(f32x4.add(m0, m1), f32x4.add(m2, m3));
  return f32x4.add(first, f32x4.add(f32x4.add(m4, m5), f32x4.add(m6, m7)));
}

@inline function addTile<T>(source: usize, base: usize, bits: usize, count: i32): void {
  const half: usize = 8 * sizeof<T>();
  let all01 = f64x2.splat(0);
  let all23 = f64x2.splat(0);
  let kept01 = f64x2.splat(0);
  let kept23 = f64x2.splat(0);
  let s = source;
  let b = base;
  const vectorEnd = source + <usize>(count & ~31) * sizeof<T>();
  for (; s < vectorEnd; s += 4 * half, b += 4 * half, bits += 4) {
    const s0 = v128.load(s);
    const b0 = v128.load(b);
    const s1 = v128.load(s + half);
    const b1 = v128.load(b + half);
    const s2 = v128.load(s + half * 2);
    const b2 = v128.load(b + half * 2);
    const s3 = v128.load(s + half * 3);
    const b3 = v128.load(b + half * 3);
    const m0 = f32x4.abs(lowerDelta<T>(s0, b0));
    const m1 = f32x4.abs(upperDelta<T>(rest<T>(s, s0), rest<T>(b, b0)));
    const m2 = f32x4.abs(lowerDelta<T>(s1, b1));
    const m3 = f32x4.abs(upperDelta<T>(rest<T>(s + half, s1), rest<T>(b + half, b1)));
    const m4 = f32x4.abs(lowerDelta<T>(s2, b2));
    const m5 = f32x4.abs(upperDelta<T>(rest<T>(s + half * 2, s2), rest<T>(b + half * 2, b2)));
    const m6 = f32x4.abs(lowerDelta<T>(s3, b3));
    const m7 = f32x4.abs(upperDelta<T>(rest<T>(s + half * 3, s3), rest<T>(b + half * 3, b3)));
    const all = tree(m0, m1, m2, m3, m4, m5, m6, m7);
    const marks = v128.load32_splat(bits);
    const k0 = v128.and(m0, laneMask(marks, 0));
    const k1 = v128.and(m1, laneMask(marks, 1));
    const k2 = v128.and(m2, laneMask(marks, 2));
    const k3 = v128.and(m3, laneMask(marks, 3));
    const k4 = v128.and(m4, laneMask(marks, 4));
    const k5 = v128.and(m5, laneMask(marks, 5));
    const k6 = v128.and(m6, laneMask(marks, 6));
    const k7 = v128.and(m7, laneMask(marks, 7));
    const kept = tree(k0, k1, k2, k3, k4, k5, k6, k7);
    all01 = f64x2.add(all01, f64x2.promote_low_f32x4(all));
    all23 = f64x2.add(all23, promoteHigh(all));
    kept01 = f64x2.add(kept01, f64x2.promote_low_f32x4(kept));
    kept23 = f64x2.add(kept23, promoteHigh(kept));
  }
  const left = count & 31;
  if (left != 0) {
    const all = tailTree<T>(s, b, left, 0xffffffff);
    const marks = left > 16 ? load<u32>(bits) : <u32>load<u16>(bits);
    const kept = tailTree<T>(s, b, left, marks);
    all01 = f64x2.add(all01, f64x2.promote_low_f32x4(all));
    all23 = f64x2.add(all23, promoteHigh(all));
    kept01 = f64x2.add(kept01, f64x2.promote_low_f32x4(kept));
    kept23 = f64x2.add(kept23, promoteHigh(kept));
  }
  store<f64>(SUMS, load<f64>(SUMS) + sumLanes(all01, all23));
  store<f64>(SUMS, load<f64>(SUMS, 8) + sumLanes(kept01, kept23), 8);
}

@inline function sumLanes(lanes01: v128, lanes23: v128): f64 {
  return (
    f64x2.extract_lane(lanes01, 0) +
    f64x2.extract_lane(lanes01, 1) +
    (f64x2.extract_lane(lanes23, 0) + f64x2.extract_lane(lanes23, 1))
  );
}

/** The tree sum of an incomplete run: what is missing or not marked is zero. */
function tailTree<T>(source: usize, base: usize, count: i32, marks: u32): v128 {
  memory.fill(TAIL, 0, 128);
  for (let i: usize = 0; i < <usize>count; i++) {
    const delta = one<T>(source + i * sizeof<T>()) - one<T>(base + i * sizeof<T>());
    if ((marks >> <u32>i) & 1) store<f32>(TAIL + (i << 2), abs(delta));
  }
  return tree(
    v128.load(TAIL),
    v128.load(TAIL, 16),
    v128.load(TAIL, 32),
    v128.load(TAIL, 48),
    v128.load(TAIL, 64),
    v128.load(TAIL, 80),
    v128.load(TAIL, 96),
    v128.load(TAIL, 112),
  );
}

@inline function addTiles<T>(source: usize, base: usize, bits: usize, count: i32, tileElements: i32): void {
  for (let done = 0; done < count; done += tileElements) {
    const at = <usize>done * sizeof<T>();
    addTile<T>(source + at, base + at, bits + <usize>(done >> 3), min(tileElements, count - done));
  }
}

/** The two sums are at `maskedSums`. */
export function addMagnitudes(
  dtype: i32,
  source: usize,
  base: usize,
  bits: usize,
  count: i32,
  tileElements: i32,
): void {
  if (dtype == 0) addTiles<u16>(source, base, bits, count, tileElements);
  else if (dtype == 1) addTiles<i16>(source, base, bits, count, tileElements);
  else addTiles<f32>(source, base, bits, count, tileElements);
}
