import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { readPlan } from "../../steps/plan-file.ts";
import { readAll } from "../../stores/objects.ts";
import { assertRefused } from "../refusal.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { makeYard, plan } from "./pipeline.ts";

const { signal } = new AbortController();

async function makePlan() {
  const yard = newStore();
  await makeYard(yard);
  const { run } = await plan(yard, testDeps(openerOf(yard)));
  const key = layout.plan(run);
  return { yard, run, key, text: Buffer.from(await readAll(yard, key, 1e6)).toString() };
}

test("units are read from their own lines, in the order of stages", async () => {
  const { yard, run, text } = await makePlan();
  const stored = await readPlan(yard, run, signal);
  assert.deepEqual(
    stored.header.stages.map(({ name }) => name),
    ["adopt", "describe", "merge"],
  );
  for (const stage of stored.header.stages) {
    for (let index = 0; index < stage.units; index += 1) {
      const unit = stored.unit(stage.index, index);
      assert.deepEqual([unit.stage, unit.index], [stage.index, index]);
    }
  }
  assert.equal(text.trimEnd().split("\n").length, 1 + stored.header.stages.reduce((sum, { units }) => sum + units, 0));
  assert.throws(() => stored.unit(0, 99), { code: "YardPlanInvalid" });
  assert.throws(() => stored.unit(7, 0), { code: "YardPlanInvalid" });
});

test("a run without a plan, and a plan that is cut or changed, are refused with the line", async () => {
  const { yard, run, key, text } = await makePlan();
  await assert.rejects(readPlan(yard, "other", signal), { code: "YardRunMissing" });
  const lines = text.trimEnd().split("\n");
  await putText(yard, key, `${lines.slice(0, -1).join("\n")}\n`);
  await assert.rejects(readPlan(yard, run, signal), { code: "YardPlanInvalid", expected: `${lines.length} lines` });
  await putText(yard, key, `${lines.with(2, "{}").join("\n")}\n`);
  const damaged = await readPlan(yard, run, signal);
  assertRefused(() => damaged.unit(0, 1), { code: "YardPlanInvalid", line: 3 });
  await putText(yard, key, "not JSON\n");
  await assert.rejects(readPlan(yard, run, signal), { code: "YardPlanInvalid" });
});
