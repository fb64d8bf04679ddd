// What docs/deploy.md says of costs is what the templates, the planner and the price tables say.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { PRICES } from "../../core/cost/estimate.ts";
import { IDLE_PRICES, idleCosts } from "../../infra/idle-cost.ts";
import { exampleTable, idleTable } from "../../tools/cost-examples.ts";
import { replaceTable } from "../../tools/marked-tables.ts";
import { DEPLOYMENTS, standard } from "./deployments.ts";
import { deploy } from "./templates.ts";

test("the costs in docs/deploy.md are those that the planner and the templates give, with their dates", () => {
  const text = readFileSync(new URL("../../docs/deploy.md", import.meta.url), "utf8");
  const made = replaceTable(text, "examples", exampleTable());
  const idle = idleTable((overrides) => (Object.keys(overrides).length === 0 ? standard : deploy(overrides)).resources);
  assert.ok(text === replaceTable(made, "idle costs", idle), "prices or templates have changed: run `npm run docs`");
  for (const { region, asOf } of [PRICES, IDLE_PRICES]) assert.ok(text.includes(`${region}, ${asOf}`));
});

test("every type of resource has its idle cost, and the default environment is near to free", () => {
  for (const { resources } of Object.values(DEPLOYMENTS)) assert.ok(idleCosts(resources).length > 2);
  const sum = idleCosts(standard.resources).reduce((total, { usdMonth }) => total + usdMonth, 0);
  assert.ok(sum > 2 && sum < 10, `$${sum}`);
  assert.throws(() => idleCosts([{ type: "AWS::RDS::DBInstance", properties: {} }]), /AWS::RDS::DBInstance/);
});
