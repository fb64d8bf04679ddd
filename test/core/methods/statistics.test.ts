// Goal: statistics of models go with the right tensors, and what does not fit is refused by name, from headers where
// they tell. Method: headers alone for the plan; small files through the engine for values. The golden cases test the
// formulas.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, test } from "node:test";
import type { Checkpoint } from "../../../core/checkpoint.ts";
import { MergeyardError } from "../../../core/error.ts";
import { encodeSafetensorsFile } from "../../../core/formats/safetensors/safetensors.ts";
import { runMerge } from "../../../tools/golden/run-merge.ts";
import { valuesOf } from "../../../tools/golden/tensors.ts";
import { assertRefused, type Expected, refusal } from "../../refusal.ts";
import { type Models, makeCheckpoint, makeLlama, planDocuments, planText, tensorsOf } from "../plan/checkpoints.ts";

const SHAPES = { "a.weight": [6, 4], "b.weight": [4] };
const GRAMS = { "a.weight": [4, 4] };
const [model, information, gram] = [SHAPES, SHAPES, GRAMS].map((shapes) => makeCheckpoint(shapes));
const MODELS: Models = {
  ...(model && { one: model, two: model }),
  ...(information && { f1: information, f2: information }),
  ...(gram && { g1: gram, g2: gram }),
};
const recipe = (method: string, first = "", second = "", more = "") =>
  `merge_method: ${method}\nmodels:\n  - {model: one${first}}\n  - {model: two${second}}\n${more}`;
const fisher = recipe("fisher", ", statistics: f1", ", statistics: f2");
const regmean = recipe("regmean", ", statistics: g1", ", statistics: g2");

describe("statistics in a plan", () => {
  test("come after the models, in their order, where there are any", () => {
    const inputsOf = (text: string) =>
      [...tensorsOf(planText(text, MODELS))].map(([name, { inputs }]) => [
        name,
        ...inputs.map(({ source, shape, statistic = "model" }) => `${source} ${shape.join("x")} ${statistic}`),
      ]);
    assert.deepEqual(inputsOf(fisher), [
      ["a.weight", "0 6x4 model", "1 6x4 model", "2 6x4 elements", "3 6x4 elements"],
      ["b.weight", "0 4 model", "1 4 model", "2 4 elements", "3 4 elements"],
    ]);
    assert.deepEqual(inputsOf(regmean), [
      ["a.weight", "0 6x4 model", "1 6x4 model", "2 4x4 whole", "3 4x4 whole"],
      ["b.weight", "0 4 model", "1 4 model"],
    ]);
    const { warnings } = planText(regmean, MODELS);
    assert.ok(warnings.some((warning) => /without Gram matrices.*are averaged.*b\.weight/.test(warning)));
  });

  test("are found under a layer's name, and under a slice's own layer", () => {
    const named = makeCheckpoint({ a: [4, 4] });
    const plan = planText(regmean, { ...MODELS, g1: named, g2: named });
    assert.equal(tensorsOf(plan).get("a.weight")?.inputs[2]?.tensor, "a");
    const own = makeLlama();
    const slices =
      "merge_method: fisher\nslices:\n" +
      "  - sources:\n" +
      "      - {model: one, layer_range: [1, 2], statistics: f1}\n" +
      "      - {model: two, layer_range: [2, 3], statistics: f2}\n";
    const layers = planText(slices, { one: own, two: own, f1: own, f2: own });
    const inputs = tensorsOf(layers).get("model.layers.0.mlp.up_proj.weight")?.inputs;
    const names = [1, 2, 1, 2].map((layer) => `model.layers.${layer}.mlp.up_proj.weight`);
    assert.deepEqual(
      inputs?.map(({ tensor }) => tensor),
      names,
    );
  });

  test("may be what an earlier document makes", () => {
    const text = `name: mean\nmerge_method: uniform_soup\nmodels: [{model: f1}, {model: f2}]\n---\n`;
    const { sources, documents } = planDocuments(
      text + recipe("fisher", ", statistics: mean", ", statistics: f2"),
      MODELS,
    );
    const used = documents.at(-1)?.plan.units[0]?.tensors[0]?.inputs.map(({ source }) => sources[source]?.model);
    assert.deepEqual(used, ["one", "two", "mean", "f2"]);
  });
});

describe("refused before weights are read", () => {
  const refuse = (text: string, where: Expected, found: RegExp, models: Models = MODELS) =>
    assertRefused(() => planText(text, models), { ...where, found });
  const FIRST = { field: "models[0].statistics", model: "f1" };

  test("statistics of a method that takes none", () => {
    refuse(recipe("uniform_soup", ", statistics: f1"), { code: "RecipeFieldInvalid", ...FIRST }, /for uniform_soup/);
  });

  test("a model without statistics, a base too", () => {
    const where = { code: "RecipeFieldInvalid", field: "models[1]", model: "two" };
    refuse(recipe("fisher", ", statistics: f1"), where, /^no statistics$/);
    const base = { code: "RecipeFieldInvalid", field: "base_model", model: "f1" };
    refuse(`${fisher}base_model: f1\n`, base, /^no statistics$/);
  });

  test("statistics with an adapter", () => {
    const where = { code: "RecipeFieldInvalid", field: "models[0].statistics" };
    refuse(recipe("fisher", ", statistics: f1+lora", ", statistics: f2"), where, /^f1\+lora$/);
  });

  test("a tensor that only some statistics have", () => {
    const part = makeCheckpoint({ "a.weight": [6, 4] });
    const where = { code: "PlanTensorMissing", ...FIRST, tensor: "b.weight" };
    refuse(fisher, where, /no such tensor/, { ...MODELS, f1: part });
  });

  test("statistics of other tensors", () => {
    const other: Checkpoint = makeCheckpoint({ "encoder.a.weight": [6, 4] });
    const where = { code: "PlanTensorMissing", ...FIRST };
    refuse(fisher, where, /such as encoder\.a\.weight/, { ...MODELS, f1: other, f2: other });
  });

  test("shapes that do not go with the tensor", () => {
    const wide = makeCheckpoint({ ...SHAPES, "a.weight": [4, 6] });
    const where = { code: "PlanShapeMismatch", ...FIRST, tensor: "a.weight" };
    refuse(fisher, where, /^\[4, 6\]$/, { ...MODELS, f1: wide });
    refuse(regmean, { ...where, model: "g1" }, /^\[6, 4\]$/, { ...MODELS, g1: makeCheckpoint(SHAPES) });
    const vector = makeCheckpoint({ ...GRAMS, "b.weight": [4, 4] });
    const none = { code: "PlanShapeMismatch", field: "models[0].statistics", model: "g1", tensor: "b.weight" };
    refuse(regmean, none, /^\[4, 4\]$/, { ...MODELS, g1: vector, g2: vector });
  });

  test("a dtype that is no float", () => {
    const whole = makeCheckpoint(SHAPES, { dtype: "I32" });
    const where = { code: "PlanDtypeNotMergeable", ...FIRST, tensor: "a.weight" };
    refuse(fisher, where, /^I32$/, { ...MODELS, f1: whole });
  });

  test("weights that are 0 for every model", () => {
    const where = { code: "PlanMethodRefused", field: "models.parameters.weight" };
    refuse(`${fisher}parameters: {weight: 0}\n`, where, /0 for every model/);
  });

  test("Gram matrices that do not fit in a worker's memory", () => {
    const sides = (side: number) => makeCheckpoint({ "a.weight": [8, side] });
    const grams = makeCheckpoint({ "a.weight": [4096, 4096] });
    const models = { one: sides(4096), two: sides(4096), g1: grams, g2: grams };
    const where = { code: "PlanMemoryExceeded", field: "merge_method", tensor: "a.weight" };
    refuse(regmean, where, /for regmean of 2 models/, models);
    const options = { memoryBytes: 2 ** 30, threads: 1 };
    assert.equal(planText(regmean, models, options).units.length, 1);
  });
});

const scratch = mkdtempSync(path.join(tmpdir(), "mergeyard-statistics-"));
after(() => rmSync(scratch, { recursive: true }));

function writeFile(name: string, tensors: Readonly<Record<string, readonly [readonly number[], readonly number[]]>>) {
  const specs = Object.entries(tensors).map(([own, [shape]]) => ({ name: own, dtype: "F32" as const, shape }));
  const file = encodeSafetensorsFile(specs, (spec) => Float32Array.from(tensors[spec.name]?.[1] ?? []));
  writeFileSync(path.join(scratch, `${name}.safetensors`), file);
}

/** Merges two models of [2, 2] and [2] whose second has twice the values of the first. */
async function mergeSmall(
  method: string,
  statistics: Readonly<Record<string, readonly [readonly number[], readonly number[]]>>[],
  parameters: Record<string, unknown> = {},
) {
  const models = statistics.map((tensors, index) => {
    writeFile(`model${index}`, { w: [[2, 2], [1, 2, 3, 4].map((x) => x * (index + 1))], b: [[2], [index, index]] });
    writeFile(`statistics${index}`, tensors);
    return { model: `model${index}.safetensors`, statistics: `statistics${index}.safetensors` };
  });
  const { tensors } = await runMerge(scratch, JSON.stringify({ merge_method: method, models, parameters }));
  return [...tensors].map(([name, tensor]) => [name, [...valuesOf(tensor)]]);
}

describe("merging by statistics", () => {
  test("RegMean refuses Gram matrices that leave a direction open, unless a ridge closes it", async () => {
    const flat = {
      w: [
        [2, 2],
        [1, 1, 1, 1],
      ],
    } as const;
    const degenerate = refusal({ code: "EngineMethodDegenerate", tensor: "w", found: /input 1 of 2/ });
    await assert.rejects(mergeSmall("regmean", [flat, flat]), degenerate);
    const merged = await mergeSmall("regmean", [flat, flat], { ridge: 1e-6 });
    const [, weights] = merged.find(([name]) => name === "w") ?? [];
    // Along (1, 1) the mean is kept; in the open direction nothing is known, and the ridge says 0.
    assert.deepEqual(
      [...(weights ?? [])].map((value) => Number(Number(value).toFixed(3))),
      [2.25, 2.25, 5.25, 5.25],
    );
  });

  test("RegMean refuses a matrix that is no Gram matrix", async () => {
    const skew = {
      w: [
        [2, 2],
        [1, 0.5, -0.5, 1],
      ],
    } as const;
    const expected = { code: "EngineMethodDegenerate", tensor: "w", model: "statistics0.safetensors" };
    await assert.rejects(mergeSmall("regmean", [skew, skew]), refusal(expected));
  });

  test("Fisher refuses information below 0, which no mean of squares is", async () => {
    const of = (last: number) =>
      ({
        w: [
          [2, 2],
          [1, 1, 1, last],
        ],
      }) as const;
    await assert.rejects(mergeSmall("fisher", [of(0), of(-0.5)]), (error: unknown) => {
      assert.ok(error instanceof MergeyardError, String(error));
      assert.deepEqual(
        [error.code, error.where.model, error.where.tensor],
        ["EngineMethodDegenerate", "statistics1.safetensors", "w"],
      );
      assert.match(error.found ?? "", /^-0.5 /);
      return true;
    });
  });

  test("statistics that are not finite are named; passed on, they make the tensor NaN", async () => {
    const [good, bad] = [
      {
        w: [
          [2, 2],
          [1, 0, 0, 1],
        ],
      } as const,
      {
        w: [
          [2, 2],
          [1, 0, 0, Number.NaN],
        ],
      } as const,
    ];
    await assert.rejects(
      mergeSmall("regmean", [good, bad]),
      refusal({ code: "EngineNonFinite", model: "statistics1.safetensors" }),
    );
  });

  test("Fisher weighs every element, and averages a tensor without statistics by the models' norms", async () => {
    const one = {
      w: [
        [2, 2],
        [1, 1, 0, 0],
      ],
    } as const;
    const two = {
      w: [
        [2, 2],
        [0, 1, 1, 0],
      ],
    } as const;
    const options = { normalize_fisher_weight: false };
    const round = (value: number) => Number(value.toFixed(3));
    const merged = await mergeSmall("fisher", [one, two], options);
    const values = merged.map(([name, own]) => [name, [...(own ?? [])].map((value) => round(Number(value)))]);
    assert.deepEqual(Object.fromEntries(values), { w: [1, 3, 6, 6], b: [0.5, 0.5] });
    const louder = {
      w: [
        [2, 2],
        [0, 3, 3, 0],
      ],
    } as const;
    const normal = Object.fromEntries(await mergeSmall("fisher", [one, louder]));
    assert.deepEqual(
      [...(normal.b ?? [])].map((value) => round(Number(value))),
      [0.25, 0.25],
    );
    assert.deepEqual(
      [...(normal.w ?? [])].map((value) => round(Number(value))),
      [1, 3, 6, 5],
    );
  });
});
