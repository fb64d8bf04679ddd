// The integer program of a bit plan, solved exactly: one scheme for every group of tensors, least total loss, at most
// so many bytes. Dynamic programming over the groups keeps the Pareto frontier of partial plans (ZeroQ), and Lagrangian
// bounds drop what cannot beat the best plan known; so the frontier stays small where the program is large.
// Source: AdaQuant, arXiv:2006.10518, equation 6; ZeroQ, arXiv:2001.00281, section 3.2; the bounds are those of the
// multiple-choice knapsack problem (Kellerer, Pferschy, Pisinger, Knapsack Problems, chapter 11).
import assert from "node:assert/strict";
import { type Choice, type ChoiceGroup, undominated } from "./choices.ts";
import { priceAt, traceFrontier } from "./frontier.ts";

export type Solution = {
  /** In the order of the groups. */
  readonly choices: readonly Choice[];
  readonly bytes: number;
  readonly loss: number;
  /** False: partial plans were thinned out for memory, and a plan better by less than `gap` may exist. */
  readonly isOptimal: boolean;
  /** Loss less the bound that no plan of the budget can go below. */
  readonly gap: number;
};

/** Partial plans kept for one group: 20 bytes each, and a step back of 8 for each group. Fewer: earlier thinning. */
const STATES_MAX = 1 << 18;
/** Prices around the budget's own at which plans are bounded and completed. More: fewer states, dearer ones. */
const PRICE_FACTORS = [0, 0.5, 0.8, 0.9, 0.97, 1, 1.03, 1.1, 1.25, 2];

/** Partial plans of the first groups, by bytes upwards and loss downwards. */
type States = {
  readonly bytes: Float64Array;
  readonly loss: Float64Array;
  /** Of each: the plan of one group fewer that it extends, and the choice it adds. */
  readonly parent: Int32Array;
  readonly choice: Int32Array;
};

/** The rest of the groups at one price: what they cost and lose when each takes its best choice at that price. */
type Rest = { readonly price: number; readonly bytes: Float64Array; readonly loss: Float64Array };

/** A whole plan: a state of the first `depth` groups, the others chosen at a price. */
type Incumbent = { readonly loss: number; readonly depth: number; readonly state: number; readonly price: number };

/** The best plan within the budget; undefined when even the smallest choices exceed it. */
export function solveBitPlan(groups: readonly ChoiceGroup[], budgetBytes: number): Solution | undefined {
  const order = orderGroups(groups);
  const options = order.map((index) => undominated(groups[index]?.choices ?? []));
  const smallest = suffixSums(options, (choices) => choices[0]?.bytes ?? Number.POSITIVE_INFINITY);
  if ((smallest[0] ?? 0) > budgetBytes) return undefined;
  const price = priceAt(traceFrontier(groups), budgetBytes);
  const rests = PRICE_FACTORS.map((factor) => restAt(options, factor * price));
  const search: Search = { options, budgetBytes, smallest, rests, layers: [START], best: undefined, isThinned: false };
  improve(search, START, 0);
  const floor = lowerBound(search, 0, 0, 0);
  for (let depth = 0; depth < options.length; depth++) {
    const next = extend(search, depth);
    search.layers.push(next);
    improve(search, next, depth + 1);
  }
  const { best } = search;
  assert.ok(best !== undefined, "the smallest choices fit, and are a plan at an infinite price or found on the way");
  const found = readBack(search, best);
  const choices = groups.map((_, index) => found[order.indexOf(index)]).filter((choice) => choice !== undefined);
  const bytes = choices.reduce((sum, choice) => sum + choice.bytes, 0);
  const loss = choices.reduce((sum, choice) => sum + choice.loss, 0);
  const isOptimal = !search.isThinned;
  return { choices, bytes, loss, isOptimal, gap: isOptimal ? 0 : Math.max(0, loss - floor) };
}

type Search = {
  readonly options: readonly (readonly Choice[])[];
  readonly budgetBytes: number;
  /** Of all groups from an index on, the least bytes. */
  readonly smallest: Float64Array;
  readonly rests: readonly Rest[];
  readonly layers: States[];
  best: Incumbent | undefined;
  isThinned: boolean;
};

const START: States = {
  bytes: Float64Array.of(0),
  loss: Float64Array.of(0),
  parent: Int32Array.of(-1),
  choice: Int32Array.of(-1),
};

/** Large groups first, so that what is left is fine-grained when bounds decide. */
function orderGroups(groups: readonly ChoiceGroup[]): readonly number[] {
  const spread = groups.map(({ choices }) => {
    const bytes = choices.map((choice) => choice.bytes);
    return Math.max(...bytes) - Math.min(...bytes);
  });
  return groups.map((_, index) => index).sort((a, b) => (spread[b] ?? 0) - (spread[a] ?? 0) || a - b);
}

function suffixSums(options: readonly (readonly Choice[])[], value: (choices: readonly Choice[]) => number) {
  const sums = new Float64Array(options.length + 1);
  for (let index = options.length - 1; index >= 0; index--) {
    sums[index] = (sums[index + 1] ?? 0) + value(options[index] ?? []);
  }
  return sums;
}

/** The choice of least loss + price * bytes; the smaller one where two are equal. */
function chooseAt(choices: readonly Choice[], price: number): number {
  let [best, least] = [0, Number.POSITIVE_INFINITY];
  for (const [index, { bytes, loss }] of choices.entries()) {
    const cost = loss + price * bytes;
    if (cost < least) [best, least] = [index, cost];
  }
  return best;
}

function restAt(options: readonly (readonly Choice[])[], price: number): Rest {
  const chosen = (choices: readonly Choice[]) => choices[chooseAt(choices, price)];
  return {
    price,
    bytes: suffixSums(options, (choices) => chosen(choices)?.bytes ?? 0),
    loss: suffixSums(options, (choices) => chosen(choices)?.loss ?? 0),
  };
}

/** No completion of a partial plan of `depth` groups within the budget loses less than this. */
function lowerBound({ rests, budgetBytes }: Search, depth: number, bytes: number, loss: number): number {
  let bound = Number.NEGATIVE_INFINITY;
  for (const rest of rests) {
    const over = bytes + (rest.bytes[depth] ?? 0) - budgetBytes;
    bound = Math.max(bound, loss + (rest.loss[depth] ?? 0) + rest.price * over);
  }
  return bound;
}

/** Completes every state at every price; the least loss that fits is the plan to beat. */
function improve(search: Search, states: States, depth: number): void {
  const { rests, budgetBytes, options } = search;
  for (let state = 0; state < states.bytes.length; state++) {
    const [bytes, loss] = [states.bytes[state] ?? 0, states.loss[state] ?? 0];
    for (const { price, bytes: restBytes, loss: restLoss } of rests) {
      const total = loss + (restLoss[depth] ?? 0);
      if (bytes + (restBytes[depth] ?? 0) > budgetBytes || total >= (search.best?.loss ?? Infinity)) continue;
      search.best = { loss: total, depth, state, price };
    }
    if (search.best === undefined && depth === options.length) search.best = { loss, depth, state, price: 0 };
  }
}

/** States of one group more: every choice of every state, without what exceeds the budget, is dominated or hopeless. */
function extend(search: Search, depth: number): States {
  const { options, budgetBytes, smallest, layers } = search;
  const [choices, states] = [options[depth] ?? [], layers[depth] ?? START];
  const grown: { bytes: number; loss: number; parent: number; choice: number }[] = [];
  const room = budgetBytes - (smallest[depth + 1] ?? 0);
  for (let parent = 0; parent < states.bytes.length; parent++) {
    for (const [choice, option] of choices.entries()) {
      const bytes = (states.bytes[parent] ?? 0) + option.bytes;
      const loss = (states.loss[parent] ?? 0) + option.loss;
      if (bytes > room) break;
      if (lowerBound(search, depth + 1, bytes, loss) >= (search.best?.loss ?? Infinity)) continue;
      grown.push({ bytes, loss, parent, choice });
    }
  }
  grown.sort((a, b) => a.bytes - b.bytes || a.loss - b.loss || a.parent - b.parent);
  let least = Number.POSITIVE_INFINITY;
  const kept = grown.filter(({ loss }) => {
    const isBetter = loss < least;
    if (isBetter) least = loss;
    return isBetter;
  });
  return pack(thin(search, kept));
}

/** Every so many of too many states, the one of least loss always among them. */
function thin<T>(search: Search, kept: readonly T[]): readonly T[] {
  if (kept.length <= STATES_MAX) return kept;
  search.isThinned = true;
  const every = Math.ceil(kept.length / STATES_MAX);
  return kept.filter((_, index) => (kept.length - 1 - index) % every === 0);
}

function pack(kept: readonly { bytes: number; loss: number; parent: number; choice: number }[]): States {
  return {
    bytes: Float64Array.from(kept, ({ bytes }) => bytes),
    loss: Float64Array.from(kept, ({ loss }) => loss),
    parent: Int32Array.from(kept, ({ parent }) => parent),
    choice: Int32Array.from(kept, ({ choice }) => choice),
  };
}

/** The choices of a whole plan, in the order of the search. */
function readBack({ options, layers }: Search, best: Incumbent): readonly (Choice | undefined)[] {
  const found: (Choice | undefined)[] = options.map((choices) => choices[chooseAt(choices, best.price)]);
  for (let depth = best.depth, state = best.state; depth > 0; depth--) {
    found[depth - 1] = options[depth - 1]?.[layers[depth]?.choice[state] ?? 0];
    state = layers[depth]?.parent[state] ?? 0;
  }
  return found;
}
