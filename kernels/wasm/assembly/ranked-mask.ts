// core/ops/ranked-mask.ts: random masks whose probabilities follow ranks within lines. Which byte of thresholds an
// element is compared with hardly needs its exact rank: keys are dealt into classes, and the ranks of a whole class
// mostly have the same byte. Only where the random byte lies within a class's bounds is a rank made out.
import { fillBytes, secondWord, setKey } from "./philox";
import { sortLine } from "./rank";

/** Classes of keys: the upper half, and whether the lower half is zero; keys of an even class are all equal. */
const CLASSES: usize = 65536;
/** Longest line whose ranks fit into 16 bits. */
const LENGTH_MAX: usize = 65535;
/** Ranks of a line that are made out by a scan of it; with more, sorting is cheaper. */
const SCANS_MAX: i32 = 32;
/** Elements that are compared at a time, and their classes' bounds. */
const CHUNK: usize = 512;
const BOUNDS: usize = memory.data(1024);

// What a line needs, in the order of the scratch: counters of 16 bits (32 bits for sorting half as many bins), zero
// between lines and calls; bounds of classes; then for the line keys, order and spare of four bytes, classes and ordinals of
// two, random bytes, marks; then for the tile random bytes and marks.
let counters: usize = 0;
let classBounds: usize = 0;
let lineKeys: usize = 0;
let order: usize = 0;
let classes: usize = 0;
let ordinals: usize = 0;
let lineRandom: usize = 0;
let lineMarks: usize = 0;

/** The thresholds by rank, and the first element and the step of a line. */
let highs: usize = 0;
let lows: usize = 0;
let key0: u32 = 0;
let key1: u32 = 0;
let firstElement: u64 = 0;
let elementStep: u64 = 0;
let lineLength: usize = 0;
let lastClass: usize = 0;
let scans: i32 = 0;

/** Bytes that a vector may be written, or be read, past the end of a line or a tile. */
const SLACK: usize = 64;

/** Lays out the scratch; returns the place of the tile's random bytes. */
function layOut(scratch: usize, length: usize): usize {
  const padded = (length + 63) & ~63;
  counters = scratch;
  classBounds = counters + 2 * CLASSES;
  lineKeys = classBounds + 2 * CLASSES;
  order = lineKeys + 4 * padded;
  classes = order + 8 * padded;
  ordinals = classes + 2 * padded + SLACK;
  lineRandom = ordinals + 2 * padded;
  lineMarks = lineRandom + padded + SLACK;
  return lineMarks + padded + SLACK;
}

/** `keys` holds outer x length x inner words; bits are written for all of them, in whole groups of sixteen. */
export function drawRankedMask(
  low0: u32,
  high0: u32,
  first: f64,
  thresholdLows: usize,
  thresholdHighs: usize,
  keys: usize,
  outer: i32,
  length: usize,
  inner: i32,
  bits: usize,
  scratch: usize,
): void {
  key0 = low0;
  key1 = high0;
  lows = thresholdLows;
  highs = thresholdHighs;
  lineLength = length;
  elementStep = <u64>inner;
  const count = <usize>outer * length * <usize>inner;
  const random = layOut(scratch, length);
  const marks = random + ((count + 191) & ~63) + SLACK;
  const skipped = <usize>(<u64>first & 63);
  setKey(low0, high0);
  const block = ((<u64>first) >> 6) << 2;
  for (let at: usize = 0; at < skipped + count; at += 128) fillBytes(block + <u64>(at >> 4), random + at);
  for (let line: usize = 0; line < <usize>outer * <usize>inner; line++) {
    const start = (line / <usize>inner) * length * <usize>inner + (line % <usize>inner);
    firstElement = <u64>first + <u64>start;
    if (inner == 1) markLine(keys + (start << 2), random + skipped + start, marks + start);
    else markApart(keys + (start << 2), random + skipped + start, marks + start, <usize>inner);
  }
  for (let at: usize = 0; at < count; at += 16) {
    const valid: u32 = count - at < 16 ? <u32>((1 << (count - at)) - 1) : 0xffff;
    store<u16>(bits + (at >> 3), <u16>(<u32>i8x16.bitmask(v128.load(marks + at)) & valid));
  }
}

/** A line whose elements lie `inner` apart. */
function markApart(keys: usize, random: usize, marks: usize, inner: usize): void {
  for (let i: usize = 0; i < lineLength; i++) {
    store<u32>(lineKeys + (i << 2), load<u32>(keys + ((i * inner) << 2)));
    store<u8>(lineRandom + i, load<u8>(random + i * inner));
  }
  markLine(lineKeys, lineRandom, lineMarks);
  for (let i: usize = 0; i < lineLength; i++) store<u8>(marks + i * inner, load<u8>(lineMarks + i));
}

/** Writes a byte for every element: all ones where it is kept. May write past the end, which the next line mends. */
function markLine(keys: usize, random: usize, marks: usize): void {
  if (lineLength > LENGTH_MAX) {
    markSorted(keys, random, marks);
    return;
  }
  const firstClass = writeClasses(keys);
  countClasses();
  boundClasses(firstClass);
  scans = 0;
  let done: usize = 0;
  while (done < lineLength && scans <= SCANS_MAX) {
    compareChunk(keys, random, marks, done, min(CHUNK, lineLength - done));
    done += CHUNK;
  }
  store<u16>(counters, 0);
  if (lastClass >= firstClass) memory.fill(counters + (firstClass << 1), 0, (lastClass - firstClass + 1) << 1);
  if (scans > SCANS_MAX) markSorted(keys, random, marks);
}

/** Classes of all keys; returns the first one above that of zero, and sets the last. */
function writeClasses(keys: usize): usize {
  const one = i32x4.splat(1);
  const zero = i32x4.splat(0);
  const ones = i16x8.splat(1);
  let least = i16x8.splat(-1);
  let most = i16x8.splat(0);
  let i: usize = 0;
  for (; i < (lineLength & ~7); i += 8) {
    const k0 = v128.load(keys + (i << 2));
    const k1 = v128.load(keys + (i << 2), 16);
    // Odd, less one where the lower half is zero.
    const c0 = i32x4.add(v128.or(i32x4.shr_u(k0, 15), one), i32x4.eq(i32x4.shl(k0, 16), zero));
    const c1 = i32x4.add(v128.or(i32x4.shr_u(k1, 15), one), i32x4.eq(i32x4.shl(k1, 16), zero));
    const own = i16x8.narrow_i32x4_u(c0, c1);
    v128.store(classes + (i << 1), own);
    // Less one: zero becomes the largest.
    least = i16x8.min_u(least, i16x8.sub(own, ones));
    most = i16x8.max_u(most, own);
  }
  v128.store(BOUNDS, least);
  v128.store(BOUNDS, most, 16);
  let first: u32 = 0xffff;
  let last: u32 = 0;
  for (let lane: usize = 0; lane < 16; lane += 2) {
    first = min(first, <u32>load<u16>(BOUNDS + lane));
    last = max(last, <u32>load<u16>(BOUNDS + lane, 16));
  }
  for (; i < lineLength; i++) {
    const key = load<u32>(keys + (i << 2));
    const own = ((key >> 16) << 1) | u32((key & 0xffff) != 0);
    store<u16>(classes + (i << 1), <u16>own);
    first = min(first, (own - 1) & 0xffff);
    last = max(last, own);
  }
  lastClass = <usize>last;
  return <usize>first + 1;
}

/** Counts one class; returns how often it was counted before. */
@inline function countOne(own: u64, from: usize): u64 {
  const counter = from + ((<usize>own & 0xffff) << 1);
  const before = load<u16>(counter);
  store<u16>(counter, before + 1);
  return <u64>before;
}

/** Counts classes; each element's ordinal is how many of its class come before it. */
function countClasses(): void {
  const from = counters;
  const end = classes + (lineLength << 1);
  const wordsEnd = classes + ((lineLength & ~3) << 1);
  let c = classes;
  let o = ordinals;
  // Four at a time, whose ordinals are stored together: stores are what takes the time here.
  for (; c < wordsEnd; c += 8, o += 8) {
    const four = load<u64>(c);
    const a = countOne(four, from);
    const b = countOne(four >> 16, from);
    const d = countOne(four >> 32, from);
    const e = countOne(four >> 48, from);
    store<u64>(o, a | (b << 16) | (d << 32) | (e << 48));
  }
  for (; c < end; c += 2, o += 2) store<u16>(o, <u16>countOne(<u64>load<u16>(c), from));
}

/** Counters become the first rank of each class with keys; its bounds are the least and the largest byte of its ranks. */
function boundClasses(firstClass: usize): void {
  let rank = boundClass(0, 0);
  const zero = i16x8.splat(0);
  // Most classes are empty; what lies past the last one is zero.
  for (let group = firstClass; group <= lastClass; group += 16) {
    const own = counters + (group << 1);
    const empty = i8x16.narrow_i16x8_s(i16x8.eq(v128.load(own), zero), i16x8.eq(v128.load(own, 16), zero));
    let filled = <u32>i8x16.bitmask(empty) ^ 0xffff;
    while (filled != 0) {
      rank = boundClass(group + <usize>ctz(filled), rank);
      filled &= filled - 1;
    }
  }
}

@inline function boundClass(own: usize, first: usize): usize {
  const size = <usize>load<u16>(counters + (own << 1));
  const atFirst = <u32>load<u8>(highs + first);
  const atLast = <u32>load<u8>(highs + first + max(size, 1) - 1);
  store<u16>(counters + (own << 1), <u16>first);
  store<u16>(classBounds + (own << 1), <u16>(min(atFirst, atLast) | (max(atFirst, atLast) << 8)));
  return first + size;
}

@inline function gatherBound(classAt: usize, target: usize, from: usize): void {
  store<u16>(target, load<u16>(from + (<usize>load<u16>(classAt) << 1)));
}

function compareChunk(keys: usize, random: usize, marks: usize, start: usize, size: usize): void {
  const lower = i16x8.splat(0xff);
  // All bounds of a chunk before any vector of them: a load right after the stores it covers would wait for them.
  const from = classBounds;
  const chunk = classes + (start << 1);
  for (let at: usize = 0; at < size << 1; at += 8) {
    gatherBound(chunk + at, BOUNDS + at, from);
    gatherBound(chunk + at + 2, BOUNDS + at + 2, from);
    gatherBound(chunk + at + 4, BOUNDS + at + 4, from);
    gatherBound(chunk + at + 6, BOUNDS + at + 6, from);
  }
  for (let at: usize = 0; at < size; at += 16) {
    const b0 = v128.load(BOUNDS + (at << 1));
    const b1 = v128.load(BOUNDS + (at << 1), 16);
    const low = i8x16.narrow_i16x8_u(v128.and(b0, lower), v128.and(b1, lower));
    const high = i8x16.narrow_i16x8_u(i16x8.shr_u(b0, 8), i16x8.shr_u(b1, 8));
    const bytes = v128.load(random + start + at);
    const fromLow = i8x16.eq(i8x16.max_u(bytes, low), bytes);
    v128.store(marks + start + at, v128.not(fromLow));
    let open = <u32>i8x16.bitmask(v128.and(fromLow, i8x16.eq(i8x16.min_u(bytes, high), bytes)));
    if (size - at < 16) open &= (1 << <u32>(size - at)) - 1;
    while (open != 0) {
      const i = start + at + <usize>ctz(open);
      open &= open - 1;
      store<u8>(marks + i, isKept(i, keys, <u32>load<u8>(random + i)) ? 0xff : 0);
    }
  }
}

@inline function threshold(rank: usize): u64 {
  return (<u64>load<u8>(highs + rank) << 32) | <u64>load<u32>(lows + (rank << 2));
}

/** An element whose random byte lies within the bounds of its class. */
function isKept(i: usize, keys: usize, byte: u32): bool {
  const own = <usize>load<u16>(classes + (i << 1));
  const first = <usize>load<u16>(counters + (own << 1));
  if ((own & 1) == 0) {
    const rank = first + <usize>load<u16>(ordinals + (i << 1));
    const high = <u32>load<u8>(highs + rank);
    return byte == high ? secondOf(i) < load<u32>(lows + (rank << 2)) : byte < high;
  }
  const value = (<u64>byte << 32) | <u64>secondOf(i);
  const end = endOf(own);
  const atFirst = threshold(first);
  const atLast = threshold(end - 1);
  if (value < min(atFirst, atLast)) return true;
  if (value >= max(atFirst, atLast)) return false;
  scans++;
  return value < threshold(first + countBefore(keys, i, <i32>((own >> 1) << 16)));
}

/** The first rank of the next class that has keys. */
function endOf(own: usize): usize {
  for (let next = own + 1; next <= lastClass; next++) {
    const first = <usize>load<u16>(counters + (next << 1));
    if (first != 0) return first;
  }
  return lineLength;
}

@inline function secondOf(i: usize): u32 {
  return secondWord(key0, key1, firstElement + <u64>i * elementStep);
}

/** Keys above `base` that are less than key `i`, or equal to it and before it. */
function countBefore(keys: usize, i: usize, base: i32): usize {
  const own = load<i32>(keys + (i << 2));
  const bases = i32x4.splat(base);
  const owns = i32x4.splat(own);
  let found = i32x4.splat(0);
  let j: usize = 0;
  for (; j < (lineLength & ~3); j += 4) {
    const some = v128.load(keys + (j << 2));
    found = i32x4.sub(found, v128.and(i32x4.gt_s(some, bases), i32x4.lt_s(some, owns)));
  }
  let total =
    i32x4.extract_lane(found, 0) +
    i32x4.extract_lane(found, 1) +
    i32x4.extract_lane(found, 2) +
    i32x4.extract_lane(found, 3);
  for (; j < lineLength; j++) {
    const key = load<i32>(keys + (j << 2));
    total += i32(key > base) & i32(key < own);
  }
  for (j = 0; j < i; j++) total += i32(load<i32>(keys + (j << 2)) == own);
  return <usize>total;
}

/** Every rank made out, for lines that are too long or have too many keys that are nearly alike. */
function markSorted(keys: usize, random: usize, marks: usize): void {
  sortLine(keys, lineLength, order, counters);
  for (let rank: usize = 0; rank < lineLength; rank++) {
    const i = <usize>load<u32>(order + (rank << 2));
    const byte = load<u8>(random + i);
    const high = load<u8>(highs + rank);
    const kept = byte == high ? secondOf(i) < load<u32>(lows + (rank << 2)) : byte < high;
    store<u8>(marks + i, kept ? 0xff : 0);
  }
}
