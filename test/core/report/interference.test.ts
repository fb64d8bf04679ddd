// Goal: the report says what statistics.json says, and nothing in a recipe or a checkpoint can make it say more.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Statistics, statisticsSchema } from "../../../core/artifact/statistics.ts";
import { renderInterference } from "../../../core/report/interference.ts";
import { keptByModel, layerGrid, modelCosines, normsByLayer } from "../../../core/report/summary.ts";

/** Two layers of two modules and a tensor outside them, of two models. */
function example(models = ["polite", "fast"]): Statistics {
  const tensor = (name: string, norms: [number, number | null], cosine: number | null, signConflicts: number) => ({
    name,
    elements: 100,
    norms,
    cosines: [cosine],
    signConflicts,
    kept: name === "lm_head.weight" ? [null, null] : [30, norms[1] === 4 ? null : 50],
    nonFinite: [0, 0],
  });
  return statisticsSchema.parse({
    statistics: 1,
    method: "ties",
    vectors: "task",
    base: "base",
    models,
    tensors: [
      tensor("lm_head.weight", [1, null], null, 0),
      tensor("model.layers.0.mlp.up_proj.weight", [3, 4], 0.5, 10),
      tensor("model.layers.0.self_attn.q_proj.weight", [4, 3], 0, 20),
      tensor("model.layers.1.mlp.up_proj.weight", [0, 2], null, 0),
    ],
  });
}

test("whole models' cosines add dot products and squares over the tensors that both have", () => {
  // dot = 0.5 * 3 * 4 = 6; |a|^2 = 9 + 16 + 0; |b|^2 = 16 + 9 + 4.
  const cosine = 6 / Math.sqrt(25 * 29);
  assert.deepEqual(modelCosines(example()), [
    [1, cosine],
    [cosine, 1],
  ]);
});

test("tensors of numbered layers become a table of module by layer, with gaps where there is none", () => {
  const statistics = example();
  const grid = layerGrid(statistics.tensors);
  assert.deepEqual(grid.layers, [0, 1]);
  assert.deepEqual(grid.modules, ["mlp.up_proj", "self_attn.q_proj"]);
  assert.equal(grid.cells[1]?.[1], undefined);
  assert.deepEqual(normsByLayer(statistics, grid), [
    [5, 0],
    [5, 2],
  ]);
});

test("layers of several stacks do not hide each other", () => {
  const names = ["encoder.layers.0.fc.weight", "decoder.layers.0.fc.weight", "decoder.layers.1.fc.weight", "head"];
  const grid = layerGrid(names.map((name) => ({ name })));
  assert.deepEqual(grid.modules, ["encoder.layers fc", "decoder.layers fc"]);
  assert.deepEqual(
    grid.cells.map((row) => row.map((tensor) => tensor?.name)),
    [
      [names[0], undefined],
      [names[1], names[2]],
    ],
  );
});

test("the page shows shares, needs no network, and escapes what models are called", () => {
  const page = renderInterference(example(["<script>alert(1)</script>", 'fast & "furious"']));
  assert.match(page, /20\.0 %/);
  assert.doesNotMatch(page, /<script|https?:|src=|@import/);
  assert.match(page, /&#60;script&#62;/);
});

test("kept shares add up the tensors in which the method chose", () => {
  assert.deepEqual(keptByModel(example()), [0.3, 0.5]);
  const page = renderInterference(example());
  assert.match(page, /<th>polite<\/th><td>30\.0 %<\/td><td>70\.0 %<\/td>/);
  assert.match(page, /<th>kept fast<\/th>/);
  const { tensors, ...rest } = example();
  const dense = tensors.map((tensor) => ({ ...tensor, kept: [null, null] }));
  assert.doesNotMatch(renderInterference({ ...rest, tensors: dense }), /kept/);
});

test("a merge without layers still has a page", () => {
  const { tensors, ...rest } = example();
  const page = renderInterference({ ...rest, tensors: tensors.slice(0, 1) });
  assert.doesNotMatch(page, /NaN|Infinity|undefined/);
  assert.doesNotMatch(page, /by layer/);
});
