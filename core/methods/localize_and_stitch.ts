import * as z from "zod";
import { splitBase, splitTiles } from "./frames/base-tiles.ts";
import { magnitudeOf, searchDeltas } from "./frames/model-cuts.ts";
import { countNonzero, tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import { type MergeMethod, type ModelExtent, numberParameter, stateList } from "./method.ts";

/**
 * Localize-and-Stitch without data: of every task vector the elements above the magnitude of rank floor(density d), d
 * the elements of the merge, one threshold for the whole model; where several are kept their mean:
 * R = W0 + (sum_i D_i [|D_i| > threshold_i]) / max(c, 1), c the number of models kept at the element.
 * Elements equal to the threshold are dropped, so one fewer than the rank is kept.
 * Order and rounding: each step to float32, sums in model order.
 * Source: He et al., arXiv:2408.13656, its dataless form; merge reference section 8.5.
 */
export const localize_and_stitch = Object.freeze({
  id: "localize_and_stitch",
  title: "Localize-and-Stitch (dataless)",
  source: "Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic, arXiv:2408.13656",
  inputCount: { min: 2, max: Number.POSITIVE_INFINITY },
  base: "required",
  locality: "element",
  reducePasses: 0,
  scratchBytes: (tensor) => tilesBytes(2, "element", tensor),
  seeded: false,
  embeddingMismatch: "base",
  parameters: z.strictObject({}),
  modelParameters: z.strictObject({ density: z.number().positive().max(1).default(0.05) }),
  wholeModel: {
    shared: ["density"],
    rounds: () => searchDeltas("magnitudes", 1, (model) => countKept(model).map(({ count }) => count)),
    refuse(model) {
      const empty = countKept(model).find(({ count }) => count === 0);
      if (empty === undefined) return undefined;
      const { density } = empty;
      const found = `${density} of ${model.elements} elements, which keeps none`;
      return { model: empty.model, parameter: "density", found, expected: `at least ${1 / model.elements}` };
    },
  },
  compile(tensor, kernels) {
    const split = splitBase(tensor);
    const size = tileElementsMax("element", tensor);
    const [kept, counts] = [kernels.allocateTile(size), kernels.allocateTile(size)];
    // The least float32 number above the threshold.
    const least = stateList(tensor.state, "magnitudes").map((key) => magnitudeOf(key + 1));
    return {
      reduce: [],
      apply: {
        tile(view) {
          const { output, count } = view;
          const { base, others } = splitTiles(view, split);
          kernels.fill(output, 0, count);
          kernels.fill(counts, 0, count);
          others.forEach((model, index) => {
            kernels.trim(kept, model, base, least[index] ?? 0, count);
            kernels.addCounted(output, counts, kept, count);
          });
          kernels.divideCounted(output, counts, count);
          kernels.add(output, base, output, count);
        },
      },
      countKept(view) {
        const { base, others } = splitTiles(view, split);
        return others.map((model, index) => {
          kernels.trim(kept, model, base, least[index] ?? 0, view.count);
          return countNonzero(kernels, kept, counts, view.count);
        });
      },
    };
  },
} satisfies MergeMethod);

/** Of every model beside the base, how many elements its density stands for. */
function countKept({ inputs, elements }: ModelExtent) {
  return inputs.flatMap(({ model, isBase, parameters }) => {
    if (isBase) return [];
    const density = numberParameter(parameters, "density");
    return { model, density, count: Math.floor(density * elements) };
  });
}
