// What the planner makes of models that fit together, and what it refuses when they do not.
import assert from "node:assert/strict";
import test from "node:test";
import * as z from "zod";
import { linear } from "../../../core/methods/linear.ts";
import type { MergeMethod } from "../../../core/methods/method.ts";
import { assertRefused, type Expected } from "../../refusal.ts";
import { type Models, makeCheckpoint, makeLlama, planDocuments, planText, tensorOf, tensorsOf } from "./checkpoints.ts";

const linearOf = (...models: readonly string[]) =>
  [
    "merge_method: linear\nmodels:\n",
    ...models.map((model) => `  - {model: ${model}, parameters: {weight: 1}}\n`),
  ].join("");
const taskOf = (base: string, ...models: readonly string[]) =>
  `${linearOf(...models).replace("linear", "task_arithmetic")}base_model: ${base}\n`;
const LAYER = "model.layers.1.mlp.up_proj.weight";

test("models of one build merge tensor by tensor, each input where its file holds it", () => {
  const models = { a: makeLlama(), b: makeLlama() };
  const plan = planText(linearOf("a", "b"), models);
  assert.deepEqual([...tensorsOf(plan).keys()].sort(), models.a.tensors.map(({ name }) => name).sort());
  const tensor = tensorOf(plan, LAYER);
  assert.equal(tensor.method, "linear");
  assert.deepEqual(tensor.parameters, { normalize: true });
  assert.deepEqual(
    tensor.inputs.map(({ source, tensor: name, isBase, parameters }) => [source, name, isBase, parameters]),
    [
      [0, LAYER, false, { weight: 1 }],
      [1, LAYER, false, { weight: 1 }],
    ],
  );
  assert.deepEqual(tensor.inputs[1]?.ranges, models.b.tensors.find(({ name }) => name === LAYER)?.ranges);
  assert.deepEqual(plan.warnings, []);
});

test("a unit's bytes are its file's, its reads are the inputs and what is not kept for the next pass", () => {
  const modelsOf = (shapes: Record<string, number[]>) => ({ a: makeCheckpoint(shapes), b: makeCheckpoint(shapes) });
  const models = modelsOf({ x: [10, 100] });
  const [once] = planText(linearOf("a", "b"), models).units;
  assert.equal(once?.bytesRead, 2 * 4000);
  assert.equal(once?.bytesWritten, once?.fileBytes);
  const slerp = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nmodels: [{model: a}, {model: b}]\n";
  assert.equal(planText(slerp, models).units[0]?.bytesRead, 2 * 4000);
  const large = modelsOf({ x: [20_000, 10_000] });
  const inputs = 2 * 4 * 20_000 * 10_000;
  const readWith = (memoryBytes: number) =>
    planText(slerp, large, { memoryBytes, threads: 1 }).units[0]?.bytesRead ?? 0;
  assert.equal(readWith(2 ** 31), inputs);
  const half = readWith(2 ** 30);
  assert.ok(half > 1.4 * inputs && half < 1.6 * inputs, `${half / inputs} times the inputs`);
  assert.ok(readWith(160 * 2 ** 20) > 1.95 * inputs);
  // Kernels address 4 GiB, however much memory there is.
  const huge = modelsOf({ x: [40_000, 20_000] });
  const hugeRead = planText(slerp, huge, { memoryBytes: 2 ** 36, threads: 1 }).units[0]?.bytesRead ?? 0;
  assert.ok(hugeRead > 2 * 4 * inputs - 2 ** 32 && hugeRead < 2 * 4 * inputs, `${hugeRead} bytes`);
});

test("reads of a cut among magnitudes are those of its passes, which depend on how much a tensor has", () => {
  const readsOf = (parameters: string, side: number) => {
    const model = makeCheckpoint({ x: [side, 50_000] });
    const text = `${taskOf("c", "a", "b").replace("task_arithmetic", "ties")}parameters: ${parameters}\n`;
    const options = { memoryBytes: 400 * 2 ** 20, threads: 1 };
    const [unit] = planText(text, { a: model, b: model, c: model }, options).units;
    return Math.round((unit?.bytesRead ?? 0) / (3 * 4 * side * 50_000));
  };
  assert.equal(readsOf("{density: 1}", 50_000), 1);
  assert.equal(readsOf("{density: 0.5}", 50_000), 2);
  assert.equal(readsOf("{density: 0.5, rescale: true}", 50_000), 3);
  assert.equal(readsOf("{density: 0.5}", 150_000), 4, "more than the lists of a bracket hold");
});

test("the base is marked, is an input without a weight, and joins last when it is not listed", () => {
  const models = { a: makeLlama(), b: makeLlama(), base: makeLlama() };
  const { inputs } = tensorOf(planText(taskOf("base", "a", "b"), models), LAYER);
  assert.deepEqual(
    inputs.map(({ source, isBase }) => [source, isBase]),
    [
      [0, false],
      [1, false],
      [2, true],
    ],
  );
  assert.equal(inputs[2]?.parameters.weight, undefined);
});

test("gradients run over the layers, and outside layers their first point counts", () => {
  const text =
    "merge_method: linear\nmodels: [{model: a, parameters: {weight: [1, 0.5, 0]}}, {model: b}]\n" +
    "parameters: {weight: 1}\n";
  const plan = planText(text, { a: makeLlama(), b: makeLlama() });
  const weight = (name: string) => tensorOf(plan, name).inputs[0]?.parameters.weight;
  const layers = [0, 1, 2].map((layer) => weight(`model.layers.${layer}.mlp.up_proj.weight`));
  assert.deepEqual(layers, [1, 0.5, 0]);
  assert.deepEqual(
    [weight("model.norm.weight"), weight("lm_head.weight"), weight("model.embed_tokens.weight")],
    [1, 1, 1],
  );
});

test("a model of one layer is at the gradient's end", () => {
  const text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: [1, 7]}}]\n";
  const plan = planText(text, { a: makeLlama({ layers: 1 }) });
  assert.equal(tensorOf(plan, "model.layers.0.mlp.up_proj.weight").inputs[0]?.parameters.weight, 7);
});

test("the output dtype is the recipe's, else the base's, else the first model's", () => {
  const of = (dtype: "F32" | "F16" | "BF16") => makeCheckpoint({ x: [4] }, { dtype });
  const models = { a: of("F16"), b: of("BF16"), base: of("F32") };
  assert.equal(tensorOf(planText(linearOf("a", "b"), models), "x").dtype, "F16");
  assert.equal(tensorOf(planText(taskOf("base", "a", "b"), models), "x").dtype, "F32");
  assert.equal(tensorOf(planText(`${linearOf("a", "b")}dtype: bfloat16\n`, models), "x").dtype, "BF16");
  assert.equal(
    tensorOf(planText(`${linearOf("a", "b")}dtype: bfloat16\nout_dtype: float32\n`, models), "x").dtype,
    "F32",
  );
});

test("F64 is merged in float32, with a warning, and stays F64", () => {
  const of = () => makeCheckpoint({ x: [4] }, { dtype: "F64" });
  const plan = planText(linearOf("a", "b"), { a: of(), b: of() });
  assert.equal(tensorOf(plan, "x").dtype, "F64");
  assert.equal(plan.warnings.length, 1);
});

test("passthrough without a scale copies bytes where the dtype stays, and converts where it does not", () => {
  const models = { a: makeCheckpoint({ x: [4] }, { dtype: "BF16" }) };
  const text = "merge_method: passthrough\nmodels: [{model: a}]\n";
  const method = (more: string) => tensorOf(planText(text + more, models), "x").method;
  assert.equal(method(""), "copy");
  assert.equal(method("dtype: bfloat16\n"), "copy");
  assert.equal(method("dtype: float32\n"), "passthrough");
  assert.equal(method("parameters: {scale: 0.5}\n"), "passthrough");
});

test("whole numbers are copied from the base, else from the first model, never averaged", () => {
  const of = () => makeCheckpoint({ ids: { dtype: "I64", shape: [4] }, mask: { dtype: "BOOL", shape: [4] }, x: [4] });
  const models = { a: of(), b: of(), base: of() };
  const plain = planText(`${linearOf("a", "b")}dtype: bfloat16\n`, models);
  assert.deepEqual([tensorOf(plain, "ids").method, tensorOf(plain, "ids").dtype], ["copy", "I64"]);
  assert.deepEqual(
    tensorOf(plain, "mask").inputs.map(({ source }) => source),
    [0],
  );
  assert.deepEqual(
    tensorOf(planText(taskOf("base", "a", "b"), models), "ids").inputs.map(({ source }) => source),
    [2],
  );
  assert.equal(plain.warnings.length, 1);
  assert.match(plain.warnings[0] ?? "", /ids, mask$/);
});

test("a tensor that one model lacks is copied or dropped when the recipe says so", () => {
  const models = {
    a: makeCheckpoint({ x: [4], extra: [2] }),
    b: makeCheckpoint({ x: [4] }),
    c: makeCheckpoint({ x: [4], extra: [2] }),
  };
  const copied = planText(`${linearOf("b", "a", "c")}allow_unlisted: copy\n`, models);
  assert.deepEqual(
    tensorOf(copied, "extra").inputs.map(({ source }) => source),
    [1],
  );
  assert.equal(tensorOf(copied, "extra").method, "copy");
  const fromBase = planText(`${taskOf("c", "b", "a")}allow_unlisted: copy\n`, models);
  assert.deepEqual(
    tensorOf(fromBase, "extra").inputs.map(({ source }) => source),
    [2],
  );
  const dropped = planText(`${linearOf("a", "b")}allow_unlisted: drop\n`, models);
  assert.deepEqual([...tensorsOf(dropped).keys()], ["x"]);
  assert.equal(dropped.warnings.length, 1);
});

test("a copied tensor is converted to the recipe's dtype like all others", () => {
  const models = { a: makeCheckpoint({ x: [4], extra: [2] }), b: makeCheckpoint({ x: [4] }) };
  const tensor = tensorOf(planText(`${linearOf("a", "b")}allow_unlisted: copy\ndtype: bfloat16\n`, models), "extra");
  assert.deepEqual([tensor.dtype, tensor.method, tensor.inputs.length], ["BF16", "passthrough", 1]);
});

test("a model that ties its head to its embedding takes part in the head with that embedding", () => {
  const models = { a: makeLlama({ tied: true, head: false }), b: makeLlama() };
  const plan = planText(linearOf("a", "b"), models);
  assert.deepEqual(
    tensorOf(plan, "lm_head.weight").inputs.map(({ tensor }) => tensor),
    ["model.embed_tokens.weight", "lm_head.weight"],
  );
  assert.equal(
    plan.warnings.some((warning) => /ties/.test(warning)),
    true,
  );
});

test("embeddings of different size are cut as the method declares", () => {
  const models = {
    a: makeLlama({ vocabulary: 12 }),
    b: makeLlama({ vocabulary: 10 }),
    c: makeLlama({ vocabulary: 11 }),
  };
  const common = tensorOf(planText(linearOf("a", "b"), models), "model.embed_tokens.weight");
  assert.deepEqual(common.shape, [10, 4]);
  assert.deepEqual(
    common.inputs.map(({ cut, shape }) => [cut, shape]),
    [
      [{ rows: 10, columns: 4 }, [12, 4]],
      [undefined, [10, 4]],
    ],
  );
  const base = tensorOf(planText(taskOf("b", "a", "c"), models), "lm_head.weight");
  assert.deepEqual(base.shape, [10, 4]);
  assert.deepEqual(
    base.inputs.map(({ cut }) => cut?.rows),
    [10, 10, undefined],
  );
});

test("under on_mismatch: skip a model that differs is left out, and alone the reference is copied", () => {
  const models = { a: makeCheckpoint({ x: [4] }), b: makeCheckpoint({ x: [5] }), base: makeCheckpoint({ x: [4] }) };
  const skip = "on_mismatch: skip\n";
  const both = tensorOf(planText(taskOf("base", "a", "b") + skip, models), "x");
  assert.deepEqual([both.method, both.inputs.map(({ source }) => source)], ["task_arithmetic", [0, 2]]);
  const alone = tensorOf(planText(taskOf("base", "b") + skip, models), "x");
  assert.deepEqual([alone.method, alone.shape, alone.inputs.map(({ source }) => source)], ["copy", [4], [1]]);
});

test("a head that is smaller than the base's is left out under skip, and the base's rows stay", () => {
  const models = { a: makeLlama({ vocabulary: 9 }), base: makeLlama({ vocabulary: 10 }) };
  const tensor = tensorOf(planText(`${taskOf("base", "a")}on_mismatch: skip\n`, models), "lm_head.weight");
  assert.deepEqual([tensor.shape, tensor.method], [[10, 4], "copy"]);
});

test("the recipe's rules and seed travel with the units", () => {
  const text = `${linearOf("a", "b")}non_finite: propagate\nmergekit_compat: strict\nrandom_seed: 42\n`;
  const [unit] = planText(text, { a: makeLlama(), b: makeLlama() }).units;
  assert.deepEqual([unit?.nonFinite, unit?.strict, unit?.tensors[0]?.seed], ["propagate", true, 42]);
});

test("filters that match nothing are warned of", () => {
  const text =
    "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: [{filter: mpl, value: 2}, {value: 1}]}\n";
  const { warnings } = planText(text, { a: makeLlama() });
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? "", /"mpl"/);
});

test("a method may refuse a tensor, and the refusal names model, tensor and parameter", () => {
  const picky: MergeMethod = {
    ...linear,
    id: "picky",
    modelParameters: z.strictObject({ density: z.number().default(1) }),
    refuse: ({ inputs }) =>
      inputs[1] === undefined
        ? undefined
        : { model: inputs[1].model, parameter: "density", found: "k = 0", expected: "k > 0" },
  };
  const models = { a: makeLlama(), b: makeLlama() };
  const text = "merge_method: picky\nmodels:\n  - model: a\n  - model: b\n    parameters: {density: 0.1}\n";
  assertRefused(() => planText(text, models, { findMethod: () => picky }), {
    code: "PlanMethodRefused",
    model: "b",
    tensor: "lm_head.weight",
    field: "models[1].parameters.density",
    line: 5,
    found: "k = 0",
    expected: "k > 0",
  });
});

const THREE: Models = { a: makeLlama(), b: makeLlama(), c: makeLlama() };
const odd = (
  shapes: Record<string, readonly number[] | { dtype: "F8_E4M3" | "I32"; shape: readonly number[] }>,
): Models => ({
  a: makeCheckpoint({ x: [4, 4] }),
  b: makeCheckpoint(shapes),
});

const REFUSALS: readonly (readonly [string, string, Models, Expected])[] = [
  [
    "an unknown method",
    "merge_method: linaer\nmodels: [{model: a}]\n",
    THREE,
    { code: "RecipeMethodUnknown", field: "merge_method", line: 1, found: "linaer" },
  ],
  [
    "a tensor that a model lacks",
    linearOf("a", "b"),
    { a: makeCheckpoint({ x: [4], y: [4] }), b: makeCheckpoint({ x: [4] }) },
    { code: "PlanTensorMissing", model: "b", tensor: "y", field: "models[1]", line: 4 },
  ],
  [
    "a tensor that only a later model has",
    linearOf("a", "b"),
    { a: makeCheckpoint({ x: [4] }), b: makeCheckpoint({ x: [4], y: [4] }) },
    { code: "PlanTensorMissing", model: "a", tensor: "y" },
  ],
  [
    "a head that one model lacks although its config says that it is not tied",
    linearOf("a", "b"),
    { a: makeLlama(), b: makeLlama({ head: false, tied: false }) },
    { code: "PlanTensorMissing", model: "b", tensor: "lm_head.weight" },
  ],
  [
    "different shapes",
    linearOf("a", "b"),
    odd({ x: [4, 5] }),
    { code: "PlanShapeMismatch", model: "b", tensor: "x", field: "models[1]", line: 4, found: "[4, 5]" },
  ],
  [
    "the same size in another shape",
    linearOf("a", "b"),
    odd({ x: [2, 8] }),
    { code: "PlanShapeMismatch", model: "b", tensor: "x" },
  ],
  [
    "an embedding that is smaller than the base's",
    taskOf("a", "b"),
    { a: makeLlama({ vocabulary: 12 }), b: makeLlama({ vocabulary: 10 }) },
    { code: "PlanShapeMismatch", model: "b", tensor: "lm_head.weight", found: "[10, 4]", expected: "[12, 4], as in a" },
  ],
  [
    "8-bit floats",
    linearOf("b"),
    odd({ x: { dtype: "F8_E4M3", shape: [4, 4] } }),
    { code: "PlanDtypeNotMergeable", model: "b", tensor: "x", found: "F8_E4M3" },
  ],
  [
    "whole numbers in one model, floats in the other",
    linearOf("a", "b"),
    odd({ x: { dtype: "I32", shape: [4, 4] } }),
    { code: "PlanDtypeNotMergeable", model: "b", tensor: "x", found: "I32" },
  ],
  [
    "a quantized parent",
    linearOf("a", "b"),
    { a: makeLlama(), b: makeLlama({ config: { quantization_config: { quant_method: "gptq" } } }) },
    { code: "PlanDtypeNotMergeable", model: "b", file: "config.json", found: "quantization_config (gptq)", line: 4 },
  ],
  [
    "three models for slerp",
    "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nmodels: [{model: a}, {model: b}, {model: c}]\n",
    THREE,
    { code: "PlanInputCount", found: "3 models", tensor: "lm_head.weight" },
  ],
  [
    "two models for passthrough",
    "merge_method: passthrough\nmodels: [{model: a}, {model: b}]\n",
    THREE,
    { code: "PlanInputCount", field: "models", found: "2 models", expected: "1 for passthrough" },
  ],
  [
    "no base",
    linearOf("a").replace("linear", "task_arithmetic"),
    THREE,
    { code: "RecipeBaseMissing", found: "no base_model" },
  ],
  [
    "a base that a slice does not list",
    "merge_method: task_arithmetic\nbase_model: a\nslices:\n  - sources: [{model: b, layer_range: [0, 1]}]\n",
    THREE,
    { code: "RecipeBaseMissing", model: "a", field: "slices[0]", line: 4 },
  ],
  [
    "a model without a weight",
    "merge_method: linear\nmodels:\n  - model: a\n",
    THREE,
    { code: "RecipeParameterMissing", model: "a", tensor: "lm_head.weight", expected: "weight" },
  ],
  [
    "a base of linear that is not listed, and so has no weight",
    `${linearOf("a")}base_model: b\n`,
    THREE,
    { code: "RecipeParameterMissing", model: "b", field: "base_model" },
  ],
  [
    "weights that sum to zero",
    "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 1}}\n" +
      "  - {model: b, parameters: {weight: -1}}\n",
    THREE,
    { code: "PlanMethodRefused", tensor: "lm_head.weight", field: "models.parameters.weight", line: 2 },
  ],
  [
    "models of different depth",
    linearOf("a", "b"),
    { a: makeLlama(), b: makeLlama({ layers: 4 }) },
    { code: "PlanLayersUnequal", model: "b", field: "models[1]", line: 4 },
  ],
  [
    "configs of different build",
    linearOf("a", "b"),
    { a: makeLlama(), b: makeLlama({ config: { num_attention_heads: 4 } }) },
    { code: "PlanConfigMismatch", model: "b", found: "num_attention_heads 4", line: 4 },
  ],
  [
    "a merge that drops everything",
    `${linearOf("a", "b")}allow_unlisted: drop\n`,
    { a: makeCheckpoint({ x: [4] }), b: makeCheckpoint({ y: [4] }) },
    { code: "PlanNothingToMerge" },
  ],
];

for (const [what, text, models, expected] of REFUSALS) {
  test(`refused: ${what}`, () => void assertRefused(() => planText(text, models), expected));
}

test("refused: a tensor that a worker's memory cannot hold", () => {
  const whole: MergeMethod = { ...linear, locality: "tensor" };
  const models = { a: makeCheckpoint({ small: [4], big: [4096, 4096] }) };
  const options = { findMethod: () => whole, memoryBytes: 300 * 2 ** 20 };
  assertRefused(() => planText(linearOf("a"), models, options), { code: "PlanMemoryExceeded", tensor: "big" });
  const [unit] = planText(linearOf("a"), models, { ...options, memoryBytes: 2 ** 30 }).units;
  assert.ok((unit?.peakBytes ?? 0) > 300 * 2 ** 20 && (unit?.peakBytes ?? 0) <= 2 ** 30);
});

test("the hint of a refusal is enough for every file and every document, whichever is planned first", () => {
  const whole: MergeMethod = { ...linear, locality: "tensor" };
  const side = (count: number) => [count, 4096] as const;
  const models = {
    a: makeCheckpoint({ large: side(2048), larger: side(4096), small: [4] }),
    b: makeCheckpoint({ large: side(2048), larger: side(4096), small: [4] }),
  };
  const text = `name: first\n${linearOf("a")}---\n${linearOf("a", "first", "b")}`;
  const plan = (memoryBytes: number) =>
    planDocuments(text, models, {}, { findMethod: () => whole, memoryBytes, shardBytes: 2 ** 20 });
  const { hint } = assertRefused(() => plan(2 ** 27), { code: "PlanMemoryExceeded", tensor: "larger" });
  const [, mebibytes] = /(\d+) MiB/.exec(hint ?? "") ?? [];
  assert.equal(plan(Number(mebibytes) * 2 ** 20).documents.length, 2);
  assertRefused(() => plan((Number(mebibytes) - 1) * 2 ** 20), { code: "PlanMemoryExceeded", tensor: "larger" });
});

test("a tensor that no usual worker holds is planned for the largest one, with no more than it needs", () => {
  const whole: MergeMethod = { ...linear, locality: "tensor" };
  const models = { a: makeCheckpoint({ small: [4], big: [4096, 4096] }) };
  const options = { findMethod: () => whole, memoryBytes: 300 * 2 ** 20, threads: 8 };
  const [large] = planText(linearOf("a"), models, { ...options, memoryBytesMax: 2 ** 32 }).units;
  const [alone] = planText(linearOf("a"), models, { ...options, memoryBytes: 2 ** 32, threads: 1 }).units;
  assert.ok((large?.peakBytes ?? 0) > 300 * 2 ** 20);
  assert.ok((large?.peakBytes ?? 0) <= (alone?.peakBytes ?? 0), "one thread, the smallest window");
  const usual = planText(linearOf("a"), { a: makeCheckpoint({ x: [4] }) }, { ...options, memoryBytesMax: 2 ** 32 });
  assert.ok((usual.units[0]?.peakBytes ?? 2 ** 40) <= 300 * 2 ** 20, "what fits is planned as before");
});

test("many models fit into a small worker by smaller windows and fewer threads", () => {
  const names = Array.from({ length: 24 }, (_, index) => `m${index}`);
  const models = Object.fromEntries(names.map((name) => [name, makeCheckpoint({ x: [4096, 4096] })]));
  const peak = (memoryBytes: number) =>
    planText(linearOf(...names), models, { memoryBytes, threads: 4 }).units[0]?.peakBytes ?? 0;
  assert.ok(peak(2 ** 30) > 512 * 2 ** 20);
  assert.ok(peak(256 * 2 ** 20) <= 256 * 2 ** 20);
});
