import * as z from "zod";
import type { Kernels, Tile } from "../ops/kernels.ts";
import { subTile } from "../ops/memory.ts";
import { type BaseSplit, splitBase } from "./frames/base-tiles.ts";
import { loneProgram, sumOfOthers } from "./frames/combinations.ts";
import { createGramPass, product } from "./frames/gram.ts";
import { compileNuslerpWorking } from "./frames/nuslerp-working.ts";
import { tileElementsMax, tilesBytes } from "./frames/tiles.ts";
import { byColumn, byRow, type Grouping, rowLength, WHOLE } from "./frames/vector-groups.ts";
import { type MergeMethod, type MergeTensor, numbersOf, type TensorProgram } from "./method.ts";

/** Least length a vector is divided by. Source: merge reference section 4.3 step 5. */
const NORM_FLOOR = 1e-7;
/** Weights that sum to less share evenly. Source: as above, step 2. */
const WEIGHTS_FLOOR = 1e-6;
/** Below this sine the vectors are parallel or opposite and the interpolation is a straight line; our rule, step 6. */
const SINE_FLOOR = 1e-6;
/** The reference's own floor, under `strict` in 16 bits. */
const REFERENCE_SINE_FLOOR = 1e-8;

/**
 * Spherical interpolation by weights, t = w2 / (w1 + w2): of whole tensors, of rows (`nuslerp_flatten: false`), or of
 * columns (`nuslerp_row_wise: true`, the reference's name for axis 0). With a base as third model, of the differences
 * to it. R = (sin((1-t) th) a + sin(t th) b) / sin th; a straight line where the sine is below 1e-6.
 * Norms and products of whole tensors as `addProducts` says, else in float64; trigonometry in float64 on scalars,
 * factors rounded to float32. Under `strict` in 16 bits every step rounds to these, as in the reference.
 * Source: mergekit `nuslerp`, merge reference section 4.3.
 */
export const nuslerp = Object.freeze({
  id: "nuslerp",
  title: "NuSLERP (spherical interpolation by weights)",
  source: "mergekit, https://github.com/arcee-ai/mergekit",
  inputCount: { min: 1, max: 3 },
  base: "optional",
  locality: "row",
  reducePasses: 1,
  scratchBytes: (tensor) => tilesBytes(tensor.inputs.length, "row", tensor),
  seeded: false,
  embeddingMismatch: "common",
  referenceDtype: "promoted",
  parameters: z.strictObject({
    nuslerp_flatten: z.boolean().default(true),
    nuslerp_row_wise: z.boolean().default(false),
  }),
  modelParameters: z.strictObject({ weight: z.number() }),
  isIdentity: ({ inputs }) => inputs.length === 1,
  refuse({ inputs }) {
    if (inputs.length === 1) return undefined;
    const hasBase = inputs.some(({ isBase }) => isBase);
    const expected = hasBase ? "two models and a base that is neither of them" : "two models";
    return inputs.length === (hasBase ? 3 : 2) ? undefined : { found: `${inputs.length} models`, expected };
  },
  compile(tensor, kernels) {
    if (tensor.inputs.length === 1) return loneProgram();
    const split = splitBase(tensor);
    const pair: Pair = { tensor, kernels, split, t: ratioOf(tensor, split) };
    if (tensor.working !== undefined) {
      const floors = { norm: NORM_FLOOR, sine: REFERENCE_SINE_FLOOR };
      return compileNuslerpWorking(tensor, kernels, groupingOf(tensor), pair.t, floors);
    }
    if (tensor.parameters.nuslerp_flatten === true) return compileWhole(pair);
    return tensor.parameters.nuslerp_row_wise === true ? compileColumns(pair) : compileRows(pair);
  },
} satisfies MergeMethod);

type Pair = {
  readonly tensor: MergeTensor;
  readonly kernels: Kernels;
  readonly split: BaseSplit;
  readonly t: number;
};

/** What is one vector. */
function groupingOf({ parameters, shape }: MergeTensor): Grouping {
  if (parameters.nuslerp_flatten === true) return WHOLE;
  return parameters.nuslerp_row_wise === true ? byColumn(shape) : byRow(shape);
}

function ratioOf(tensor: MergeTensor, { others }: BaseSplit): number {
  const [first = 0, second = 0] = numbersOf(tensor, others, "weight");
  const sum = first + second;
  return Math.abs(sum) < WEIGHTS_FLOOR ? 0.5 : second / sum;
}

/** Factors of two vectors from their squared norms and product. */
function factorsOf(t: number, aa: number, ab: number, bb: number): readonly [number, number] {
  const scale = Math.max(Math.sqrt(aa), NORM_FLOOR) * Math.max(Math.sqrt(bb), NORM_FLOOR);
  const angle = Math.acos(Math.min(1, Math.max(-1, ab / scale)));
  const sine = Math.sin(angle);
  if (Math.abs(sine) < SINE_FLOOR) return [1 - t, t];
  return [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine];
}

function compileWhole({ kernels, split, t }: Pair): TensorProgram {
  const { pass, gram } = createGramPass(kernels, split);
  const combination = () =>
    sumOfOthers(factorsOf(t, product(gram, 0, 0), product(gram, 0, 1), product(gram, 1, 1)), split);
  return { reduce: [pass], apply: { deltas: split.base >= 0, combination } };
}

/** The two vectors of a tile: the inputs, or their differences to the base in tiles of their own. */
function createDifferences({ tensor, kernels, split }: Pair): (inputs: readonly Tile[], count: number) => Tile[] {
  const { base, others } = split;
  const deltas = base < 0 ? [] : others.map(() => kernels.allocateTile(tileElementsMax("row", tensor)));
  return (inputs, count) =>
    others.flatMap((index, position) => {
      const [own, delta, origin] = [inputs[index], deltas[position], inputs[base]];
      if (own === undefined) return [];
      if (delta === undefined || origin === undefined) return [own];
      kernels.subtract(delta, own, origin, count);
      return [delta];
    });
}

function compileRows(pair: Pair): TensorProgram {
  const { tensor, kernels, split, t } = pair;
  const columns = rowLength(tensor.shape);
  const differences = createDifferences(pair);
  return {
    reduce: [],
    apply: {
      tile({ inputs, output, count }) {
        const [a, b] = differences(inputs, count);
        const origin = inputs[split.base];
        if (a === undefined || b === undefined) return;
        for (let start = 0; start < count; start += columns) {
          const [rowA, rowB] = [subTile(a, start, columns), subTile(b, start, columns)];
          const products = [kernels.dot(rowA, rowA, columns), kernels.dot(rowA, rowB, columns)] as const;
          const [fa, fb] = factorsOf(t, products[0], products[1], kernels.dot(rowB, rowB, columns));
          const target = subTile(output, start, columns);
          kernels.scale(target, rowA, fa, columns);
          kernels.addScaled(target, rowB, fb, columns);
          if (origin !== undefined) kernels.add(target, subTile(origin, start, columns), target, columns);
        }
      },
    },
  };
}

/** Columns: vectors along axis 0, their products added row by row in float64. A tensor of one axis is one vector. */
function compileColumns(pair: Pair): TensorProgram {
  const { tensor, split, t } = pair;
  const { groups: columns, of: columnOf } = byColumn(tensor.shape);
  const products = { aa: new Float64Array(columns), ab: new Float64Array(columns), bb: new Float64Array(columns) };
  const factors = { a: new Float32Array(columns), b: new Float32Array(columns) };
  const differences = createDifferences(pair);
  return {
    reduce: [
      {
        tile({ inputs, firstElement, count }) {
          const [a, b] = differences(inputs, count);
          for (let element = 0; element < count; element++) {
            const [x, y] = [a?.values[element] ?? 0, b?.values[element] ?? 0];
            const column = columnOf(firstElement + element);
            products.aa[column] = (products.aa[column] ?? 0) + x * x;
            products.ab[column] = (products.ab[column] ?? 0) + x * y;
            products.bb[column] = (products.bb[column] ?? 0) + y * y;
          }
        },
        finish() {
          for (let column = 0; column < columns; column++) {
            const [aa, ab, bb] = [products.aa[column] ?? 0, products.ab[column] ?? 0, products.bb[column] ?? 0];
            [factors.a[column], factors.b[column]] = factorsOf(t, aa, ab, bb);
          }
        },
      },
    ],
    apply: {
      tile({ inputs, output, firstElement, count }) {
        const [a, b] = differences(inputs, count);
        const origin = inputs[split.base];
        for (let element = 0; element < count; element++) {
          const column = columnOf(firstElement + element);
          const left = Math.fround((a?.values[element] ?? 0) * (factors.a[column] ?? 0));
          const sum = Math.fround(left + Math.fround((b?.values[element] ?? 0) * (factors.b[column] ?? 0)));
          output.values[element] = (origin?.values[element] ?? 0) + sum;
        }
      },
    },
  };
}
