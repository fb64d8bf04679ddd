// Exact order statistics over a whole model: two rounds of histograms, first of the upper 15 bits of the keys, then of
// the lower 16 within the bin that holds the rank. What is counted is the caller's matter: lists of values whose
// magnitudes are ranked, such as every model's differences to the base.
import assert from "node:assert/strict";
import type { Deltas } from "../../ops/deltas.ts";
import type { Kernels } from "../../ops/kernels.ts";
import { allocatedBytes } from "../../ops/memory.ts";
import {
  type Measurement,
  type MergeTensor,
  type ModelExtent,
  type ModelState,
  type Round,
  type RoundTensor,
  type ScratchTensor,
  type StoredPass,
  stateList,
  type TotalSpecs,
  type Totals,
  totalOf,
} from "../method.ts";
import {
  type Bins,
  COARSE_BINS,
  createHistogram,
  FINE_LENGTH,
  findBin,
  fineBins,
  type Histogram,
} from "../sparsify/histogram.ts";
import { splitBase } from "./base-tiles.ts";

/** Called in a tile for every list, with the values whose magnitudes count. */
export type CountList = (list: number, deltas: Deltas, count: number) => void;

/** What is ranked, and which ranks are wanted. */
type ModelSearch = {
  /** Names its totals and its state. */
  readonly name: string;
  lists(tensor: RoundTensor): number;
  readonly ranksPerList: number;
  /** List by list, its ranks among what is counted; 1 is the largest magnitude. `state` has what `also` decides. */
  ranks(model: ModelExtent, state: ModelState): readonly number[];
  /** Bytes that `measure` allocates. */
  scratchBytes(tensor: ScratchTensor): number;
  /** A pass that counts, and the totals that it gathers besides. */
  measure(tensor: MergeTensor, kernels: Kernels, count: CountList): Measurement;
  /** What the first round gathers and decides besides. */
  readonly also?: { totals(tensor: RoundTensor): TotalSpecs; decide(totals: Totals): ModelState };
};

/**
 * The two rounds of a search. They leave in the state, under the search's name, the key of every list's every rank: the
 * bit pattern of a float32 magnitude, which `magnitudeOf` makes a number.
 */
export function searchRounds(search: ModelSearch): readonly [Round, Round] {
  const { name, ranksPerList } = search;
  const [bins, above] = [`${name}.bins`, `${name}.above`];
  const coarse: Round = {
    totals: (tensor) => ({
      ...histogramSpecs(name, search.lists(tensor), COARSE_BINS.length),
      ...search.also?.totals(tensor),
    }),
    scratchBytes: (tensor) => histogramBytes(search.lists(tensor), COARSE_BINS.length) + search.scratchBytes(tensor),
    measure(tensor, kernels) {
      const histograms = Array.from({ length: search.lists(tensor) }, () => allocateHistogram(kernels, COARSE_BINS));
      const count: CountList = (list, deltas, elements) => pick(histograms, list).add(deltas, elements);
      return withCounts(name, histograms, search.measure(tensor, kernels, count));
    },
    decide(totals, model, state) {
      const decided = search.also?.decide(totals);
      const found = search
        .ranks(model, { ...state, ...decided })
        .map((rank, index) => findBin(totalOf(totals, `${name}.${Math.floor(index / ranksPerList)}`), rank));
      return { ...decided, [bins]: found.map(({ bin }) => bin), [above]: found.map((own) => own.above) };
    },
  };
  const fine: Round = {
    totals: (tensor) => histogramSpecs(name, search.lists(tensor) * ranksPerList, FINE_LENGTH),
    scratchBytes: (tensor) =>
      histogramBytes(search.lists(tensor) * ranksPerList, FINE_LENGTH) + search.scratchBytes(tensor),
    measure(tensor, kernels) {
      const histograms = stateList(tensor.state, bins).map((bin) => allocateHistogram(kernels, fineBins(bin)));
      const count: CountList = (list, deltas, elements) => {
        for (let index = list * ranksPerList; index < (list + 1) * ranksPerList; index++) {
          pick(histograms, index).add(deltas, elements);
        }
      };
      return withCounts(name, histograms, search.measure(tensor, kernels, count));
    },
    decide(totals, model, state) {
      const [upper, before] = [stateList(state, bins), stateList(state, above)];
      const keys = search.ranks(model, state).map((rank, index) => {
        const { bin } = findBin(totalOf(totals, `${name}.${index}`), rank - (before[index] ?? 0));
        return (upper[index] ?? 0) * FINE_LENGTH + bin;
      });
      return { [name]: keys };
    },
  };
  return [coarse, fine];
}

/** Ranks magnitudes of every model's difference to the base, models in the order of the inputs. */
export function searchDeltas(name: string, ranksPerList: number, ranks: ModelSearch["ranks"]): readonly [Round, Round] {
  return searchRounds({
    name,
    lists: countModels,
    ranksPerList,
    ranks,
    scratchBytes: () => 0,
    measure(tensor, _kernels, countList) {
      const { base, others } = splitBase(tensor);
      const pass: StoredPass = {
        storedTile({ dtype, inputs, byteOffset, count }) {
          const from = pick(inputs, base);
          others.forEach((input, list) => {
            countList(list, { dtype, base: from, source: pick(inputs, input), byteOffset }, count);
          });
        },
      };
      return { pass, totals: () => ({}) };
    },
  });
}

/** Inputs beside the base. */
export function countModels({ inputs }: RoundTensor): number {
  return inputs.filter(({ isBase }) => !isBase).length;
}

/** The float32 number of a key. */
export function magnitudeOf(key: number): number {
  return new Float32Array(Uint32Array.of(key).buffer)[0] ?? 0;
}

function histogramSpecs(name: string, count: number, length: number): TotalSpecs {
  return Object.fromEntries(
    Array.from({ length: count }, (_, index) => [`${name}.${index}`, { kind: "count", length } as const]),
  );
}

function histogramBytes(count: number, bins: number): number {
  return count * allocatedBytes(4 * bins);
}

function allocateHistogram(kernels: Kernels, bins: Bins): Histogram {
  return createHistogram(kernels, kernels.allocateBlock(4 * bins.length), bins);
}

/** The measurement with what the histograms counted among its totals. */
function withCounts(name: string, histograms: readonly Histogram[], { pass, totals }: Measurement): Measurement {
  return {
    pass,
    totals: () => ({
      ...totals(),
      ...Object.fromEntries(histograms.map((histogram, index) => [`${name}.${index}`, histogram.counts()])),
    }),
  };
}

function pick<Item>(items: readonly Item[], index: number): Item {
  const item = items[index];
  assert.ok(item !== undefined, "a list or input of the tensor");
  return item;
}
