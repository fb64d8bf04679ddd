// Goal: what cannot be merged is refused from headers alone, naming the model, the tensor and the parameter. One case
// for each refusal of the task-vector family; nothing is read, so no weights exist.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { MASKED_SOURCES_MAX } from "../../../core/ops/masked.ts";
import { assertRefused as assertFields, type Expected } from "../../refusal.ts";
import { type Models, makeCheckpoint, makeLlama, planText, tensorOf } from "../plan/checkpoints.ts";

const SHAPES = { norm: [8], matrix: [4, 8], column: [6, 1], scalar: [] as number[] };
type Name = keyof typeof SHAPES;

/** A recipe that merges one tensor of a fine-tune into its base. */
function plan(method: string, tensor: Name, model: string, global = "{}") {
  const checkpoint = makeCheckpoint({ [tensor]: SHAPES[tensor] });
  const text =
    `merge_method: ${method}\nbase_model: base\nmodels:\n` +
    `  - {model: tuned, parameters: ${model}}\nparameters: ${global}\n`;
  return planText(text, { base: checkpoint, tuned: checkpoint });
}

type Refused = { readonly parameter?: string; readonly found?: string | RegExp; readonly expected?: string | RegExp };

function assertRefused(run: () => unknown, tensor: Name, { parameter, found, expected }: Refused): void {
  assertFields(run, {
    code: "PlanMethodRefused",
    model: "tuned",
    tensor,
    ...(parameter === undefined ? {} : { field: `models[0].parameters.${parameter}` }),
    ...(found === undefined ? {} : { found: new RegExp(found) }),
    ...(expected === undefined ? {} : { expected: new RegExp(expected) }),
  });
}

describe("refused before any weight is read", () => {
  test("ties that would keep nothing, unless min_keep says one", () => {
    for (const density of [0.1, 0, -1]) {
      const refused = { parameter: "density", found: `^${density} of 8 elements`, expected: "0.125" };
      assertRefused(() => plan("ties", "norm", `{weight: 1, density: ${density}}`), "norm", refused);
    }
    const kept = plan("ties", "norm", "{weight: 1, density: 0.1}", "{min_keep: 1}");
    assert.equal(tensorOf(kept, "norm").parameters.min_keep, 1);
    assert.equal(tensorOf(plan("ties", "norm", "{weight: 1, density: 0.125}"), "norm").method, "ties");
  });

  test("dare with a negative density", () => {
    for (const method of ["dare_linear", "dare_ties"]) {
      const run = () => plan(method, "matrix", "{weight: 1, density: -0.1}");
      assertRefused(run, "matrix", { parameter: "density", found: "^-0.1$" });
    }
  });

  test("della whose probabilities leave the open interval from 0 to 1", () => {
    for (const [density, epsilon] of [
      [0.9, 0.15],
      [0.1, 0.15],
      [0.5, 0.5],
      [0.85, 0.15],
    ]) {
      for (const method of ["della", "della_linear"]) {
        const run = () => plan(method, "matrix", `{weight: 1, density: ${density}, epsilon: ${epsilon}}`);
        assertRefused(run, "matrix", { parameter: "epsilon", found: "probabilities" });
      }
    }
    for (const density of [1, 0, -1, 0.5]) {
      assert.equal(tensorOf(plan("della", "matrix", `{weight: 1, density: ${density}}`), "matrix").method, "della");
    }
  });

  test("della on lines of one element", () => {
    for (const tensor of ["column", "scalar"] as const) {
      const run = () => plan("della", tensor, "{weight: 1, density: 0.5}");
      assertRefused(run, tensor, { parameter: "density", found: "lines of one element" });
    }
  });

  test("breadcrumbs with a negative density or gamma", () => {
    for (const method of ["breadcrumbs", "breadcrumbs_ties"]) {
      const negative = () => plan(method, "matrix", "{weight: 1, density: -0.5}");
      assertRefused(negative, "matrix", { parameter: "density", found: "^-0.5$" });
      const gamma = () => plan(method, "matrix", "{weight: 1, density: 0.5, gamma: -0.01}");
      assertRefused(gamma, "matrix", { parameter: "gamma", found: "^-0.01$" });
    }
  });
});

describe("recipes of spherical methods and their parameters", () => {
  const checkpoint = makeCheckpoint({ matrix: [4, 8] });
  const names = ["a", "b", "c", "d"];
  const checkpoints = Object.fromEntries(names.map((name) => [name, checkpoint]));
  const recipe = (method: string, models: string, more = "") =>
    planText(`merge_method: ${method}\nmodels: [${models}]\n${more}`, checkpoints);
  const weighted = (...models: readonly (readonly [string, number])[]) =>
    models.map(([model, weight]) => `{model: ${model}, parameters: {weight: ${weight}}}`).join(", ");
  const refused = (run: () => unknown, code: string, found: string, field?: string, expected?: string) =>
    assert.throws(run, (error: unknown) => {
      const { where, ...rest } = Object(error);
      assert.deepEqual([rest.code, rest.found, where.field], [code, found, field]);
      if (expected !== undefined) assert.equal(rest.expected, expected);
      return true;
    });

  test("nuslerp takes two models, and a base that is neither of them", () => {
    const pair = weighted(["a", 1], ["b", 1]);
    assert.equal(tensorOf(recipe("nuslerp", pair), "matrix").inputs.length, 2);
    assert.equal(tensorOf(recipe("nuslerp", pair, "base_model: c\n"), "matrix").inputs.length, 3);
    const three = weighted(["a", 1], ["b", 1], ["c", 1]);
    refused(() => recipe("nuslerp", three), "PlanMethodRefused", "3 models", "models");
    refused(() => recipe("nuslerp", pair, "base_model: a\n"), "PlanMethodRefused", "2 models", "models");
    refused(() => recipe("nuslerp", three, "base_model: d\n"), "PlanInputCount", "4 models", "models");
    const absent = () => recipe("nuslerp", "{model: a}, {model: b}");
    refused(absent, "RecipeParameterMissing", "nothing", "models[0]");
  });

  test("multislerp needs weights that do not sum to 0, unless they are not normalised", () => {
    const opposite = weighted(["a", 1], ["b", -1]);
    refused(
      () => recipe("multislerp", opposite),
      "PlanMethodRefused",
      "weights that sum to 0",
      "models.parameters.weight",
    );
    assert.equal(
      tensorOf(recipe("multislerp", opposite, "parameters: {normalize_weights: false}\n"), "matrix").method,
      "multislerp",
    );
    refused(
      () => recipe("multislerp", weighted(["a", 1], ["b", 1]), "parameters: {eps: 0}\n"),
      "RecipeParameterInvalid",
      "0",
      "parameters.eps",
    );
  });

  test("karcher takes whole iterations and a tolerance above 0", () => {
    const pair = "{model: a}, {model: b}";
    refused(
      () => recipe("karcher", pair, "parameters: {max_iter: 1.5}\n"),
      "RecipeParameterInvalid",
      "1.5",
      "parameters.max_iter",
      "a whole number",
    );
    refused(
      () => recipe("karcher", pair, "parameters: {tol: 0}\n"),
      "RecipeParameterInvalid",
      "0",
      "parameters.tol",
      "more than 0 (number)",
    );
    const text = "{model: a, parameters: {weight: yes}}, {model: b, parameters: {weight: 1}}";
    refused(() => recipe("linear", text), "RecipeParameterInvalid", '"yes"', "models[0].parameters.weight", "a number");
  });
});

describe("models that a method does not take", () => {
  const three: Models = { a: makeLlama(), b: makeLlama(), c: makeLlama() };
  const recipe = (method: string, more: string, ...models: readonly string[]) =>
    `merge_method: ${method}\nmodels:\n` +
    models.map((model) => `  - {model: ${model}, parameters: {weight: 1}}\n`).join("") +
    `parameters: {t: 0.5}\n${more}`;
  const head = { tensor: "lm_head.weight" };
  const cases: readonly (readonly [string, string, Expected])[] = [
    [
      "model_stock of one model and its base",
      recipe("model_stock", "base_model: a\n", "a", "b"),
      {
        code: "PlanInputCount",
        field: "models",
        line: 2,
        ...head,
        found: "2 models",
        expected: "at least 3 for model_stock",
      },
    ],
    [
      "slerp without a base",
      recipe("slerp", "", "a", "b"),
      { code: "RecipeBaseMissing", field: "models", found: "no base_model", expected: "base_model for slerp" },
    ],
    [
      "slerp whose base is a third model",
      recipe("slerp", "base_model: c\n", "a", "b"),
      { code: "PlanInputCount", field: "models", ...head, found: "3 models", expected: "1 to 2 for slerp" },
    ],
    [
      "slerp of a slice without the base",
      "merge_method: slerp\nbase_model: c\nparameters: {t: 0.5}\nslices:\n" +
        "  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]\n",
      { code: "RecipeBaseMissing", field: "slices[0]", line: 5, model: "c", expected: "c among the sources" },
    ],
    [
      "nuslerp of one model and a base",
      recipe("nuslerp", "base_model: b\n", "a"),
      { code: "PlanMethodRefused", field: "models", ...head, found: "2 models" },
    ],
  ];
  for (const [what, text, expected] of cases) {
    test(what, () => void assertFields(() => planText(text, three), expected));
  }

  test("a base that lacks a tensor", () => {
    const models = { a: makeCheckpoint({ x: [4] }), b: makeCheckpoint({ x: [4], y: [4] }) };
    for (const method of ["ties", "task_arithmetic", "slerp"]) {
      const expected = { code: "PlanTensorMissing", field: "models[0]", line: 3, model: "a", tensor: "y" };
      assertFields(() => planText(recipe(method, "base_model: a\n", "a", "b"), models), expected);
    }
  });

  test("embeddings of two sizes, of methods that do not cut them", () => {
    const models = { a: makeLlama({ vocabulary: 12 }), b: makeLlama(), c: makeLlama() };
    for (const method of ["karcher", "sce", "ram", "ramplus_tl", "multislerp"]) {
      const text = recipe(method, "base_model: b\n", "a", "b", "c");
      const shapes = { found: "[12, 4]", expected: "[10, 4], as in b" };
      assertFields(() => planText(text, models), {
        code: "PlanShapeMismatch",
        model: "a",
        line: 3,
        ...head,
        ...shapes,
      });
    }
  });

  test("configs of two architectures, unless the recipe says that one is the other's", () => {
    const other = makeLlama({ config: { architectures: ["LlamaForSequenceClassification"] } });
    const models = { a: makeLlama(), b: other };
    const found = 'architectures ["LlamaForSequenceClassification"]';
    const where = { code: "PlanConfigMismatch", field: "models[1]", line: 4, model: "b", file: "config.json" };
    assertFields(() => planText(recipe("linear", "", "a", "b"), models), { ...where, found });
    const said = "{model: b, override_architecture: LlamaForCausalLM}";
    assert.deepEqual(
      planText(recipe("uniform_soup", "", "a", said), models).warnings.filter((w) => /architec/.test(w)),
      [],
    );
    const warned = planText(recipe("linear", "config_source: a\n", "a", "b"), models).warnings;
    assert.ok(warned.includes("architectures differs between a and b"), warned.join("\n"));
  });
});

test("more models than one masked combination takes are refused; dense ones are not", () => {
  const checkpoint = makeCheckpoint({ norm: [8] });
  const names = Array.from({ length: MASKED_SOURCES_MAX + 1 }, (_, index) => `ft${index}`);
  const models = Object.fromEntries(["base", ...names].map((name) => [name, checkpoint]));
  const text = (method: string) =>
    `merge_method: ${method}\nbase_model: base\nmodels:\n` +
    names.map((name) => `  - {model: ${name}, parameters: {weight: 1, density: 0.5}}\n`).join("");
  assert.throws(() => planText(text("ties"), models), { code: "PlanInputCount", found: "66 models" });
  assert.equal(tensorOf(planText(text("task_arithmetic"), models), "norm").inputs.length, 66);
});

describe("rescale", () => {
  test("takes true, false and three words, and refuses any other by field", () => {
    for (const [written, value] of [
      ["true", true],
      ["false", false],
      ["l1", "l1"],
      ["none", "none"],
    ] as const) {
      const planned = plan("ties", "matrix", "{weight: 1, density: 0.5}", `{rescale: ${written}}`);
      assert.equal(tensorOf(planned, "matrix").parameters.rescale, value);
    }
    const planned = plan("dare_linear", "matrix", "{weight: 1, density: 0.5}", "{rescale: inverse_density}");
    assert.equal(tensorOf(planned, "matrix").parameters.rescale, "inverse_density");
    assert.throws(() => plan("dare_linear", "matrix", "{weight: 1, density: 0.5}", "{rescale: l2}"), {
      code: "RecipeParameterInvalid",
      found: '"l2"',
    });
  });

  test("is refused as a gradient", () => {
    assert.throws(() => plan("ties", "matrix", "{weight: 1, density: 0.5}", "{rescale: [0, 1]}"), {
      code: "RecipeParameterInvalid",
      found: "a gradient",
    });
  });
});

describe("the working dtype", () => {
  const planned = (base: "F32" | "BF16" | "F16", recipe: string) => {
    const models = { base: makeCheckpoint({ norm: [8] }, { dtype: base }), tuned: makeCheckpoint({ norm: [8] }) };
    const text = `merge_method: ties\nbase_model: base\nmodels: [{model: tuned, parameters: {weight: 1}}]\n${recipe}`;
    return tensorOf(planText(text, models), "norm").working;
  };

  test("is the recipe's, else the base's, of 16 bits only, and only under strict", () => {
    const strict = "mergekit_compat: strict\n";
    assert.equal(planned("BF16", ""), undefined);
    assert.equal(planned("BF16", "dtype: float16\n"), undefined);
    assert.equal(planned("BF16", strict), "BF16");
    assert.equal(planned("F16", strict), "F16");
    assert.equal(planned("F32", strict), undefined);
    assert.equal(planned("F32", `${strict}dtype: bfloat16\n`), "BF16");
    assert.equal(planned("BF16", `${strict}dtype: float32\n`), undefined);
    assert.equal(planned("BF16", `${strict}out_dtype: float32\n`), "BF16");
  });

  test("of models that differ is the base's, or float32 where the reference's sums promote", () => {
    const halves = {
      a: makeCheckpoint({ norm: [8] }, { dtype: "F16" }),
      b: makeCheckpoint({ norm: [8] }, { dtype: "BF16" }),
    };
    const mixed = (method: string, more: string) => {
      const models = "[{model: b, parameters: {weight: 1}}, {model: a, parameters: {weight: 1}}]";
      const { dtype, working } = tensorOf(
        planText(`merge_method: ${method}\nmodels: ${models}\n${more}`, halves),
        "norm",
      );
      return [dtype, working];
    };
    const strict = "mergekit_compat: strict\n";
    assert.deepEqual(mixed("linear", ""), ["BF16", undefined]);
    assert.deepEqual(mixed("linear", strict), ["F32", undefined]);
    assert.deepEqual(mixed("linear", `${strict}dtype: float16\n`), ["F16", "F16"]);
    assert.deepEqual(mixed("linear", `${strict}out_dtype: bfloat16\n`), ["BF16", undefined]);
    assert.deepEqual(mixed("nearswap", `${strict}base_model: a\nparameters: {t: 0.1}\n`), ["F32", undefined]);
    assert.deepEqual(mixed("ties", `${strict}base_model: a\n`), ["F16", "F16"]);
  });

  test("does not keep the reference's float32 masks and factors from making the output float32", () => {
    const halves = {
      base: makeCheckpoint({ norm: [8] }, { dtype: "BF16" }),
      tuned: makeCheckpoint({ norm: [8] }, { dtype: "BF16" }),
    };
    for (const method of ["arcee_fusion", "ramplus_tl"]) {
      const dtypes = (more: string, models = "[{model: tuned}]") => {
        const text = `merge_method: ${method}\nbase_model: base\nmodels: ${models}\n${more}`;
        const { dtype, working } = tensorOf(planText(text, halves), "norm");
        return [dtype, working];
      };
      const strict = "mergekit_compat: strict\n";
      assert.deepEqual(dtypes(""), ["BF16", undefined]);
      assert.deepEqual(dtypes("dtype: float16\n"), ["F16", undefined]);
      assert.deepEqual(dtypes(strict), ["F32", "BF16"]);
      assert.deepEqual(dtypes(`${strict}dtype: float16\n`), ["F32", "F16"]);
      assert.deepEqual(dtypes(`${strict}out_dtype: bfloat16\n`), ["BF16", "BF16"]);
      if (method === "arcee_fusion") assert.deepEqual(dtypes(strict, "[{model: base}]"), ["BF16", undefined]);
    }
  });

  test("of an input is the recipe's, else what the reference reads it in", () => {
    const models = {
      a: makeCheckpoint({ norm: [8] }, { dtype: "F16" }),
      b: makeCheckpoint({ norm: [8] }, { dtype: "BF16" }),
      c: makeCheckpoint({ norm: [8] }),
    };
    const inputs = (method: string, more: string) => {
      const listed = "[{model: b, parameters: {weight: 1}}, {model: c, parameters: {weight: 1}}]";
      const text = `merge_method: ${method}\nbase_model: a\nmodels: ${listed}\n${more}`;
      return tensorOf(planText(text, models), "norm").inputs.map(({ working }) => working);
    };
    const strict = "mergekit_compat: strict\n";
    assert.deepEqual(inputs("sce", ""), [undefined, undefined, undefined]);
    assert.deepEqual(inputs("sce", strict), ["BF16", undefined, "F16"]);
    assert.deepEqual(inputs("ties", strict), ["F16", "F16", "F16"]);
    assert.deepEqual(inputs("sce", `${strict}dtype: bfloat16\n`), ["BF16", "BF16", "BF16"]);
    assert.deepEqual(inputs("sce", `${strict}dtype: float32\n`), [undefined, undefined, undefined]);
  });
});
