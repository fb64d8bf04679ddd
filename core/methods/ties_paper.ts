import * as z from "zod";
import type { Kernels, Tile } from "../ops/kernels.ts";
import { type BaseSplit, splitBase, splitTiles } from "./frames/base-tiles.ts";
import { countModels, magnitudeOf, searchDeltas } from "./frames/model-cuts.ts";
import { countNonzero, tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import {
  type MergeMethod,
  type MergeTensor,
  numberParameter,
  type Round,
  type ScratchTensor,
  stateList,
  type TileView,
} from "./method.ts";

const ELECTIONS = ["mass", "normfrac", "normmass"] as const;
const MERGES = ["dis-mean", "dis-sum", "dis-max"] as const;

/**
 * TIES as its paper's code does it: one threshold for a model's whole task vector, unweighted votes.
 * Trimmed: D_i where |D_i| is at least the magnitude of rank floor(d K) + 1 of the model, d the elements of the merge;
 * all equal ones are kept. Elected sign: that of sum D_i (`mass`), of the D_i with the largest D_i^2 / |D_i|^2
 * (`normfrac`), of sum sign(D_i) D_i^2 / |D_i|^2 (`normmass`), norms over the whole model; where it is 0, the sign of
 * the sum of all elected signs. Then M is the mean, the sum or the largest magnitude of the values that agree:
 * R = W0 + lambda M.
 * Order and rounding: norms in float64 by tile, rounded to float32; everything else rounds to float32 at each step,
 * sums start at 0 and run in model order.
 * Source: TIES-Merging, arXiv:2306.01708; its code's `merge_methods`, merge reference section 8.1.
 */
export const ties_paper = Object.freeze({
  id: "ties_paper",
  title: "TIES (one threshold per model)",
  source: "TIES-Merging, arXiv:2306.01708",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 0,
  scratchBytes,
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({
    top_k_percent: z.number().positive().lt(100).default(20),
    elect: z.enum(ELECTIONS).default("mass"),
    merge: z.enum(MERGES).default("dis-mean"),
    lambda: z.number().default(1),
  }),
  modelParameters: z.strictObject({}),
  wholeModel: {
    shared: ["top_k_percent", "elect"],
    rounds: ({ parameters }) => [
      ...searchDeltas("magnitudes", 1, (model) => {
        const kept = Math.floor(model.elements * (numberParameter(model.parameters, "top_k_percent") / 100));
        return Array.from({ length: countModels(model) }, () => Math.min(kept + 1, model.elements));
      }),
      ...(parameters.elect === "mass" ? [] : [NORMS]),
      BALANCE,
    ],
  },
  compile(tensor, kernels) {
    const task = createTask(tensor, kernels);
    const lambda = numberParameter(tensor.parameters, "lambda");
    const [balance = 0] = stateList(tensor.state, "balance");
    const takesLargest = tensor.parameters.merge === "dis-max";
    return {
      reduce: [],
      apply: {
        tile(view) {
          const { output, count } = view;
          const { base, others } = splitTiles(view, task.split);
          task.elect(view);
          kernels.fill(output, 0, count);
          kernels.fill(task.counts, 0, count);
          others.forEach((model, index) => {
            kernels.trim(task.trimmed, model, base, task.threshold(index), count);
            kernels.keepSign(task.trimmed, task.elected, Math.sign(balance), count);
            if (takesLargest) kernels.keepLargest(output, task.trimmed, count);
            else kernels.addCounted(output, task.counts, task.trimmed, count);
          });
          if (tensor.parameters.merge === "dis-mean") kernels.divideCounted(output, task.counts, count);
          if (lambda !== 1) kernels.scale(output, output, lambda, count);
          kernels.add(output, base, output, count);
        },
      },
      countKept(view) {
        const { base, others } = splitTiles(view, task.split);
        return others.map((model, index) => {
          kernels.trim(task.trimmed, model, base, task.threshold(index), view.count);
          return countNonzero(kernels, task.trimmed, task.counts, view.count);
        });
      },
    };
  },
} satisfies MergeMethod);

/** Squared norms of the trimmed differences, for elections that weigh by them. */
const NORMS: Round = Object.freeze({
  totals: (tensor) => ({ squares: { kind: "sum", length: countModels(tensor) } }),
  scratchBytes,
  measure(tensor, kernels) {
    const task = createTask(tensor, kernels);
    const squares = new Float64Array(countModels(tensor));
    return {
      pass: {
        tile(view) {
          const { base, others } = splitTiles(view, task.split);
          others.forEach((model, index) => {
            kernels.trim(task.trimmed, model, base, task.threshold(index), view.count);
            squares[index] = (squares[index] ?? 0) + kernels.dot(task.trimmed, task.trimmed, view.count);
          });
        },
      },
      totals: () => ({ squares }),
    };
  },
  decide: ({ squares }) => ({ norms: Array.from(squares ?? [], (square) => Math.fround(Math.sqrt(square))) }),
} satisfies Round);

/** Elected positive signs less negative ones. */
const BALANCE: Round = Object.freeze({
  totals: () => ({ balance: { kind: "count", length: 1 } }),
  scratchBytes,
  measure(tensor, kernels) {
    const task = createTask(tensor, kernels);
    let balance = 0;
    return {
      pass: {
        tile(view) {
          task.elect(view);
          balance += kernels.balanceSigns(task.elected, view.count);
        },
      },
      totals: () => ({ balance: Float64Array.of(balance) }),
    };
  },
  decide: ({ balance }) => ({ balance: Array.from(balance ?? []) }),
} satisfies Round);

/** What a pass over a tensor works with. */
type Task = {
  readonly split: BaseSplit;
  readonly trimmed: Tile;
  readonly elected: Tile;
  readonly counts: Tile;
  /** Of the model at that place among the others. */
  threshold(index: number): number;
  /** Fills `elected` with numbers of the elected signs. */
  elect(view: TileView): void;
};

/** Trimmed, elected, and counts, which a largest square uses before. */
function scratchBytes(tensor: ScratchTensor): number {
  return tilesBytes(3, "element", tensor);
}

function createTask(tensor: MergeTensor, kernels: Kernels): Task {
  const split = splitBase(tensor);
  const size = tileElementsMax("element", tensor);
  const trimmed = kernels.allocateTile(size);
  const elected = kernels.allocateTile(size);
  const counts = kernels.allocateTile(size);
  const thresholds = stateList(tensor.state, "magnitudes").map(magnitudeOf);
  const threshold = (index: number): number => thresholds[index] ?? 0;
  const vote = votingFor(tensor, kernels, { trimmed, elected, counts });
  return {
    split,
    trimmed,
    elected,
    counts,
    threshold,
    elect(view) {
      const { base, others } = splitTiles(view, split);
      kernels.fill(elected, 0, view.count);
      kernels.fill(counts, 0, view.count);
      others.forEach((model, index) => {
        kernels.trim(trimmed, model, base, threshold(index), view.count);
        vote(index, view.count);
      });
    },
  };
}

/** Adds the vote of one model, whose trimmed differences are in `trimmed`, to `elected`. */
function votingFor(
  { parameters, state }: MergeTensor,
  kernels: Kernels,
  { trimmed, elected, counts: best }: Pick<Task, "trimmed" | "elected" | "counts">,
): (index: number, count: number) => void {
  if (parameters.elect === "mass") return (_index, count) => kernels.add(elected, elected, trimmed, count);
  // A model that is the base has no say, whatever its zeros are divided by.
  const divisorOf = (index: number): number => (state?.norms?.[index] ?? 0) ** 2 || 1;
  if (parameters.elect === "normmass") {
    return (index, count) => kernels.addSquares(elected, trimmed, divisorOf(index), count);
  }
  return (index, count) => kernels.keepLargestSquare(best, elected, trimmed, divisorOf(index), count);
}
