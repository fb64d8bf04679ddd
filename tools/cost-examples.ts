// What merges of three sizes take and cost on AWS, by the planner's units for headers made in memory and
// core/cost/prices.json; and what an environment costs while it idles, by its templates and infra/idle-cost.ts.
// `npm run docs` writes both tables into docs/deploy.md; tests compare.
// Run: node tools/cost-examples.ts
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { App } from "aws-cdk-lib";
import * as z from "zod";
import { estimateRun, formatUsd, PRICES } from "../core/cost/estimate.ts";
import { chooseMachine, FLEET_DEFAULT } from "../core/plan/machine.ts";
import { environmentSchema } from "../infra/config.ts";
import { idleCosts, type TemplateResource } from "../infra/idle-cost.ts";
import { createMergeyard } from "../infra/mergeyard.ts";
import { BUILDS, planSynthetic } from "./bench-plan.ts";
import { replaceTable } from "./marked-tables.ts";

const ROOT = path.resolve(import.meta.dirname, "..");
const FILE = path.join(ROOT, "docs/deploy.md");

const EXAMPLES = [
  ["8B", 3],
  ["70B", 3],
  ["405B", 2],
] as const;

function estimate(build: keyof typeof BUILDS, models: number, adopted: boolean) {
  const { stages } = planSynthetic(models, { build: BUILDS[build], adopted }).header;
  const sized = stages.map((stage) => ({ ...stage, size: chooseMachine(stage, FLEET_DEFAULT) }));
  return estimateRun(sized, PRICES, 1);
}

export function exampleTable(): string {
  const time = (seconds: number, usd: number) => `${Math.ceil(seconds / 60)} min, ${formatUsd(usd)}`;
  const rows = EXAMPLES.map(([build, models]) => {
    const first = estimate(build, models, false);
    const later = estimate(build, models, true);
    const cells = [
      `${build} × ${models}`,
      time(first.awsSeconds, first.awsUsd),
      time(later.awsSeconds, later.awsUsd),
      time(later.gpuSeconds, later.gpuUsd),
      formatUsd(first.storageUsdPerMonth),
    ];
    return `| ${cells.join(" | ")} |`;
  });
  const head = "| merge | first run, uploads adopted | later runs, inputs known | the same on GPUs | output, a month |";
  return [head, "|---|---|---|---|---|", ...rows].join("\n");
}

/** Environments whose idle costs are told, by what their configuration files would say. */
const IDLE_ENVIRONMENTS = Object.freeze({
  "`default.json`": {},
  '`"signing": false`': { signing: false },
  '`"network": {"egress": "nat"}`': { network: { egress: "nat" } },
  '`"network": {"egress": "endpoints"}`': { network: { egress: "endpoints" } },
});

/** `resourcesOf` gives the resources of an environment's templates. */
export function idleTable(resourcesOf: (overrides: Record<string, unknown>) => readonly TemplateResource[]): string {
  const rows = Object.entries(IDLE_ENVIRONMENTS).map(([name, overrides]) => {
    const costs = idleCosts(resourcesOf(overrides));
    const total = costs.reduce((sum, { usdMonth }) => sum + usdMonth, 0);
    const parts = costs.map(({ what, count, usdMonth }) => `${what} (${count}) ${formatUsd(usdMonth)}`);
    return `| ${name} | ${formatUsd(total)} | ${parts.join(", ")} |`;
  });
  return ["| environment | idle, a month | of which |", "|---|---|---|", ...rows].join("\n");
}

const templateSchema = z.looseObject({
  Resources: z.record(
    z.string(),
    z.looseObject({ Type: z.string(), Properties: z.record(z.string(), z.unknown()).default({}) }),
  ),
});

function synthesize(overrides: Record<string, unknown>): readonly TemplateResource[] {
  const app = new App({ context: { "aws:cdk:bundling-stacks": [] }, builtinCloudFormationValidation: false });
  createMergeyard(app, environmentSchema.parse({ name: "idle", ...overrides }), path.join(ROOT, "workers"));
  return app.synth().stacks.flatMap(({ template }) =>
    Object.values(templateSchema.parse(template).Resources).map(({ Type, Properties }) => ({
      type: Type,
      properties: Properties,
    })),
  );
}

if (import.meta.main) {
  const [examples, idle] = [exampleTable(), idleTable(synthesize)];
  console.log(`${examples}\n\n${idle}`);
  const text = readFileSync(FILE, "utf8");
  writeFileSync(FILE, replaceTable(replaceTable(text, "examples", examples), "idle costs", idle));
}
