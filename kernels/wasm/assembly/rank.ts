// core/ops/rank.ts: ranks of the keys of each line. Keys are dealt into bins by their upper 16 bits; a bin whose keys all
// have the same lower 16 bits needs no order of its own (BF16 differences mostly do), any other is sorted.

const LOWER: i32 = 0xffff;
/** Bins of a 31-bit key's upper half. */
const BINS: usize = 32768;
/** More bins than this for every key, and sorting the line is cheaper than counting in bins. */
const WIDE: usize = 4;
/** Longest run that is sorted by insertion. */
const INSERTION_MAX: usize = 32;
/** Counters of one digit of eight bits. */
const DIGITS: usize = memory.data(1024);

/** Scratch: counters and flags of the bins, then keys, order and spare of one line. Counters are zero between lines. */
@inline function flagsOf(scratch: usize): usize {
  return scratch + (BINS << 2);
}

@inline function keysOf(scratch: usize): usize {
  return flagsOf(scratch) + BINS;
}

/** Address of the counter of the bin of the key at `address`: its upper half as an index. */
@inline function counterOf(address: usize, scratch: usize): usize {
  return scratch + (<usize>load<u16>(address, 2) << 2);
}

/** `keys` become ranks: `outer` blocks of `length` x `inner` keys, each line along the middle axis. */
export function rankKeys(keys: usize, outer: i32, length: i32, inner: i32, scratch: usize): void {
  memory.fill(scratch, 0, BINS << 2);
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

/** What rankLine needs to know of a line: its largest key, its least one above zero, and all lower halves. */
const SCAN: usize = memory.data(16);

function scanLine(line: usize, length: usize): void {
  const end = line + (length << 2);
  const vectorEnd = line + ((length & ~3) << 2);
  let least = i32x4.splat(-1);
  let most = i32x4.splat(0);
  let lowers = i32x4.splat(0);
  let k = line;
  for (; k < vectorEnd; k += 16) {
    const keys = v128.load(k);
    // Less one: zero becomes the largest, so the least is that of the others.
    least = i32x4.min_u(least, i32x4.sub(keys, i32x4.splat(1)));
    most = i32x4.max_s(most, keys);
    lowers = v128.or(lowers, keys);
  }
  for (; k < end; k += 4) {
    const keys = v128.load32_splat(k);
    least = i32x4.min_u(least, i32x4.sub(keys, i32x4.splat(1)));
    most = i32x4.max_s(most, keys);
    lowers = v128.or(lowers, keys);
  }
  least = i32x4.min_u(least, v128.shuffle<u32>(least, least, 2, 3, 0, 1));
  least = i32x4.min_u(least, v128.shuffle<u32>(least, least, 1, 0, 3, 2));
  most = i32x4.max_s(most, v128.shuffle<u32>(most, most, 2, 3, 0, 1));
  most = i32x4.max_s(most, v128.shuffle<u32>(most, most, 1, 0, 3, 2));
  lowers = v128.or(lowers, v128.shuffle<u32>(lowers, lowers, 2, 3, 0, 1));
  lowers = v128.or(lowers, v128.shuffle<u32>(lowers, lowers, 1, 0, 3, 2));
  store<i32>(SCAN, i32x4.extract_lane(least, 0) + 1);
  store<i32>(SCAN, i32x4.extract_lane(most, 0), 4);
  store<i32>(SCAN, i32x4.extract_lane(lowers, 0), 8);
}

/** Ranks of `length` keys at `line` to `target`, `stride` bytes apart; both may be the same place. */
function rankLine(line: usize, length: usize, target: usize, stride: usize, scratch: usize): void {
  scanLine(line, length);
  // Zeros have bin 0; no other key lies below the least one, so that only the bins of keys that occur are walked.
  const firstBin = <usize>(load<i32>(SCAN) >>> 16);
  const lastBin = <usize>(load<i32>(SCAN, 4) >>> 16);
  if (lastBin - min(firstBin, lastBin) > length * WIDE) {
    const own = keysOf(scratch);
    if (own != line) memory.copy(own, line, length << 2);
    const order = own + (length << 2);
    sortLine(own, length, order, order + (length << 2));
    writeRanks(order, 0, length, target, stride);
    return;
  }
  const isMixed = (load<i32>(SCAN, 8) & LOWER) != 0;
  const end = line + (length << 2);
  for (let k = line; k < end; k += 4) {
    const counter = counterOf(k, scratch);
    store<u32>(counter, load<u32>(counter) + 1);
  }
  const zeros = load<u32>(scratch);
  store<u32>(scratch, 0);
  let total = firstBin == 0 ? 0 : zeros;
  if (firstBin == 0) store<u32>(scratch, zeros);
  const stop = scratch + (lastBin << 2);
  for (let c = scratch + (firstBin << 2); c <= stop; c += 4) {
    const own = load<u32>(c);
    store<u32>(c, total);
    total += own;
  }
  if (isMixed) rankMixed(line, length, target, stride, scratch, firstBin, lastBin);
  else {
    for (let k = line, t = target; k < end; k += 4, t += stride) {
      const counter = counterOf(k, scratch);
      const rank = load<u32>(counter);
      store<u32>(counter, rank + 1);
      store<u32>(t, rank);
    }
  }
  store<u32>(scratch, 0);
  if (firstBin <= lastBin) memory.fill(scratch + (firstBin << 2), 0, (lastBin - firstBin + 1) << 2);
}

/** The second half of rankLine where keys of one bin may differ: those bins are sorted. */
function rankMixed(
  line: usize,
  length: usize,
  target: usize,
  stride: usize,
  scratch: usize,
  firstBin: usize,
  lastBin: usize,
): void {
  const own = keysOf(scratch);
  if (own != line) memory.copy(own, line, length << 2);
  const order = own + (length << 2);
  const flags = flagsOf(scratch);
  memory.fill(flags + firstBin, 0, lastBin - firstBin + 1);
  const end = own + (length << 2);
  for (let k = own, t = target, i: u32 = 0; k < end; k += 4, t += stride, i++) {
    const counter = counterOf(k, scratch);
    const rank = load<u32>(counter);
    store<u32>(counter, rank + 1);
    store<u32>(t, rank);
    store<u32>(order + (<usize>rank << 2), i);
    if (load<u16>(k) != 0) store<u8>(flags + <usize>load<u16>(k, 2), 1);
  }
  let start = firstBin == 0 ? 0 : <usize>load<u32>(scratch);
  for (let bin = firstBin; bin <= lastBin; bin++) {
    // A counter now stands at the end of its bin.
    const stop = <usize>load<u32>(scratch + (bin << 2));
    if (load<u8>(flags + bin) != 0 && stop - start > 1) {
      sortBin(own, order + (start << 2), stop - start, order + (length << 2));
      writeRanks(order, start, stop, target, stride);
    }
    start = stop;
  }
}

function writeRanks(order: usize, start: usize, stop: usize, target: usize, stride: usize): void {
  for (let rank = start; rank < stop; rank++) {
    store<u32>(target + <usize>load<u32>(order + (rank << 2)) * stride, <u32>rank);
  }
}

/** The indexes of a line in the order of their keys. */
function sortLine(line: usize, length: usize, order: usize, spare: usize): void {
  for (let i: usize = 0; i < length; i++) store<u32>(order + (i << 2), <u32>i);
  if (length <= INSERTION_MAX) {
    sortShort(line, order, length);
    return;
  }
  sortDigit(line, order, spare, length, 0);
  sortDigit(line, spare, order, length, 8);
  sortDigit(line, order, spare, length, 16);
  sortDigit(line, spare, order, length, 24);
}

/** Puts indexes of one bin, whose keys have equal upper halves, into the order of their keys. */
function sortBin(line: usize, order: usize, count: usize, spare: usize): void {
  if (count <= INSERTION_MAX) {
    sortShort(line, order, count);
    return;
  }
  sortDigit(line, order, spare, count, 0);
  sortDigit(line, spare, order, count, 8);
}

/** Stable insertion sort of indexes by their keys. */
function sortShort(line: usize, order: usize, count: usize): void {
  for (let i: usize = 1; i < count; i++) {
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

/** One pass of a stable radix sort of indexes by eight bits of their keys. */
function sortDigit(line: usize, source: usize, target: usize, count: usize, shift: i32): void {
  memory.fill(DIGITS, 0, 1024);
  for (let i: usize = 0; i < count; i++) {
    const key = load<i32>(line + (<usize>load<u32>(source + (i << 2)) << 2));
    const counter = DIGITS + (<usize>((key >> shift) & 255) << 2);
    store<u32>(counter, load<u32>(counter) + 1);
  }
  let total: u32 = 0;
  for (let c = DIGITS; c < DIGITS + 1024; c += 4) {
    const own = load<u32>(c);
    store<u32>(c, total);
    total += own;
  }
  for (let i: usize = 0; i < count; i++) {
    const index = load<u32>(source + (i << 2));
    const key = load<i32>(line + (<usize>index << 2));
    const counter = DIGITS + (<usize>((key >> shift) & 255) << 2);
    const place = load<u32>(counter);
    store<u32>(counter, place + 1);
    store<u32>(target + (<usize>place << 2), index);
  }
}
