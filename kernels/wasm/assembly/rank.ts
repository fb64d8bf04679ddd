// core/ops/rank.ts: ranks of the keys of each line, by counting. Lines whose keys mostly end in 16 zero bits, as
// differences of BF16 values do, are dealt into bins by their upper halves; a bin whose keys are all equal then needs
// no order of its own. Other lines are dealt into as many bins as keys, and what shares a bin is sorted.
import { integerOne } from "./constants";

const LOWER: i32 = 0xffff;
/** Bins of a 31-bit key's upper half. */
const BINS: usize = 32768;
/** More bins than this for every key are not worth walking. */
const BINS_PER_KEY: usize = 4;
/** Longest run that is sorted by insertion. */
const INSERTION_MAX: usize = 32;
/** Counters of one digit of eight bits. */
const DIGITS: usize = memory.data(1024);
/** What is known of a line: its least key above zero, its largest, and how many have a lower half that is not zero. */
const SCAN: usize = memory.data(16);

// Scratch: counters of the first half of a line, counters of the second half, flags of the bins; then keys, order and
// spare of one line. Counters are zero between lines. Two halves, counted in turn, so that equal neighbours do not wait
// for each other's counter.

@inline function secondOf(scratch: usize): usize {
  return scratch + (BINS << 2);
}

@inline function flagsOf(scratch: usize): usize {
  return scratch + (BINS << 3);
}

@inline function keysOf(scratch: usize): usize {
  return flagsOf(scratch) + BINS;
}

/** `keys` become ranks: `outer` blocks of `length` x `inner` keys, each line along the middle axis. */
export function rankKeys(keys: usize, outer: i32, length: i32, inner: i32, scratch: usize): void {
  memory.fill(scratch, 0, BINS << 3);
  const line = keysOf(scratch);
  const stride = <usize>inner << 2;
  for (let block = 0; block < outer; block++) {
    for (let column = 0; column < inner; column++) {
      const first = keys + ((<usize>block * <usize>length * <usize>inner + <usize>column) << 2);
      if (inner == 1) {
        rankLine(first, <usize>length, first, stride, scratch);
        continue;
      }
      for (let i: usize = 0; i < <usize>length; i++) store<i32>(line + (i << 2), load<i32>(first + i * stride));
      rankLine(line, <usize>length, first, stride, scratch);
    }
  }
}

/** Ranks of `length` keys at `line` to `target`, `stride` bytes apart; both may be the same place. */
function rankLine(line: usize, length: usize, target: usize, stride: usize, scratch: usize): void {
  scanLine(line, length);
  const least = load<i32>(SCAN);
  const most = load<i32>(SCAN, 4);
  const mixed = <usize>load<i32>(SCAN, 8);
  const binsUsed = <usize>(max(most, least) >>> 16) - <usize>(least >>> 16) + 1;
  if (mixed * 4 <= length && binsUsed <= length * BINS_PER_KEY) {
    rankHalves(line, length, target, stride, scratch, <usize>(least >>> 16), binsUsed, mixed != 0);
    return;
  }
  const own = keysOf(scratch);
  if (own != line) memory.copy(own, line, length << 2);
  const order = own + (length << 2);
  if (length <= INSERTION_MAX) {
    for (let i: usize = 0; i < length; i++) store<u32>(order + (i << 2), <u32>i);
    sortShort(own, order, length);
  } else sortInBins(own, length, order, scratch, least, most);
  writeRanks(order, 0, length, target, stride);
}

function scanLine(line: usize, length: usize): void {
  const end = line + (length << 2);
  const vectorEnd = line + ((length & ~3) << 2);
  let least = i32x4.splat(-1);
  let most = i32x4.splat(0);
  let whole = i32x4.splat(0);
  let k = line;
  for (; k < vectorEnd; k += 16) {
    const keys = v128.load(k);
    // Less one: zero becomes the largest, so the least is that of the others.
    least = i32x4.min_u(least, i32x4.sub(keys, integerOne()));
    most = i32x4.max_s(most, keys);
    whole = i32x4.sub(whole, i32x4.eq(i32x4.shl(keys, 16), i32x4.splat(0)));
  }
  let mixed =
    <i32>(length & ~3) -
    i32x4.extract_lane(whole, 0) -
    i32x4.extract_lane(whole, 1) -
    i32x4.extract_lane(whole, 2) -
    i32x4.extract_lane(whole, 3);
  for (; k < end; k += 4) {
    const keys = v128.load32_splat(k);
    least = i32x4.min_u(least, i32x4.sub(keys, integerOne()));
    most = i32x4.max_s(most, keys);
    mixed += i32((load<i32>(k) & LOWER) != 0);
  }
  least = i32x4.min_u(least, v128.shuffle<u32>(least, least, 2, 3, 0, 1));
  least = i32x4.min_u(least, v128.shuffle<u32>(least, least, 1, 0, 3, 2));
  most = i32x4.max_s(most, v128.shuffle<u32>(most, most, 2, 3, 0, 1));
  most = i32x4.max_s(most, v128.shuffle<u32>(most, most, 1, 0, 3, 2));
  store<i32>(SCAN, i32x4.extract_lane(least, 0) + 1);
  store<i32>(SCAN, i32x4.extract_lane(most, 0), 4);
  store<i32>(SCAN, mixed, 8);
}

/** Address of the counter of the bin of the key at `address`: its upper half as an index. */
@inline function counterOf(address: usize, counters: usize): usize {
  return counters + (<usize>load<u16>(address, 2) << 2);
}

@inline function count(counter: usize): u32 {
  const before = load<u32>(counter);
  store<u32>(counter, before + 1);
  return before;
}

/** Counts both halves of a line, each in its own counters, which then say where each bin of each half begins. */
function countHalves(line: usize, length: usize, scratch: usize, firstBin: usize, binsUsed: usize): void {
  const second = secondOf(scratch);
  const half = line + (length >> 1 << 2);
  const end = line + (length << 2);
  let b = half;
  for (let a = line; a < half; a += 4, b += 4) {
    count(counterOf(a, scratch));
    count(counterOf(b, second));
  }
  for (; b < end; b += 4) count(counterOf(b, second));
  // Zeros have bin 0, all other keys the bins from the first one on.
  let total: u32 = 0;
  if (firstBin != 0) total = begin(scratch, second, 0);
  const stop = (firstBin + binsUsed) << 2;
  for (let bin = firstBin << 2; bin < stop; bin += 4) total = begin(scratch + bin, second + bin, total);
}

@inline function begin(first: usize, second: usize, total: u32): u32 {
  const inFirst = load<u32>(first);
  const inSecond = load<u32>(second);
  store<u32>(first, total);
  store<u32>(second, total + inFirst);
  return total + inFirst + inSecond;
}

/** A line dealt into bins by upper halves; where some lower halves are not zero, their bins are sorted. */
function rankHalves(
  line: usize,
  length: usize,
  target: usize,
  stride: usize,
  scratch: usize,
  firstBin: usize,
  binsUsed: usize,
  mixed: bool,
): void {
  const second = secondOf(scratch);
  countHalves(line, length, scratch, firstBin, binsUsed);
  if (mixed) rankMixed(line, length, target, stride, scratch, firstBin, binsUsed);
  else {
    const half = line + (length >> 1 << 2);
    const end = line + (length << 2);
    let b = half;
    let tb = target + (length >> 1) * stride;
    for (let a = line, ta = target; a < half; a += 4, ta += stride, b += 4, tb += stride) {
      store<u32>(ta, count(counterOf(a, scratch)));
      store<u32>(tb, count(counterOf(b, second)));
    }
    for (; b < end; b += 4, tb += stride) store<u32>(tb, count(counterOf(b, second)));
  }
  store<u32>(scratch, 0);
  store<u32>(second, 0);
  memory.fill(scratch + (firstBin << 2), 0, binsUsed << 2);
  memory.fill(second + (firstBin << 2), 0, binsUsed << 2);
}

function rankMixed(
  line: usize,
  length: usize,
  target: usize,
  stride: usize,
  scratch: usize,
  firstBin: usize,
  binsUsed: usize,
): void {
  const own = keysOf(scratch);
  if (own != line) memory.copy(own, line, length << 2);
  const order = own + (length << 2);
  const flags = flagsOf(scratch);
  const second = secondOf(scratch);
  memory.fill(flags + firstBin, 0, binsUsed);
  const half = length >> 1;
  for (let i: usize = 0; i < half; i++) {
    place(own, i, target, stride, scratch, order, flags);
    place(own, i + half, target, stride, second, order, flags);
  }
  if ((length & 1) != 0) place(own, length - 1, target, stride, second, order, flags);
  let start: usize = firstBin == 0 ? 0 : <usize>load<u32>(second);
  for (let bin = firstBin; bin < firstBin + binsUsed; bin++) {
    // The second half's counter now stands at the end of its bin.
    const stop = <usize>load<u32>(second + (bin << 2));
    if (load<u8>(flags + bin) != 0 && stop - start > 1) {
      sortBin(own, order + (start << 2), stop - start, order + (length << 2), <i32>bin << 16, 16);
      writeRanks(order, start, stop, target, stride);
    }
    start = stop;
  }
}

/** The next rank of a key's bin: to the target, and the key's index to that place in the order. */
@inline function place(
  keys: usize,
  index: usize,
  target: usize,
  stride: usize,
  counters: usize,
  order: usize,
  flags: usize,
): void {
  const key = keys + (index << 2);
  const rank = count(counterOf(key, counters));
  store<u32>(target + index * stride, rank);
  store<u32>(order + (<usize>rank << 2), <u32>index);
  if (load<u16>(key) != 0) store<u8>(flags + <usize>load<u16>(key, 2), 1);
}

/** The indexes of a line in the order of their keys: dealt into about as many bins as keys, then each bin sorted. */
function sortInBins(line: usize, length: usize, order: usize, scratch: usize, least: i32, most: i32): void {
  const limit = min(BINS, length * BINS_PER_KEY);
  const range = <u32>max(0, most - least);
  let shift: u32 = 0;
  while (<usize>(range >> shift) + 2 > limit) shift++;
  const binsUsed = <usize>(range >> shift) + 2;
  const end = line + (length << 2);
  for (let k = line; k < end; k += 4) count(scratch + (fineBin(load<i32>(k), least, shift) << 2));
  let total: u32 = 0;
  for (let c = scratch; c < scratch + (binsUsed << 2); c += 4) {
    const own = load<u32>(c);
    store<u32>(c, total);
    total += own;
  }
  for (let k = line, i: u32 = 0; k < end; k += 4, i++) {
    const rank = count(scratch + (fineBin(load<i32>(k), least, shift) << 2));
    store<u32>(order + (<usize>rank << 2), i);
  }
  // Bin 0 holds zeros alone.
  let start = <usize>load<u32>(scratch);
  for (let bin: usize = 1; bin < binsUsed; bin++) {
    const stop = <usize>load<u32>(scratch + (bin << 2));
    const origin = least + (<i32>(bin - 1) << <i32>shift);
    if (stop - start > 1) sortBin(line, order + (start << 2), stop - start, order + (length << 2), origin, <i32>shift);
    start = stop;
  }
  memory.fill(scratch, 0, binsUsed << 2);
}

@inline function fineBin(key: i32, least: i32, shift: u32): usize {
  return key == 0 ? 0 : <usize>(<u32>(key - least) >> shift) + 1;
}

function writeRanks(order: usize, start: usize, stop: usize, target: usize, stride: usize): void {
  for (let rank = start; rank < stop; rank++) {
    store<u32>(target + <usize>load<u32>(order + (rank << 2)) * stride, <u32>rank);
  }
}

/** Puts indexes of one bin, whose keys lie in [origin, origin + 2^bits), into the order of their keys, stably. */
function sortBin(line: usize, order: usize, size: usize, spare: usize, origin: i32, bits: i32): void {
  if (size <= INSERTION_MAX) {
    sortShort(line, order, size);
    return;
  }
  let from = order;
  let to = spare;
  for (let shift = 0; shift < bits; shift += 8) {
    sortDigit(line, from, to, size, origin, shift);
    const next = from;
    from = to;
    to = next;
  }
  if (from != order) memory.copy(order, from, size << 2);
}

/** Stable insertion sort of indexes by their keys. */
function sortShort(line: usize, order: usize, size: usize): void {
  for (let i: usize = 1; i < size; i++) {
    const index = load<u32>(order + (i << 2));
    const key = load<i32>(line + (<usize>index << 2));
    let place = order + (i << 2);
    while (place > order) {
      const before = load<u32>(place - 4);
      if (load<i32>(line + (<usize>before << 2)) <= key) break;
      store<u32>(place, before);
      place -= 4;
    }
    store<u32>(place, index);
  }
}

/** One pass of a stable radix sort of indexes by eight bits of what their keys are above an origin. */
function sortDigit(line: usize, source: usize, target: usize, size: usize, origin: i32, shift: i32): void {
  memory.fill(DIGITS, 0, 1024);
  for (let i: usize = 0; i < size; i++) {
    const key = load<i32>(line + (<usize>load<u32>(source + (i << 2)) << 2)) - origin;
    count(DIGITS + (<usize>((key >> shift) & 255) << 2));
  }
  let total: u32 = 0;
  for (let c = DIGITS; c < DIGITS + 1024; c += 4) {
    const own = load<u32>(c);
    store<u32>(c, total);
    total += own;
  }
  for (let i: usize = 0; i < size; i++) {
    const index = load<u32>(source + (i << 2));
    const key = load<i32>(line + (<usize>index << 2)) - origin;
    const rank = count(DIGITS + (<usize>((key >> shift) & 255) << 2));
    store<u32>(target + (<usize>rank << 2), index);
  }
}
