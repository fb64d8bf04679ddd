import * as z from "zod";
import type { Kernels, Tile } from "../ops/kernels.ts";
import { elementCount } from "../tensor.ts";
import { type BaseSplit, splitBase, splitTiles } from "./frames/base-tiles.ts";
import { countModels } from "./frames/model-cuts.ts";
import { chosenTask, refuseChoice, TASK_PARAMETER } from "./frames/task-choice.ts";
import { tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import {
  type MergeMethod,
  type MergeTensor,
  type Round,
  type ScratchTensor,
  stateList,
  type TileView,
} from "./method.ts";

const EMITS = ["model", "unified", "mask"] as const;

/**
 * EMR-Merging: elect, mask, rescale. g = sign(sum_i D_i), - where that is 0; U = g max_i |D_i| over the D_i of sign g;
 * mask_i: where D_i has sign g; scale_i = (sum over tensors of mean |D_i|) / (the same of |U mask_i|), 1 where a model
 * is the base. The output is one task's model, that of the model with `task: true`: R = W0 + scale_i mask_i U. `emit:
 * unified` writes U, `emit: mask` its mask as 0 and 1: what all tasks share, and what each needs besides.
 * Order and rounding: means in float64 by tile, scales rounded to float32; everything else rounds to float32 at each
 * step, sums in model order.
 * Source: Huang et al., arXiv:2405.17461; fusion_bench `emr_merge`, merge reference section 8.4.
 */
export const emr = Object.freeze({
  id: "emr",
  title: "EMR-Merging (elect, mask, rescale)",
  source: "EMR-Merging: Tuning-Free High-Performance Model Merging, arXiv:2405.17461",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 0,
  scratchBytes,
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({ emit: z.enum(EMITS).default("model") }),
  modelParameters: z.strictObject(TASK_PARAMETER),
  wholeModel: { shared: ["emit"], rounds: ({ parameters }) => (parameters.emit === "model" ? [MEANS] : []) },
  refuse: (tensor) => refuseChoice(tensor, tensor.parameters.emit !== "unified"),
  compile(tensor, kernels) {
    const task = createTask(tensor, kernels);
    const chosen = chosenTask(tensor) ?? 0;
    const scale = tensor.parameters.emit === "model" ? (stateList(tensor.state, "scales")[chosen] ?? 1) : 1;
    return {
      reduce: [],
      apply: {
        tile(view) {
          const { output, count } = view;
          task.unify(view);
          if (tensor.parameters.emit === "unified") {
            kernels.copy(output, task.unified, count);
            return;
          }
          const { base } = splitTiles(view, task.split);
          if (tensor.parameters.emit === "mask") {
            task.agree(view, chosen);
            // Counting what is not 0 leaves 0 and 1.
            kernels.fill(output, 0, count);
            kernels.addCounted(task.elected, output, task.own, count);
            return;
          }
          task.mask(view, chosen);
          kernels.scale(task.own, task.own, scale, count);
          kernels.add(output, base, task.own, count);
        },
      },
    };
  },
} satisfies MergeMethod);

/** Mean magnitudes of every tensor: of the models' differences, then of the unified ones under their masks. */
const MEANS: Round = Object.freeze({
  totals: (tensor) => ({
    own: { kind: "sum", length: countModels(tensor) },
    shared: { kind: "sum", length: countModels(tensor) },
  }),
  scratchBytes,
  measure(tensor, kernels) {
    const task = createTask(tensor, kernels);
    const [own, shared] = [new Float64Array(countModels(tensor)), new Float64Array(countModels(tensor))];
    const mean = (sums: Float64Array) => sums.map((sum) => sum / Math.max(1, elementCount(tensor.shape)));
    return {
      pass: {
        tile(view) {
          const { base, others } = splitTiles(view, task.split);
          task.unify(view);
          others.forEach((model, index) => {
            kernels.subtract(task.own, model, base, view.count);
            own[index] = (own[index] ?? 0) + kernels.sumAbsolute(task.own, view.count);
            task.mask(view, index);
            shared[index] = (shared[index] ?? 0) + kernels.sumAbsolute(task.own, view.count);
          });
        },
      },
      totals: () => ({ own: mean(own), shared: mean(shared) }),
    };
  },
  decide: ({ own, shared }) => ({
    scales: Array.from(own ?? [], (sum, index) => {
      const other = shared?.[index] ?? 0;
      return other === 0 ? 1 : Math.fround(sum / other);
    }),
  }),
} satisfies Round);

type Task = {
  readonly split: BaseSplit;
  readonly elected: Tile;
  readonly unified: Tile;
  readonly own: Tile;
  /** Fills `elected` with the sum of the differences, and `unified`. */
  unify(view: TileView): void;
  /** Fills `own` with the differences of a model that agree in sign, 0 elsewhere. */
  agree(view: TileView, index: number): void;
  /** Fills `own` with the unified differences under a model's mask. */
  mask(view: TileView, index: number): void;
};

function scratchBytes(tensor: ScratchTensor): number {
  return tilesBytes(4, "element", tensor);
}

function createTask(tensor: MergeTensor, kernels: Kernels): Task {
  const split = splitBase(tensor);
  const size = tileElementsMax("element", tensor);
  const [elected, unified] = [kernels.allocateTile(size), kernels.allocateTile(size)];
  const [own, delta] = [kernels.allocateTile(size), kernels.allocateTile(size)];
  const agree = (view: TileView, index: number): void => {
    const { base, others } = splitTiles(view, split);
    kernels.subtract(own, others[index] ?? base, base, view.count);
    kernels.keepSign(own, elected, -1, view.count);
  };
  return {
    split,
    elected,
    unified,
    own,
    agree,
    unify(view) {
      const { base, others } = splitTiles(view, split);
      kernels.fill(elected, 0, view.count);
      for (const model of others) kernels.addScaledDifference(elected, model, base, 1, view.count);
      kernels.fill(unified, 0, view.count);
      others.forEach((_, index) => {
        agree(view, index);
        kernels.keepLargest(unified, own, view.count);
      });
    },
    mask(view, index) {
      const { base, others } = splitTiles(view, split);
      kernels.subtract(delta, others[index] ?? base, base, view.count);
      kernels.copy(own, unified, view.count);
      // Unified differences have the elected sign: a model agrees where its own have the same.
      kernels.keepSign(own, delta, 0, view.count);
    },
  };
}
