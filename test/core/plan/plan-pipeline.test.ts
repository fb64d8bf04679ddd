// The plan as a whole: stages, their order, the run's name, and that every output byte has exactly one maker.
import assert from "node:assert/strict";
import test from "node:test";
import fc from "fast-check";
import { encodeSafetensorsHeader } from "../../../core/formats/safetensors/safetensors.ts";
import { HF_METADATA } from "../../../core/formats/safetensors/shard-plan.ts";
import type { MergeOptions } from "../../../core/plan/merge-task.ts";
import { planPipeline } from "../../../core/plan/plan-pipeline.ts";
import { type Plan, type PlanSource, planHeaderSchema, unitSchema } from "../../../core/plan/schema.ts";
import { normaliseRecipe } from "../../../core/recipe/normalise.ts";
import { tensorBytes } from "../../../core/tensor.ts";
import { readRecipe } from "../../../steps/read-recipe.ts";
import { planSynthetic } from "../../../tools/bench-plan.ts";
import { type Models, makeCheckpoint, makeLlama, makeSource } from "./checkpoints.ts";

const TEXT = `name: bot
merge:
  merge_method: linear
  models: [{model: a}, {model: b}]
  parameters: {weight: 1}
checks: {max_nonfinite: 2}
publish: {model: bot-model, channel: nightly}
`;

type Setup = { text?: string; states?: Record<string, Partial<PlanSource>>; models?: Models; options?: MergeOptions };

function plan({ text = TEXT, states = {}, models = { a: makeLlama(), b: makeLlama() }, options }: Setup = {}): Plan {
  const parsed = readRecipe(new TextEncoder().encode(text), "bot.yaml");
  const recipe = normaliseRecipe(parsed);
  const known = recipe.sources.map((model) => ({
    source: { ...makeSource(model), ...states[model] },
    checkpoint: models[model] ?? makeLlama(),
    checkpointName: `checkpoint-${model}`,
  }));
  return planPipeline({ parsed, recipe, models: known, yard: makeSource("").store }, options);
}

test("sources that can be read as they are need one stage: the merge", () => {
  const { header, units } = plan({ states: { a: { state: "adopted" } } });
  assert.deepEqual(
    header.stages.map(({ index, name, kind, units: count }) => [index, name, kind, count]),
    [[0, "merge", "apply", 1]],
  );
  assert.deepEqual(
    units.map(({ op, stage, index }) => [op, stage, index]),
    [["merge", 0, 0]],
  );
  assert.deepEqual([header.name, header.method, header.recipe], ["bot", "linear", TEXT]);
  assert.deepEqual(header.publish, { model: "bot-model", channel: "nightly" });
  assert.deepEqual(header.checks, { maxNonFinite: 2 });
});

test("files of the yard are copied by its store, those of another place by the worker that describes them", () => {
  const states = { a: { state: "pending" }, b: { state: "pending", store: "file:///elsewhere" } } as const;
  const { units } = plan({ states });
  const [adopt] = units.filter(({ op }) => op === "adopt");
  const costs = units.flatMap(({ op, bytesRead, bytesWritten }) =>
    op === "describe" ? [[bytesRead, bytesWritten]] : [],
  );
  assert.deepEqual(costs, [
    [0, 0],
    [adopt?.bytesRead, adopt?.bytesRead],
  ]);
});

test("what a pipeline says without effect is a warning", () => {
  const { header } = plan({ text: TEXT.replace("nightly}", "nightly, keep: 3}") });
  assert.ok(header.warnings.some((warning) => warning.startsWith("publish.keep")));
  assert.ok(!plan().header.warnings.some((warning) => warning.startsWith("publish.keep")));
});

test("uploads are adopted file by file and described before the merge", () => {
  const { header, units } = plan({ states: { a: { state: "pending" }, b: { state: "pending" } } });
  assert.deepEqual(
    header.stages.map(({ name, kind, units: count }) => [name, kind, count]),
    [
      ["adopt", "shard", 2],
      ["describe", "shard", 2],
      ["merge", "apply", 1],
    ],
  );
  const describe = units[3];
  assert.ok(describe?.op === "describe");
  assert.deepEqual([describe.source, describe.model, describe.adopts], [1, "checkpoint-b", [{ stage: 0, index: 1 }]]);
  assert.deepEqual(
    header.sources.map(({ describedBy }) => describedBy),
    [
      { stage: 1, index: 0 },
      { stage: 1, index: 1 },
    ],
  );
});

test("one folder under two names is adopted once", () => {
  const folder = { state: "pending", prefix: "incoming/x/1/" } as const;
  const { header, units } = plan({ states: { a: folder, b: folder } });
  assert.equal(units.filter(({ op }) => op === "describe").length, 1);
  assert.deepEqual(
    header.sources.map(({ describedBy }) => describedBy?.index),
    [0, 0],
  );
});

test("a merge without a yard has a name of its own and publishes nothing", () => {
  const { header } = plan({ text: "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n" });
  assert.equal(header.name, "merge");
  assert.equal("publish" in header, false);
});

test("the plan is what its schemas say", () => {
  const { header, units } = plan({ states: { a: { state: "pending" } } });
  assert.deepEqual(planHeaderSchema.parse(JSON.parse(JSON.stringify(header))), header);
  for (const unit of units) assert.deepEqual(unitSchema.parse(JSON.parse(JSON.stringify(unit))), unit);
});

test("the run's name depends on recipe, sources and shard size, not on layout, comments, memory or threads", () => {
  const run = (setup: Setup) => plan(setup).header.run;
  const same = run({});
  assert.match(same, /^[0-9a-f]{16}$/);
  assert.equal(
    run({ text: `# nightly\n${TEXT.replace("[{model: a}, {model: b}]", "[{model: a},   {model: b}]")}` }),
    same,
  );
  assert.equal(run({ options: { memoryBytes: 2 ** 30, threads: 7 } }), same);
  const others = [
    run({ text: TEXT.replace("weight: 1", "weight: 2") }),
    run({ text: TEXT.replace("nightly", "stable") }),
    run({ states: { b: { fingerprint: `sha256:${"b".repeat(64)}` } } }),
    run({ options: { shardBytes: 300 } }),
  ];
  assert.equal(new Set([same, ...others]).size, 5);
});

/** Every output file, byte by byte: header, then tensors without gap or overlap to the end. */
function assertCovered({ units }: Plan): void {
  for (const unit of units) {
    if (unit.op !== "merge") continue;
    const { header } = encodeSafetensorsHeader(unit.tensors, HF_METADATA);
    let position = 0;
    for (const tensor of unit.tensors) {
      assert.equal(tensor.offset, position, `${unit.file} ${tensor.name}`);
      assert.equal(tensor.bytes, tensorBytes(tensor.dtype, tensor.shape));
      position += tensor.bytes;
    }
    assert.equal(header.length + position, unit.fileBytes);
  }
}

test("a plan covers every output byte exactly once, and every input range lies inside its tensor", () => {
  const dtype = fc.constantFrom("F32" as const, "BF16" as const, "F16" as const, "I64" as const);
  const shape = fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 3 });
  const tensors = fc.dictionary(fc.stringMatching(/^[a-c.0-2]{1,8}$/), fc.record({ dtype, shape }), {
    minKeys: 1,
    maxKeys: 12,
  });
  fc.assert(
    fc.property(tensors, fc.integer({ min: 1, max: 400 }), fc.boolean(), (shapes, shardBytes, converts) => {
      const models = { a: makeCheckpoint(shapes), b: makeCheckpoint(shapes) };
      const inputs = "models: [{model: a}, {model: b}]\nparameters: {weight: 1}\n";
      const text = `merge_method: linear\n${inputs}${converts ? "dtype: float16\n" : ""}`;
      const planned = plan({ text, models, options: { shardBytes } });
      assertCovered(planned);
      const merged = planned.units.flatMap((unit) => (unit.op === "merge" ? unit.tensors : []));
      assert.deepEqual(merged.map(({ name }) => name).sort(), Object.keys(shapes).sort());
      for (const tensor of merged) {
        for (const input of tensor.inputs) {
          const stored = models[input.source === 0 ? "a" : "b"].tensors.find(({ name }) => name === input.tensor);
          assert.deepEqual(input.ranges, stored?.ranges);
          assert.equal(
            input.ranges.reduce((sum, { bytes }) => sum + bytes, 0),
            tensorBytes(input.dtype, input.shape),
          );
        }
      }
    }),
    { numRuns: 60 },
  );
});

test("a merge of three 405B models is planned from headers, every shard within the limit", () => {
  const planned = planSynthetic(3);
  assertCovered(planned);
  const { stages } = planned.header;
  const files = stages.map(({ units }) => units);
  assert.deepEqual(
    stages.map(({ name }) => name),
    ["adopt", "describe", "merge"],
  );
  assert.ok((files[0] ?? 0) > 3 * 180 && files[1] === 3 && (files[2] ?? 0) > 150, String(files));
  const tensors = planned.units.flatMap((unit) => (unit.op === "merge" ? unit.tensors : []));
  assert.equal(tensors.length, 126 * 9 + 3);
  assert.equal(stages[2]?.bytesRead, 3 * tensors.reduce((sum, { bytes }) => sum + bytes, 0));
  assert.ok(stages.every(({ peakBytes }) => peakBytes <= 512 * 2 ** 20));
  const weights = [0, 63, 125].map((layer) =>
    tensors.find(({ name }) => name.startsWith(`model.layers.${layer}.mlp.up`)),
  );
  assert.deepEqual(
    weights.map((tensor) => Number(tensor?.inputs[0]?.parameters.weight).toFixed(3)),
    ["0.200", "0.502", "0.800"],
  );
});
