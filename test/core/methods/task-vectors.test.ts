// Goal: the family does what sections 4.6 to 4.10 of the merge reference say, whatever way the numbers are found.
// Method: whole tensors through the engine, compared bit for bit with a plain implementation that sorts; sizes around
// the sample's, values that mislead the sample, equal magnitudes, and every dtype.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { breadcrumbs } from "../../../core/methods/breadcrumbs.ts";
import { breadcrumbs_ties } from "../../../core/methods/breadcrumbs_ties.ts";
import { dare_linear } from "../../../core/methods/dare_linear.ts";
import { dare_ties } from "../../../core/methods/dare_ties.ts";
import { della } from "../../../core/methods/della.ts";
import { della_linear } from "../../../core/methods/della_linear.ts";
import type { MergeMethod } from "../../../core/methods/method.ts";
import { task_arithmetic } from "../../../core/methods/task_arithmetic.ts";
import { ties } from "../../../core/methods/ties.ts";
import { createScalarKernels, type Kernels } from "../../../core/ops/kernels.ts";
import { allocatedBytes } from "../../../core/ops/memory.ts";
import { kernelBytes, UNWATCHED } from "../../../core/plan/memory.ts";
import { streamKey, uniformAt } from "../../../core/random.ts";
import { elementCount } from "../../../core/tensor.ts";
import { createWasmKernels } from "../../../kernels/wasm/host.ts";
import { runTensor, type TensorCase, unitTensorOf } from "../../engine/in-memory.ts";
import { uniforms } from "../../random-numbers.ts";

const { fround } = Math;
type Kept = (deltas: Float32Array, model: number) => readonly boolean[];

/** Values from a fixed sequence; `step`: multiples of it, so that many magnitudes are equal. */
function randomValues(count: number, seed: number, step = 0): Float32Array {
  const next = uniforms(seed * 2654435761 + 1);
  return new Float32Array(count).map(() => {
    const value = next() - 0.5;
    return step === 0 ? value : Math.round(value / step) * step;
  });
}

/** Indexes by ascending magnitude, equal ones in index order. */
function ascending(deltas: Float32Array): Uint32Array {
  return sortedIndexes(deltas, (magnitude) => magnitude);
}

/** The k largest; of equal ones the lowest index first. */
function largest(deltas: Float32Array, density: number): readonly boolean[] {
  const descending = sortedIndexes(deltas, (magnitude) => 2 ** 31 - 1 - magnitude);
  return marked(deltas.length, descending.subarray(0, Math.floor(density * deltas.length)));
}

/** Indexes by a rank that is made of the bits of the magnitude, then by themselves: one number, which sorts fast. */
function sortedIndexes(deltas: Float32Array, rankOf: (magnitudeBits: number) => number): Uint32Array {
  const bits = new Uint32Array(deltas.map(Math.abs).buffer);
  const keys = new Float64Array(bits).map((magnitude, i) => rankOf(magnitude) * 2 ** 20 + i).sort();
  return new Uint32Array(keys.map((key) => key % 2 ** 20));
}

function band(deltas: Float32Array, density: number, gamma: number): readonly boolean[] {
  const count = deltas.length;
  const keep = Math.floor(density * count);
  let top = Math.floor(gamma * count);
  const bottom = count - keep - top;
  if (bottom < 0) top += bottom;
  return marked(count, ascending(deltas).subarray(Math.max(0, bottom), count - top));
}

function marked(count: number, indexes: Uint32Array): readonly boolean[] {
  const kept = new Array<boolean>(count).fill(false);
  for (const index of indexes) kept[index] = true;
  return kept;
}

/** The frame, one element after the other. */
function expected(entry: TensorCase, kept: Kept, elects: boolean, normalizes: boolean): Float32Array {
  const [base, ...others] = entry.models;
  assert.ok(base !== undefined);
  const lambda = Number(entry.parameters?.lambda ?? 1);
  const vectors = others.map(({ values, parameters }, model) => {
    const deltas = values.map((value, i) => value - (base.values[i] ?? 0));
    const mask = kept(deltas, model);
    const weight = fround(parameters?.weight ?? 0);
    return { weight, values: deltas.map((delta, i) => fround(delta * (mask[i] ? 1 : 0)) * weight) };
  });
  return base.values.map((origin, i) => {
    let total = 0;
    for (const { values } of vectors) total = fround(total + (values[i] ?? 0));
    const majority = total >= 0 ? 1 : -1;
    let [sum, weights] = [0, 0];
    for (const { values, weight } of vectors) {
      const vote = !elects || Math.sign(values[i] ?? 0) === majority ? 1 : 0;
      sum = fround(sum + (values[i] ?? 0) * vote);
      weights = fround(weights + weight * vote);
    }
    if (normalizes) sum = fround(sum / (weights === 0 ? 1 : weights));
    if (lambda !== 1) sum = fround(sum * fround(lambda));
    return fround(origin + sum);
  });
}

function caseOf(
  method: MergeMethod,
  shape: readonly number[],
  step: number,
  own: Record<string, number>[],
): TensorCase {
  const count = elementCount(shape);
  return {
    method,
    shape,
    models: [
      { model: "base", values: randomValues(count, 1, step) },
      ...own.map((parameters, index) => ({
        model: `ft${index}`,
        values: randomValues(count, index + 2, step),
        // A method of dense differences has no density.
        parameters: method === task_arithmetic ? { weight: parameters.weight ?? 1 } : parameters,
      })),
    ],
  };
}

function same(got: Float32Array, wanted: Float32Array, what = ""): void {
  const wrong = got.findIndex((value, i) => !Object.is(value, wanted[i]));
  assert.equal(wrong, -1, `${what}: element ${wrong} is ${got[wrong]}, expected ${wanted[wrong]}`);
}

/** One element, odd lengths, tiles, the sample's size and beyond it. */
const SHAPES = [[1], [13], [97, 171], [512, 512], [3, 100_003]] as const;

describe("sparsifying by magnitude is exact", () => {
  for (const shape of SHAPES) {
    for (const step of [0, 1 / 16]) {
      const title = `[${shape}], ${step === 0 ? "distinct" : "equal"} magnitudes`;

      test(`ties of ${title}`, async () => {
        const densities = [0.3, 0.71];
        const own = densities.map((density, index) => ({
          density: Math.max(density, 1 / elementCount(shape)),
          weight: 0.9 - 1.3 * index,
        }));
        const entry = caseOf(ties, shape, step, own);
        const kept: Kept = (delta, model) => largest(delta, own[model]?.density ?? 0);
        same((await runTensor(entry)).values, expected(entry, kept, true, true));
      });

      test(`breadcrumbs of ${title}`, async () => {
        const own = [
          { density: 0.4, gamma: 0.1, weight: 0.5 },
          { density: 0.95, gamma: 0.2, weight: 0.25 },
          { density: 0.6, gamma: 0, weight: 0.25 },
        ];
        const kept: Kept = (delta, model) => band(delta, own[model]?.density ?? 0, own[model]?.gamma ?? 0);
        const plain = { ...caseOf(breadcrumbs, shape, step, own), parameters: { lambda: 0.7 } };
        same((await runTensor(plain)).values, expected(plain, kept, false, false), "breadcrumbs");
        const elected = caseOf(breadcrumbs_ties, shape, step, own);
        same((await runTensor(elected)).values, expected(elected, kept, true, false), "breadcrumbs_ties");
      });
    }
  }

  test("one pass besides the result's as a rule, a sample alone for small tensors", async () => {
    const passesOf = async (shape: readonly number[]) =>
      (await runTensor(caseOf(ties, shape, 0, [{ density: 0.3, weight: 1 }]))).passes;
    assert.equal(await passesOf([100, 100]), 2);
    const large = await passesOf([1200, 1001]);
    assert.ok(large > 2 && large < 2.3, `${large} passes`);
  });

  test("a sample that misleads costs passes, never exactness", async () => {
    // The sampled spans hold small values, all else large ones: the wanted rank lies far outside the bracket.
    const [shape, count] = [[1000, 1001], 1_001_000];
    const entry = caseOf(ties, shape, 0, [{ density: 0.3, weight: 1 }]);
    const values = entry.models[1]?.values ?? new Float32Array();
    for (let span = 0; span < 64; span++) {
      const first = Math.floor(((span + 0.5) * count) / 64 - 2048);
      for (let i = 0; i < 4096; i++) values[first + i] = (entry.models[0]?.values[first + i] ?? 0) + 2 ** -20;
    }
    const run = await runTensor(entry);
    // The sample, the bracket, two histograms and the result.
    assert.ok(run.passes > 4, `${run.passes} passes`);
    same(
      run.values,
      expected(entry, (delta) => largest(delta, 0.3), true, true),
    );
  });

  test("values that crowd together beyond the list are counted instead", async () => {
    // Half the tensor within a part in 10^5: too many between any two keys of a sample that varies so much by span.
    const [shape, count] = [[1000, 1001], 1_001_000];
    const entry = caseOf(breadcrumbs, shape, 0, [{ density: 0.5, gamma: 0.25, weight: 1 }]);
    const [base, tuned] = entry.models.map(({ values }) => values);
    for (let i = 0; i < count / 2; i++) if (tuned && base) tuned[i] = (base[i] ?? 0) * (i % 2 === 0 ? 1 : 1.001);
    const run = await runTensor(entry);
    assert.ok(run.passes > 3, `${run.passes} passes`);
    same(
      run.values,
      expected(entry, (delta) => band(delta, 0.5, 0.25), false, false),
    );
  });

  test("NaN takes a slot of the largest and stays, when it may", async () => {
    const entry = caseOf(ties, [40], 0, [
      { density: 0.1, weight: 1 },
      { density: 1, weight: 1 },
    ]);
    const values = entry.models[1]?.values ?? new Float32Array();
    values[7] = Number.NaN;
    const { values: got, result } = await runTensor({ ...entry, rules: { nonFinite: "propagate" } });
    assert.deepEqual(
      [...got.keys()].filter((i) => Number.isNaN(got[i])),
      [7],
    );
    assert.deepEqual(result.nonFiniteInputs, [0, 1, 0]);
    await assert.rejects(runTensor(entry), { code: "EngineNonFinite" });
  });
});

describe("sparsifying at random", () => {
  test("counts what is not finite in slices longer than a tile, from stored values to stored ones", async () => {
    const shape = [2, 64, 800];
    const entry = caseOf(della, shape, 0, [{ density: 0.5, epsilon: 0.1, weight: 1 }]);
    const models = entry.models.map((model) => ({ ...model, dtype: "BF16" as const }));
    const values = models[1]?.values ?? new Float32Array();
    for (const place of [3, 9000, 51_199, 51_200, 102_399]) values[place] = Number.NaN;
    const bf16 = { ...entry, models, dtype: "BF16" as const, parameters: { rescale: "none" } };
    const { result } = await runTensor({ ...bf16, rules: { nonFinite: "propagate" } });
    assert.deepEqual([result.nonFiniteInputs, result.nonFiniteOutput], [[0, 5], 5]);
    await assert.rejects(runTensor(bf16), { code: "EngineNonFinite", found: "5 values" });
  });

  const count = 97 * 171;
  const keptBy = (got: Float32Array, base: Float32Array) => Array.from(got, (value, i) => value !== base[i]);

  test("keeps exactly the elements whose random number is below the density", async () => {
    const entry = { ...caseOf(dare_linear, [97, 171], 0, [{ density: 0.35, weight: 1 }]), seed: 42, name: "layer" };
    const { values } = await runTensor({ ...entry, parameters: { rescale: false } });
    const key = streamKey(42, "layer", "ft0");
    const wanted = expected(entry, (delta) => Array.from(delta, (_, i) => uniformAt(key, i) < 0.35), false, false);
    same(values, wanted);
  });

  test("masks differ by seed, tensor and model, and by nothing else", async () => {
    const entry = caseOf(dare_linear, [97, 171], 0, [{ density: 0.5, weight: 1 }]);
    const [base, tuned] = entry.models;
    assert.ok(base && tuned);
    const maskOf = async (more: Partial<TensorCase>, model = "ft0") => {
      const parts = [base, { ...tuned, model }];
      return keptBy((await runTensor({ ...entry, models: parts, ...more })).values, base.values)
        .map(Number)
        .join("");
    };
    const masks = await Promise.all([maskOf({}), maskOf({ seed: 1 }), maskOf({ name: "other" }), maskOf({}, "ft1")]);
    assert.equal(new Set(masks).size, 4);
    assert.equal(await maskOf({ method: dare_ties, shape: [count] }), masks[0]);
  });

  test("rescaling: l1 keeps the norm, inverse_density divides by it, none leaves survivors as they are", async () => {
    const entry = caseOf(dare_linear, [97, 171], 0, [{ density: 0.25, weight: 1 }]);
    const [base, tuned] = entry.models.map(({ values }) => values);
    assert.ok(base && tuned);
    const norm = async (rescale: string | boolean) => {
      const { values } = await runTensor({ ...entry, parameters: { rescale } });
      return values.reduce((sum, value, i) => sum + Math.abs(value - (base[i] ?? 0)), 0);
    };
    const all = tuned.reduce((sum, value, i) => sum + Math.abs(value - (base[i] ?? 0)), 0);
    const none = await norm("none");
    assert.ok(Math.abs((await norm("l1")) / all - 1) < 1e-5);
    assert.equal(await norm(true), await norm("l1"));
    assert.equal(await norm(false), none);
    assert.ok(Math.abs((await norm("inverse_density")) / none - 4) < 1e-5);
  });

  test("della ranks magnitudes within rows, in tensors of more axes along the second", async () => {
    const own = [{ density: 0.5, epsilon: 0.2, weight: 1 }];
    for (const [shape, inner] of [
      [[31, 200], 1],
      [[5, 40, 3, 3], 9],
      [[200], 1],
    ] as const) {
      const entry = { ...caseOf(della_linear, shape, 1 / 64, own), parameters: { rescale: false } };
      const length = shape.length === 1 ? 200 : (shape[1] ?? 0);
      const key = streamKey(0, "tensor", "ft0");
      const kept: Kept = (delta) => {
        const marks = Array.from(delta, () => false);
        for (let line = 0; line < delta.length / length; line++) {
          const first = Math.floor(line / inner) * length * inner + (line % inner);
          const own = Float32Array.from({ length }, (_, i) => delta[first + i * inner] ?? 0);
          ascending(own).forEach((position, rank) => {
            const index = first + position * inner;
            marks[index] = uniformAt(key, index) < 0.5 - 0.2 + (rank / (length - 1)) * 0.4;
          });
        }
        return marks;
      };
      same((await runTensor(entry)).values, expected(entry, kept, false, false), `[${shape}]`);
    }
  });

  test("a density of 0 keeps nothing, of 1 everything", async () => {
    for (const method of [dare_ties, della]) {
      for (const density of [0, 1]) {
        const entry = caseOf(method, [97, 171], 0, [{ density, weight: 0.5 }]);
        const { values } = await runTensor(entry);
        const all: Kept = (delta) => Array.from(delta, () => density === 1);
        same(values, expected(entry, all, true, method === della), `${method.id} ${density}`);
      }
    }
  });
});

/** Kernels that remember the most memory that was taken at a time. */
function measured(kernels: Kernels): { kernels: Kernels; peakBytes: () => number } {
  const start = kernels.mark();
  let peak = start;
  const noting = <T>(allocated: T): T => {
    peak = Math.max(peak, allocatedBytes(kernels.mark()));
    return allocated;
  };
  const wrapped = {
    ...kernels,
    allocateBlock: (bytes: number) => noting(kernels.allocateBlock(bytes)),
    allocateTile: (elements: number) => noting(kernels.allocateTile(elements)),
  };
  return { kernels: wrapped, peakBytes: () => peak - start };
}

describe("the frame", () => {
  const methods = [task_arithmetic, ties, dare_linear, dare_ties, della, della_linear, breadcrumbs, breadcrumbs_ties];
  const own = [
    { density: 0.5, weight: 0.6 },
    { density: 0.4, weight: -0.3 },
    { density: 1, weight: 0.2 },
  ];

  for (const method of methods) {
    test(`${method.id} allocates what it declares, and both kernels give the same bits`, async () => {
      for (const shape of [
        [1, 3],
        [31, 200],
        [2, 64, 1600],
        [3, 100_003],
      ] as const) {
        const plain = caseOf(method, shape, 1 / 256, own);
        const rescales = [{}, { rescale: true }, { rescale: "none" }] as const;
        for (const more of method === task_arithmetic ? rescales.slice(0, 1) : rescales) {
          const entry = { ...plain, parameters: more };
          const windowElements = 16384;
          const declared = kernelBytes(method, unitTensorOf(entry), windowElements, UNWATCHED);
          const { kernels, peakBytes } = measured(createWasmKernels(2 ** 26));
          const { values } = await runTensor(entry, { kernels, windowElements });
          assert.equal(peakBytes(), declared, `[${shape}] ${JSON.stringify(more)}`);
          if (elementCount(shape) > 10_000) continue;
          same((await runTensor(entry, { kernels: createScalarKernels(2 ** 24) })).values, values);
        }
      }
    });
  }

  test("a tensor without elements merges to one", async () => {
    for (const method of methods) assert.equal((await runTensor(caseOf(method, [0, 7], 0, own))).values.length, 0);
  });

  test("models of different dtypes are compared as float32 values", async () => {
    const entry = caseOf(ties, [31, 200], 1 / 64, own.slice(0, 2));
    const mixed = entry.models.map((model, index) => ({
      ...model,
      dtype: (["F32", "BF16", "F16"] as const)[index] ?? "F32",
    }));
    same((await runTensor({ ...entry, models: mixed })).values, (await runTensor(entry)).values);
  });

  test("weights that nearly cancel are not divided by, without election", async () => {
    const cancelling = [
      { density: 1, weight: 0.5 },
      { density: 1, weight: -0.5 },
    ];
    const entry = { ...caseOf(dare_linear, [31, 200], 0, cancelling), parameters: { normalize: true } };
    const all: Kept = (delta) => Array.from(delta, () => true);
    same((await runTensor(entry)).values, expected(entry, all, false, false));
  });

  test("under strict, 16-bit files are merged with 16-bit steps", async () => {
    // Every partial result must be a BF16 number; in float32 steps it is not.
    const parts = caseOf(ties, [31, 200], 0, [{ density: 0.5, weight: 0.3 }]);
    const entry = { ...parts, models: parts.models.map((model) => ({ ...model, dtype: "BF16" as const })) };
    const isBf16 = (value: number) => (new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0) % 65536 === 0;
    const plain = await runTensor(entry);
    const steps = await runTensor({ ...entry, working: "BF16", rules: { strict: true } });
    assert.ok(steps.values.every(isBf16));
    assert.ok(!plain.values.every(isBf16));
    // Rounding moves a few elements over the cut.
    const far = steps.values.filter((value, i) => Math.abs(value - (plain.values[i] ?? 0)) > 0.01);
    assert.ok(far.length < 0.02 * plain.values.length, `${far.length} elements differ`);
  });
});
