// Exact order statistics of magnitudes, streaming, without sorting. A sample of the tensor puts each wanted statistic
// between two keys; one pass over everything counts what lies above and below and lists the few keys between, among
// which the statistic is found. Where the sample misled, or too much lies between, two passes of histograms find it
// instead. The result is exact in every case: the sample only decides how fast.
import assert from "node:assert/strict";
import { wordsOf } from "../../ops/deltas.ts";
import { type Block, type Kernels, TILE_ELEMENTS } from "../../ops/kernels.ts";
import { allocatedBytes, doublesOf } from "../../ops/memory.ts";
import type { Bracket, BracketCounts } from "../../ops/select.ts";
import type { ElementSpan } from "../method.ts";
import { COARSE_BINS, createHistogram, FINE_LENGTH, findBin, fineBins, type Histogram } from "./histogram.ts";
import type { DeltaPass, DeltaTile } from "./sparsifier.ts";

/** The key of one rank, how many keys are larger, and how many are equal to it, itself included. */
type Found = { readonly key: number; readonly above: number; readonly equal: number };

/**
 * What is found, and how many of the equal keys come before each tile of TILE_ELEMENTS and before the end; that says
 * nothing where the passes come in other tiles.
 */
export type Cut = Found & { readonly equalBefore: Float64Array };

/** A sample is of spans of so many elements, spread evenly. */
const SPAN_ELEMENTS = 4096;
/** A tensor of no more elements is its own sample; no sample is smaller. */
const SAMPLE_ELEMENTS_MIN = 64 * SPAN_ELEMENTS;
/** A sample is this much larger than one that would do if its elements were drawn independently. */
const SAMPLE_MARGIN = 1.5;
/** Half-width of a bracket in standard deviations of the sampled rank, estimated from the spread between spans. */
const DEVIATIONS = 5;
/** A list for each rank has room for this share of the elements, and all lists together for this many keys. */
const LIST_SHARE = 1 / 32;
const LIST_KEYS_MAX = 2 ** 24;
/** Lists are planned to fill up to this share. */
const LIST_FILL = 0.75;

/** Larger than every key. */
const ABOVE_ALL = 0x7fffffff;

export type CutSearch = {
  readonly passes: readonly DeltaPass[];
  /** The statistic of rank `ranks[source][index]`; after the passes. */
  cut(source: number, index: number): Cut;
  /** Scratch of a model: free once the passes are over, with room for a tile of keys. */
  scratch(source: number): Block;
};

/** Keys that a model's block has room for: its sample, its lists, or the bins of its histograms. */
function blockKeys(total: number, sources: number, ranks: number): number {
  if (total <= SAMPLE_ELEMENTS_MIN) return Math.max(total, TILE_ELEMENTS);
  return Math.max(
    SAMPLE_ELEMENTS_MIN,
    ranks * listKeys(total, sources * ranks),
    COARSE_BINS.length + ranks * FINE_LENGTH,
  );
}

function listKeys(total: number, lists: number): number {
  return Math.max(FINE_LENGTH, Math.min(Math.ceil(total * LIST_SHARE), Math.floor(LIST_KEYS_MAX / lists)));
}

/** Elements of a sample from which a bracket around the median of a large tensor comes out that its list can hold. */
function sampleElements(total: number, lists: number): number {
  const keys = listKeys(total, lists);
  const wanted = SAMPLE_MARGIN * ((DEVIATIONS * total) / (LIST_FILL * keys)) ** 2;
  return SPAN_ELEMENTS * Math.floor(Math.max(SAMPLE_ELEMENTS_MIN, Math.min(wanted, keys)) / SPAN_ELEMENTS);
}

/** Words of one rank's counts by tile, an even number: the float64 sums that a cut has, and three of a bracket. */
function tallyWords(total: number): number {
  return sumWords(total) + 4 * Math.ceil((3 * tilesOf(total)) / 4);
}

/** One sum more than tiles. */
function sumWords(total: number): number {
  return 2 * (tilesOf(total) + 1);
}

function tilesOf(total: number): number {
  return Math.ceil(total / TILE_ELEMENTS);
}

/** Kernel memory of a search over `sources` models with at most `ranks` ranks each. */
export function searchBytes(total: number, sources: number, ranks: number): number {
  const tallies = allocatedBytes(4 * ranks * tallyWords(total));
  return sources * (allocatedBytes(4 * blockKeys(total, sources, ranks)) + tallies);
}

/**
 * Passes over all elements that a search for `lists` ranks among `total` elements takes as a rule: one, over all of
 * them where they are the sample, else where the bracket of a median fits into its list; otherwise three of histograms.
 */
export function searchPasses(total: number, lists: number): number {
  if (total <= SAMPLE_ELEMENTS_MIN) return 1;
  const sampled = sampleElements(total, lists);
  const share = (2 * bracketWidth(Math.sqrt(sampled) / 2)) / sampled;
  return fitsList(share * total, listKeys(total, lists)) ? 1 : 3;
}

/** 1 is the largest magnitude; a function where it is known only when the first pass is over. */
export type Rank = number | (() => number);

/** One wanted rank of one model, and what is known of it. */
type Search = {
  readonly source: number;
  readonly rank: () => number;
  /** Its parts of the model's block. */
  readonly list: Block;
  readonly bins: Block;
  bracket: Bracket | undefined;
  readonly counts: { -readonly [kind in keyof BracketCounts]: number };
  /** Three words a tile: keys equal to the bracket's upper end, inside it, and both with its lower end. */
  readonly tally: Block;
  readonly equalBefore: Float64Array;
  /** Of the histograms: the coarse bin that holds the rank, and the keys above it. */
  coarse: { bin: number; above: number };
  /** By the histograms. */
  found: Found | undefined;
  cut: Cut | undefined;
};

/**
 * Finds, for every model, the magnitudes of given ranks among `total` elements. Cost: one pass as a rule, none besides
 * the sample for tensors of at most 262144 elements, four when the sample misleads, three when its list cannot hold
 * what the sample leaves open (searchPasses).
 */
export function createCutSearch(kernels: Kernels, total: number, ranks: readonly (readonly Rank[])[]): CutSearch {
  const most = ranks.reduce((count, own) => Math.max(count, own.length), 1);
  const blocks = ranks.map(() => kernels.allocateBlock(4 * blockKeys(total, ranks.length, most)));
  const tallies = ranks.map(() => kernels.allocateBlock(4 * most * tallyWords(total)));
  const lists = ranks.length * most;
  const searches = ranks.flatMap((own, source) =>
    own.map((rank, index) => {
      const at = { total, lists, source, rank, index };
      return createSearch(pickBlock(blocks)(source), pickBlock(tallies)(source), at);
    }),
  );
  if (total === 0 || searches.length === 0) return { passes: [], cut: () => EMPTY, scratch: pickBlock(blocks) };
  return {
    passes: [
      samplePass(kernels, { total, lists }, searches, blocks),
      bracketPass(kernels, searches),
      coarsePass(kernels, searches, blocks),
      finePass(kernels, searches),
      equalPass(kernels, searches),
    ],
    cut(source, index) {
      const { cut } = searches.filter((search) => search.source === source)[index] ?? {};
      assert.ok(cut !== undefined, "a cut is known after the passes");
      return cut;
    },
    scratch: pickBlock(blocks),
  };
}

const EMPTY: Cut = { key: 0, above: 0, equal: 0, equalBefore: new Float64Array(1) };

function pickBlock(blocks: readonly Block[]): (source: number) => Block {
  return (source) => {
    const block = blocks[source];
    assert.ok(block !== undefined, "a sparse model has a block");
    return block;
  };
}

function createSearch(
  block: Block,
  tallies: Block,
  at: { total: number; lists: number; source: number; rank: Rank; index: number },
): Search {
  const [first, sums] = [at.index * tallyWords(at.total), sumWords(at.total)];
  const keys = at.total <= SAMPLE_ELEMENTS_MIN ? 0 : listKeys(at.total, at.lists);
  const bins = at.total <= SAMPLE_ELEMENTS_MIN ? 0 : FINE_LENGTH;
  return {
    source: at.source,
    rank: () => (typeof at.rank === "number" ? at.rank : at.rank()),
    list: part(block, at.index * keys, keys),
    bins: part(block, bins === 0 ? 0 : COARSE_BINS.length + at.index * bins, bins),
    bracket: undefined,
    counts: { above: 0, atHigh: 0, held: 0, listed: 0 },
    tally: part(tallies, first + sums, 3 * tilesOf(at.total)),
    equalBefore: doublesOf(part(tallies, first, sums)),
    coarse: { bin: 0, above: 0 },
    found: undefined,
    cut: undefined,
  };
}

/** Words [first, first + count) of a block. */
function part(block: Block, first: number, count: number): Block {
  return { address: block.address + 4 * first, bytes: block.bytes.subarray(4 * first, 4 * (first + count)) };
}

function samplePass(
  kernels: Kernels,
  { total, lists }: { readonly total: number; readonly lists: number },
  searches: readonly Search[],
  blocks: readonly Block[],
): DeltaPass {
  const isWhole = total <= SAMPLE_ELEMENTS_MIN;
  let sampled = 0;
  return {
    spans: isWhole ? undefined : sampleSpans(total, sampleElements(total, lists)),
    tile(tile) {
      blocks.forEach((block, source) => {
        kernels.writeKeys(tile.deltas(source), block, sampled, tile.count);
      });
      sampled += tile.count;
    },
    finish() {
      for (const search of searches) {
        const keys = wordsOf(pickBlock(blocks)(search.source)).subarray(0, sampled);
        if (isWhole) search.cut = cutOfAll(keys, search);
        else search.bracket = bracketOf(keys, search, total);
      }
    },
  };
}

/** The cut among all keys of the tensor. */
function cutOfAll(keys: Uint32Array, search: Search): Cut {
  const found = searchAmong(keys)(search.rank());
  const { key } = found;
  return cutOf(search, found, (tile) => {
    const start = tile * TILE_ELEMENTS;
    return countBetween(keys, key - 1, key + 1, start, Math.min(keys.length, start + TILE_ELEMENTS));
  });
}

/** Adds up how many equal keys each tile has; asked for tiles in order. */
function cutOf({ equalBefore }: Search, found: Found, equalIn: (tile: number) => number): Cut {
  let before = 0;
  for (let tile = 0; tile < equalBefore.length; tile++) {
    equalBefore[tile] = before;
    if (tile + 1 < equalBefore.length) before += equalIn(tile);
  }
  return { ...found, equalBefore };
}

function sampleSpans(total: number, elements: number): readonly ElementSpan[] {
  const spans = elements / SPAN_ELEMENTS;
  return Array.from({ length: spans }, (_, index) => {
    const middle = ((index + 0.5) * total) / spans;
    return { first: Math.floor(middle - SPAN_ELEMENTS / 2), count: SPAN_ELEMENTS };
  });
}

/** The keys that a rank surely lies between, going by a sample; undefined when too much lies between. */
function bracketOf(sample: Uint32Array, { rank: rankOf, list }: Search, total: number): Bracket | undefined {
  const rank = rankOf();
  const share = rank / total;
  const center = Math.min(sample.length, Math.max(1, Math.round(share * sample.length)));
  const cutAt = searchAmong(sample);
  const width = bracketWidth(rankDeviation(sample, cutAt(center).key, share));
  const high = center - width < 1 ? ABOVE_ALL : cutAt(center - width).key;
  const low = center + width > sample.length ? 0 : cutAt(center + width).key;
  const inside = countBetween(sample, low, high, 0, sample.length);
  const expected = (inside / sample.length) * total;
  return fitsList(expected, list.bytes.length / 4) ? { low, high } : undefined;
}

/** Sampled keys on either side of the rank, which has this standard deviation in the sample. */
function bracketWidth(deviation: number): number {
  return Math.ceil(DEVIATIONS * deviation) + 8;
}

function fitsList(expected: number, keys: number): boolean {
  return expected <= LIST_FILL * keys - TILE_ELEMENTS;
}

/**
 * Standard deviation of the number of sampled keys above a key: of independent draws, or of spans where that is more.
 */
function rankDeviation(sample: Uint32Array, key: number, share: number): number {
  const spans = sample.length / SPAN_ELEMENTS;
  const counts = Array.from({ length: spans }, (_, span) =>
    countBetween(sample, key, ABOVE_ALL, span * SPAN_ELEMENTS, (span + 1) * SPAN_ELEMENTS),
  );
  const mean = counts.reduce((sum, count) => sum + count, 0) / spans;
  const variance = counts.reduce((sum, count) => sum + (count - mean) ** 2, 0) / (spans - 1);
  return Math.sqrt(Math.max(sample.length * share * (1 - share), spans * variance));
}

/** Keys strictly between two, among those from `start` to before `end`. */
function countBetween(keys: Uint32Array, low: number, high: number, start: number, end: number): number {
  let count = 0;
  for (let i = start; i < end; i++) {
    const key = keys[i] ?? 0;
    if (key > low && key < high) count++;
  }
  return count;
}

function bracketPass(kernels: Kernels, searches: readonly Search[]): DeltaPass {
  return {
    isNeeded: () => searches.some(({ bracket }) => bracket !== undefined),
    takesWindows: true,
    tile(tile) {
      for (const search of searches) countTiles(kernels, search, tile);
    },
    finish() {
      for (const search of searches) if (search.bracket !== undefined) search.cut = cutInBracket(search);
    },
  };
}

function countTiles(kernels: Kernels, search: Search, tile: DeltaTile): void {
  const { bracket, counts, list, tally } = search;
  if (bracket === undefined) return;
  const at = 3 * Math.floor(tile.firstElement / TILE_ELEMENTS);
  const own = part(tally, at, wordsOf(tally).length - at);
  const deltas = tile.deltas(search.source);
  const found = kernels.countBracket(deltas, bracket, list, counts.listed, own, tile.count, TILE_ELEMENTS);
  if (found === undefined) {
    search.bracket = undefined;
    return;
  }
  counts.above += found.above;
  counts.atHigh += found.atHigh;
  counts.held += found.held;
  counts.listed = found.listed;
}

/** The cut, when it lies in the bracket after all. */
function cutInBracket(search: Search): Cut | undefined {
  const { rank: rankOf, bracket, counts, list } = search;
  const { above, atHigh, held, listed } = counts;
  const rank = rankOf();
  if (bracket === undefined || rank <= above || rank > above + held) return undefined;
  const tally = wordsOf(search.tally);
  if (rank <= above + atHigh) {
    return cutOf(search, { key: bracket.high, above, equal: atHigh }, (tile) => tally[3 * tile] ?? 0);
  }
  const belowHigh = rank - above - atHigh;
  if (belowHigh > listed) {
    const found = { key: bracket.low, above: above + atHigh + listed, equal: held - atHigh - listed };
    return cutOf(search, found, (tile) => {
      const [high = 0, inside = 0, all = 0] = tally.subarray(3 * tile, 3 * tile + 3);
      return all - high - inside;
    });
  }
  const keys = wordsOf(list).subarray(0, listed);
  const inside = searchAmong(keys)(belowHigh);
  let end = 0;
  return cutOf(search, { ...inside, above: above + atHigh + inside.above }, (tile) => {
    const start = end;
    end += tally[3 * tile + 1] ?? 0;
    return countBetween(keys, inside.key - 1, inside.key + 1, start, end);
  });
}

/** Those that the passes before did not end. */
function uncut(searches: readonly Search[]): readonly Search[] {
  return searches.filter(({ cut }) => cut === undefined);
}

function coarsePass(kernels: Kernels, searches: readonly Search[], blocks: readonly Block[]): DeltaPass {
  let histograms: ReadonlyMap<number, Histogram> = new Map();
  return {
    isNeeded: () => uncut(searches).length > 0,
    tile(tile) {
      if (tile.firstElement === 0) {
        histograms = new Map(
          uncut(searches).map(({ source }) => [
            source,
            createHistogram(kernels, pickBlock(blocks)(source), COARSE_BINS),
          ]),
        );
      }
      for (const [source, histogram] of histograms) histogram.add(tile.deltas(source), tile.count);
    },
    finish() {
      for (const search of uncut(searches)) {
        search.coarse = findBin(histograms.get(search.source)?.counts() ?? [], search.rank());
      }
    },
  };
}

function finePass(kernels: Kernels, searches: readonly Search[]): DeltaPass {
  let histograms: ReadonlyMap<Search, Histogram> = new Map();
  return {
    isNeeded: () => uncut(searches).length > 0,
    tile(tile) {
      if (tile.firstElement === 0) {
        histograms = new Map(
          uncut(searches).map((search) => [search, createHistogram(kernels, search.bins, fineBins(search.coarse.bin))]),
        );
      }
      for (const [{ source }, histogram] of histograms) histogram.add(tile.deltas(source), tile.count);
    },
    finish() {
      for (const [search, histogram] of histograms) {
        const { bin, above, count } = findBin(histogram.counts(), search.rank() - search.coarse.above);
        const key = search.coarse.bin * FINE_LENGTH + bin;
        search.found = { key, above: search.coarse.above + above, equal: count };
      }
    },
  };
}

/** Counts the equal keys by tile of what the histograms have found. */
function equalPass(kernels: Kernels, searches: readonly Search[]): DeltaPass {
  return {
    isNeeded: () => uncut(searches).length > 0,
    tile(tile) {
      for (const { source, found, tally } of uncut(searches)) {
        const equal = kernels.countEqual(tile.deltas(source), found?.key ?? 0, tile.count);
        wordsOf(tally)[Math.floor(tile.firstElement / TILE_ELEMENTS)] = equal;
      }
    },
    finish() {
      for (const search of uncut(searches)) {
        const { found } = search;
        const tally = wordsOf(search.tally);
        if (found !== undefined) search.cut = cutOf(search, found, (tile) => tally[tile] ?? 0);
      }
    },
  };
}

/** Finds cuts of ranks among keys, by the same two histograms; of ranks that lie close together each is made once. */
function searchAmong(keys: Uint32Array): (rank: number) => Found {
  const upperBins = new Uint32Array(COARSE_BINS.length);
  const lowerBins = new Uint32Array(FINE_LENGTH);
  let lowerOf = -1;
  // Indexes, not iterators: this runs over a quarter of a million keys for every large tensor and model.
  for (let i = 0; i < keys.length; i++) {
    const bin = (keys[i] ?? 0) >>> 16;
    upperBins[bin] = (upperBins[bin] ?? 0) + 1;
  }
  const fillLower = (upperBin: number): void => {
    lowerBins.fill(0);
    lowerOf = upperBin;
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i] ?? 0;
      if (key >>> 16 === upperBin) lowerBins[key & 0xffff] = (lowerBins[key & 0xffff] ?? 0) + 1;
    }
  };
  return (rank) => {
    const upper = findBin(upperBins, rank);
    if (upper.bin !== lowerOf) fillLower(upper.bin);
    const lower = findBin(lowerBins, rank - upper.above);
    return { key: upper.bin * FINE_LENGTH + lower.bin, above: upper.above + lower.above, equal: lower.count };
  };
}
