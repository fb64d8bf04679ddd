// Prints what merges of three sizes take and cost on AWS, as a table: the planner's units for headers made in memory,
// and core/cost/prices.json. docs/deploy.md has its output.
// Run: node tools/cost-examples.ts
import { estimateRun, formatUsd, PRICES } from "../core/cost/estimate.ts";
import { chooseMachine, FLEET_DEFAULT } from "../core/plan/machine.ts";
import { BUILDS, planSynthetic } from "./bench-plan.ts";

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

console.log("| merge | first run, uploads adopted | later runs, inputs known | the same on GPUs | output, a month |");
console.log("|---|---|---|---|---|");
for (const [build, models] of EXAMPLES) {
  const first = estimate(build, models, false);
  const later = estimate(build, models, true);
  const time = (seconds: number, usd: number) => `${Math.ceil(seconds / 60)} min, ${formatUsd(usd)}`;
  const cells = [
    `${build} × ${models}`,
    time(first.awsSeconds, first.awsUsd),
    time(later.awsSeconds, later.awsUsd),
    time(later.gpuSeconds, later.gpuUsd),
    formatUsd(first.storageUsdPerMonth),
  ];
  console.log(`| ${cells.join(" | ")} |`);
}
