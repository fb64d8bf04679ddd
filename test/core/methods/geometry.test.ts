// What the golden cases of the spherical methods and of Model Stock do not show: refusals, degenerate directions, and
// invariants. Method: methods compiled on the scalar kernels, a whole small tensor as one tile.
import assert from "node:assert/strict";
import test from "node:test";
import { blockOf } from "../../../core/methods/frames/tiles.ts";
import { karcher } from "../../../core/methods/karcher.ts";
import type { MergeInput, MergeMethod, MergeTensor } from "../../../core/methods/method.ts";
import { model_stock } from "../../../core/methods/model_stock.ts";
import { multislerp } from "../../../core/methods/multislerp.ts";
import { nuslerp } from "../../../core/methods/nuslerp.ts";
import { createScalarKernels } from "../../../core/ops/kernels.ts";

type Spec = { readonly base?: number; readonly weights?: readonly number[]; readonly parameters?: object };

function tensorOf(
  method: MergeMethod,
  count: number,
  length: number,
  { base, weights, parameters }: Spec,
): MergeTensor {
  const inputs = Array.from({ length: count }, (_, index): MergeInput => {
    const weight = weights === undefined ? {} : { weight: weights[index] ?? 1 };
    return { model: `m${index}`, isBase: index === base, parameters: index === base ? {} : weight };
  });
  const values = Object.entries(method.parameters.parse(parameters ?? {})).flatMap(([name, value]) =>
    typeof value === "number" || typeof value === "boolean" ? [[name, value] as const] : [],
  );
  const rules = { nonFinite: "error", strict: false } as const;
  return { name: "w", shape: [length], inputs, parameters: Object.fromEntries(values), seed: 0, rules };
}

/** Runs a method on whole vectors. */
function merge(method: MergeMethod, vectors: readonly (readonly number[])[], spec: Spec = {}): readonly number[] {
  const kernels = createScalarKernels(2 ** 20);
  const count = vectors[0]?.length ?? 0;
  const inputs = vectors.map((values) => {
    const tile = kernels.allocateTile(count);
    tile.values.set(values);
    return tile;
  });
  const output = kernels.allocateTile(count);
  const view = { inputs, output, firstElement: 0, count };
  const { reduce, apply } = method.compile(tensorOf(method, vectors.length, count, spec), kernels);
  for (const pass of reduce) {
    if ("tile" in pass) pass.tile(view);
    else pass.storedTile({ ...view, dtype: "F32", inputs: inputs.map(blockOf), byteOffset: 0, tileElements: count });
    pass.finish?.();
  }
  if ("tile" in apply) apply.tile(view);
  else if ("combination" in apply) {
    const { factors } = apply.combination();
    const origin = apply.deltas ? (vectors[spec.base ?? 0] ?? []) : [];
    output.values.forEach((_, at) => {
      const sum = vectors.reduce((total, values, i) => {
        const value = (values[at] ?? 0) - (origin[at] ?? 0);
        return total + (apply.deltas && i === spec.base ? 0 : value * (factors[i] ?? 0));
      }, 0);
      output.values[at] = (origin[at] ?? 0) + sum;
    });
  }
  return [...output.values];
}

const close = (got: readonly number[], want: readonly number[]) =>
  got.forEach((value, index) => {
    assert.ok(Math.abs(value - (want[index] ?? 0)) < 1e-6, `${got} is not ${want}`);
  });

test("equal tensors merge to themselves", () => {
  const vector = [3, -4, 12];
  for (const method of [karcher, multislerp, nuslerp]) {
    close(merge(method, [vector, vector], { weights: [1, 3] }), vector);
  }
  close(merge(model_stock, [[1, 1, 1], vector, vector], { base: 0 }), vector);
});

test("the Karcher mean of two orthogonal vectors lies half way, with their mean length", () => {
  close(
    merge(karcher, [
      [2, 0],
      [0, 4],
    ]),
    [3 * Math.SQRT1_2, 3 * Math.SQRT1_2],
  );
});

test("nuslerp goes by the weights' ratio along the arc, of whole tensors, rows and columns alike for one row", () => {
  const want = [Math.cos(Math.PI / 8), Math.sin(Math.PI / 8)];
  const weights = [3, 1];
  close(
    merge(
      nuslerp,
      [
        [1, 0],
        [0, 1],
      ],
      { weights },
    ),
    want,
  );
  for (const row_wise of [false, true]) {
    const parameters = { nuslerp_flatten: false, nuslerp_row_wise: row_wise };
    close(
      merge(
        nuslerp,
        [
          [1, 0],
          [0, 1],
        ],
        { weights, parameters },
      ),
      want,
    );
  }
});

test("nuslerp shares evenly where the weights cancel", () => {
  const vectors = [
    [1, 0],
    [0, 1],
  ];
  close(merge(nuslerp, vectors, { weights: [1, -1] }), [Math.SQRT1_2, Math.SQRT1_2]);
});

test("opposite vectors are joined by a straight line", () => {
  close(
    merge(
      nuslerp,
      [
        [1, 2],
        [-1, -2],
      ],
      { weights: [3, 1] },
    ),
    [0.5, 1],
  );
});

test("Model Stock without agreement stays at the base; clamp_t keeps it from going beyond", () => {
  const vectors = [
    [0, 0],
    [1, 0],
    [-0.5, 1],
  ];
  close(
    merge(
      model_stock,
      [
        [1, 1],
        [2, 1],
        [1, 2],
      ],
      { base: 0 },
    ),
    [1, 1],
  );
  assert.ok((merge(model_stock, vectors, { base: 0 })[1] ?? 0) < 0);
  close(merge(model_stock, vectors, { base: 0, parameters: { clamp_t: true } }), [0, 0]);
});

test("more than two directions that cancel out leave multislerp nothing to go by", () => {
  const third = [-0.5, Math.sqrt(3) / 2];
  const vectors = [[1, 0], third, [-0.5, -Math.sqrt(3) / 2]].map((vector) => vector.map(Math.fround));
  const parameters = { eps: 1e-6 };
  assert.throws(() => merge(multislerp, vectors, { weights: [1, 1, 1], parameters }), {
    code: "EngineMethodDegenerate",
    where: { tensor: "w" },
  });
});

test("impossible numbers of models and weights are refused from headers", () => {
  const refusal = (method: MergeMethod, count: number, spec: Spec) => method.refuse?.(tensorOf(method, count, 2, spec));
  assert.equal(refusal(nuslerp, 2, { base: 0, weights: [1, 1] })?.found, "2 models");
  assert.equal(refusal(nuslerp, 3, { weights: [1, 1, 1] })?.found, "3 models");
  assert.equal(refusal(nuslerp, 3, { base: 2, weights: [1, 1] }), undefined);
  assert.equal(refusal(nuslerp, 1, { weights: [1] }), undefined);
  assert.equal(refusal(multislerp, 2, { weights: [1, -1] })?.parameter, "weight");
  assert.equal(
    refusal(multislerp, 2, { base: 0, weights: [0] }),
    undefined,
    "a lone model is returned whatever its weight",
  );
  const free = { normalize_weights: false };
  assert.equal(refusal(multislerp, 2, { weights: [1, -1], parameters: free }), undefined);
});
