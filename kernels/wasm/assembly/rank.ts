// The order of one line's keys: dealt into about as many bins as keys, then each bin sorted. Stable, so equal keys stay
// in index order.

/** Most bins that a line is dealt into: 32-bit counters, zero between lines. */
const BINS: usize = 32768;
/** More bins than this for every key are not worth walking. */
const BINS_PER_KEY: usize = 4;
/** Longest run that is sorted by insertion. */
const INSERTION_MAX: usize = 32;
/** Counters of one digit of eight bits. */
const DIGITS: usize = memory.data(1024);

/** Writes the indexes of `length` keys to `order`, smallest key first; behind it, as many words are spare. */
export function sortLine(line: usize, length: usize, order: usize, counters: usize): void {
  if (length <= INSERTION_MAX) {
    for (let i: usize = 0; i < length; i++) store<u32>(order + (i << 2), <u32>i);
    sortShort(line, order, length);
    return;
  }
  // Of the keys above zero; a key less one is the largest where it was zero.
  let least: u32 = 0xffffffff;
  let most: u32 = 0;
  for (let k = line; k < line + (length << 2); k += 4) {
    least = min(least, load<u32>(k) - 1);
    most = max(most, load<u32>(k));
  }
  sortInBins(line, length, order, counters, <i32>(least + 1), <i32>most);
}

@inline function count(counter: usize): u32 {
  const before = load<u32>(counter);
  store<u32>(counter, before + 1);
  return before;
}

/** `least` and `most` are those of the keys above zero; zeros have a bin of their own. */
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
