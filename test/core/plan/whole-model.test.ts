// Goal: a merge whose method looks at whole models is planned with a stage for each round, and refused from headers
// where its tensors do not make one model. Nothing is read, so no weights exist.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { assertRefused as assertFields } from "../../refusal.ts";
import { makeCheckpoint, planDocuments, planText, tensorsOf } from "./checkpoints.ts";

const SHAPES = { a: [64, 32], b: [8], c: [32, 64] };
const whole = makeCheckpoint(SHAPES);
const MODELS = { base: whole, one: whole, two: whole };
const text = (more = "") => `merge_method: ties_paper\nbase_model: base\nmodels: [{model: one}, {model: two}]\n${more}`;

function assertRefused(run: () => unknown, tensor: string | undefined, field: string | undefined, found: RegExp): void {
  assertFields(run, { code: "PlanMethodRefused", tensor, field, found });
}

describe("the rounds of a merge", () => {
  test("come before it, and name the unit whose tensors they measure and what decisions must know", () => {
    const { prepare, units } = planText(text(), MODELS, { shardBytes: 9000, stage: 2 });
    assert.deepEqual(
      prepare.map((round) => round.map(({ stage, index, of }) => [stage, index, of.stage, of.index])),
      [2, 3, 4].map((stage) => units.map(({ index }) => [stage, index, 5, index])),
    );
    assert.ok(units.length > 1);
    for (const unit of units) {
      assert.equal(unit.stage, 5);
      assert.deepEqual(unit.prepared, { stages: [2, 3, 4], elements: 64 * 32 * 2 + 8, tensors: 3 });
    }
    for (const [index, { bytesRead }] of prepare[0]?.entries() ?? []) assert.equal(bytesRead, units[index]?.bytesRead);
  });

  test("are as many as the parameters ask for, and none for a document whose method asks for none", () => {
    const count = (elect: string) => planText(text(`parameters: {elect: ${elect}}`), MODELS).prepare.length;
    assert.deepEqual([count("mass"), count("normmass"), count("normfrac")], [3, 4, 4]);
    const first = `name: half\n${text()}---\nmerge_method: linear\nmodels: [{model: half, parameters: {weight: 1}}]\n`;
    const { documents, sources } = planDocuments(first, MODELS);
    assert.deepEqual(
      documents.map(({ plan }) => [plan.prepare.length, plan.units[0]?.stage]),
      [
        [3, 3],
        [0, 4],
      ],
    );
    assert.deepEqual(sources.at(-1)?.mergedBy, { stage: 3 });
  });

  test("leave out a unit that only copies", () => {
    const more = makeCheckpoint({ ...SHAPES, d: [4096, 4] });
    const { prepare, units } = planText(
      text("allow_unlisted: copy"),
      { ...MODELS, base: more },
      { shardBytes: 20_000 },
    );
    const copying = units.filter(({ tensors }) => tensors.every(({ method }) => method === "copy"));
    assert.deepEqual(
      copying.map(({ prepared }) => prepared),
      [undefined],
    );
    assert.equal(prepare[0]?.length, units.length - 1);
  });

  test("take no parameter that differs between tensors, unless only the merge uses it", () => {
    const filtered = (name: string, values: string) =>
      text(`parameters: {${name}: [{filter: b, value: ${values.split(" ")[0]}}, {value: ${values.split(" ")[1]}}]}`);
    const run = () => planText(filtered("top_k_percent", "10 20"), MODELS);
    assertRefused(run, "b", "parameters.top_k_percent", /^\[10\]$/);
    const plan = planText(filtered("lambda", "0.5 1"), MODELS);
    assert.deepEqual(
      [...tensorsOf(plan)].map(([name, { parameters }]) => [name, parameters.lambda]),
      [
        ["a", 1],
        ["b", 0.5],
        ["c", 1],
      ],
    );
  });

  test("take no tensor of other models", () => {
    const smaller = makeCheckpoint({ ...SHAPES, b: [4] });
    const run = () => planText(text("on_mismatch: skip"), { ...MODELS, three: smaller, one: whole, two: smaller });
    assertRefused(run, "b", "merge_method", /^one, base$/);
  });

  test("are refused where a density keeps nothing of the whole model", () => {
    const sparse = text("parameters: {density: 0.0001}").replace("ties_paper", "localize_and_stitch");
    assertRefused(() => planText(sparse, MODELS), undefined, "parameters.density", /^0.0001 of 4104 elements/);
  });

  test("are about fewer than 100 % of a model", () => {
    for (const percent of [0, 100, -1]) {
      assertFields(() => planText(text(`parameters: {top_k_percent: ${percent}}`), MODELS), {
        code: "RecipeParameterInvalid",
        field: "parameters.top_k_percent",
        line: 4,
        found: String(percent),
      });
    }
  });
});

describe("methods that keep tasks apart", () => {
  const recipe = (method: string, one: string, more = "") =>
    `merge_method: ${method}\nbase_model: base\nmodels: [{model: one, parameters: ${one}}, {model: two}]\n${more}`;

  test("need one task where the output is a task's, and take no second one", () => {
    assertRefused(() => planText(recipe("emr", "{}"), MODELS), "a", "models", /^no model with `task: true`$/);
    assert.equal(planText(recipe("emr", "{}", "parameters: {emit: unified}"), MODELS).prepare.length, 0);
    assert.equal(planText(recipe("emr", "{task: true}"), MODELS).prepare.length, 1);
    for (const method of ["emr", "tall_masks"]) {
      const both = () => planText(recipe(method, "{task: true}", "parameters: {task: true}"), MODELS);
      assertRefused(both, "a", "models[1].parameters.task", /^2 models$/);
    }
  });

  test("take no consensus of more models than there are", () => {
    const run = () => planText(recipe("tall_masks", "{}", "parameters: {consensus: 3}"), MODELS);
    assertRefused(run, "a", "models.parameters.consensus", /^3 masks of 2 models/);
    assert.equal(planText(recipe("tall_masks", "{}", "parameters: {consensus: 2}"), MODELS).units.length, 1);
  });
});
