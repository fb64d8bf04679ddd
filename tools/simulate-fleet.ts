// Simulates a merge of three 405B models on Batch children whose Spot machines are taken away, from the planner's own
// units, and what each published limit has left; `--scale 10` makes model and fleet ten times bigger. Deterministic.
// docs/deploy.md, Scale, reads its output.
// Run: node tools/simulate-fleet.ts [--children 500] [--interruptions 0.05] [--scale 1] [--seed 1]
import { parseArgs } from "node:util";
import { formatUsd, PRICES, workerUsd } from "../core/cost/estimate.ts";
import type { Plan, Unit } from "../core/plan/schema.ts";
import { JOB_RETRY } from "../flow/job-retry.ts";
import { JOBS_MAX } from "../steps/schemas.ts";
import { BUILDS, planSynthetic } from "./bench-plan.ts";
import { type FleetModel, type SimulatedUnit, type StageOutcome, simulateStage } from "./fleet/simulate.ts";

/** Requests a second that S3 promises for one partitioned prefix. Source: the S3 user guide. */
const GET_MAX = 5500;
const PUT_MAX = 3500;
/** Events of one execution. Source: the quotas of Step Functions. */
const EVENTS_MAX = 25_000;
/** Seconds that publish has: its function's limit, once and four times again; files that were copied stay. */
const PUBLISH_SECONDS = 5 * 880;
/** Bytes a second of one file that S3 copies within itself, an assumption, and files that publish copies at a time. */
const COPY_BYTES_PER_SECOND = 200e6;
const COPIES_AT_ONCE = 16;
/** Memory of the plan's function, and what a plan takes in it for each byte of its lines of JSON, an assumption. */
const FUNCTION_BYTES = 3008 * 2 ** 20;
const PLAN_MEMORY_FACTOR = 3;
/** Units that move no bytes still take this long. */
const UNIT_SECONDS_MIN = 1;

export type FleetOptions = {
  readonly models: number;
  readonly layers: number;
  readonly shardBytes: number;
  readonly fleet: Omit<FleetModel, "writePrefix" | "attempts" | "startSeconds">;
};

/** The plan, and every stage after the one before it. */
export function simulateFleet({ models, layers, shardBytes, fleet }: FleetOptions) {
  const plan = planSynthetic(models, { build: { ...BUILDS["405B"], layers }, shardBytes });
  const model = {
    ...fleet,
    startSeconds: PRICES.worker.startSeconds,
    attempts: JOB_RETRY.attempts,
    writePrefix: "runs/RUN/",
  };
  const stages = plan.header.stages.map((stage) => {
    const units = plan.units.filter((unit) => unit.stage === stage.index).map((unit) => toSimulated(unit, plan));
    return { name: stage.name, units, outcome: simulateStage(units, { ...model, seed: fleet.seed + stage.index }) };
  });
  return { plan, stages };
}

function toSimulated(unit: Unit, { header }: Plan): SimulatedUnit {
  const reads = new Map<string, number>();
  const add = (source: number, bytes: number): void => {
    const prefix = header.sources[source]?.prefix ?? "";
    reads.set(prefix, (reads.get(prefix) ?? 0) + bytes);
  };
  if (unit.op === "adopt" || unit.op === "convert") add(unit.source, unit.bytesRead);
  if (unit.op === "merge") {
    for (const { source, ranges } of unit.tensors.flatMap(({ inputs }) => inputs)) {
      for (const { bytes } of ranges) add(source, bytes);
    }
  }
  const seconds = Math.max(UNIT_SECONDS_MIN, (unit.bytesRead + unit.bytesWritten) / PRICES.worker.bytesPerSecond);
  return { seconds, bytesWritten: unit.bytesWritten, reads };
}

/**
 * Events of an execution's history: two of the execution, two of a Choice or Succeed, five of a function, six of a job.
 * An array is one state, so they do not grow with the units.
 */
export function executionEvents(stages: number): number {
  const eachStage = 2 + 2 + 6;
  return 2 + 5 + 2 + stages * eachStage + 2 + 5 + 5 + 5 + 2;
}

export type Limit = { readonly name: string; readonly found: number; readonly limit: number };

/** What the run takes of each limit, the fullest first. */
export function findLimits({ plan, stages }: ReturnType<typeof simulateFleet>): readonly Limit[] {
  const peak = (pick: (outcome: StageOutcome) => ReadonlyMap<string, number>) =>
    stages.flatMap(({ outcome }) => [...pick(outcome).values()]).reduce((a, b) => Math.max(a, b), 0);
  const written = stages.at(-1)?.units.reduce((sum, unit) => sum + unit.bytesWritten, 0) ?? 0;
  const copySeconds = written / (COPIES_AT_ONCE * COPY_BYTES_PER_SECOND);
  const mostUnits = stages.reduce((most, { units }) => Math.max(most, units.length), 0);
  const limits: readonly Limit[] = [
    { name: "S3 reads a second under one prefix", found: peak(({ getPeaks }) => getPeaks), limit: GET_MAX },
    { name: "S3 writes a second under one prefix", found: peak(({ putPeaks }) => putPeaks), limit: PUT_MAX },
    { name: "events of the execution", found: executionEvents(stages.length), limit: EVENTS_MAX },
    { name: "jobs of one array; more units share jobs", found: mostUnits, limit: JOBS_MAX },
    { name: "seconds of publish", found: copySeconds, limit: PUBLISH_SECONDS },
    { name: "bytes of the plan in its function", found: PLAN_MEMORY_FACTOR * planBytes(plan), limit: FUNCTION_BYTES },
  ];
  return limits.toSorted((a, b) => b.found / b.limit - a.found / a.limit);
}

/** As lines of JSON. */
function planBytes({ header, units }: Plan): number {
  return [header, ...units].reduce((sum, line) => sum + JSON.stringify(line).length + 1, 0);
}

function print(simulation: ReturnType<typeof simulateFleet>): void {
  const { stages } = simulation;
  let [total, busy, wasted, cut] = [0, 0, 0, 0];
  for (const { name, units, outcome } of stages) {
    const { makespanSeconds, usefulSeconds, wastedSeconds, startingSeconds, interruptions, exhausted } = outcome;
    total += makespanSeconds;
    busy += usefulSeconds + wastedSeconds + startingSeconds;
    wasted += wastedSeconds;
    cut += interruptions;
    console.log(
      `${name}: ${units.length} units, ${outcome.ends.length} children, ${Math.round(makespanSeconds)} s, ` +
        `${interruptions} interruptions, ${Math.round(wastedSeconds)} s of work lost, ${exhausted} out of attempts`,
    );
  }
  const share = ((100 * wasted) / busy).toFixed(2);
  console.log(
    `all: ${Math.round(total / 60)} min, ${Math.round(busy / 3600)} worker hours, ` +
      `${formatUsd(workerUsd(busy * 1000, PRICES))} ` +
      `(prices of ${PRICES.asOf}, ${PRICES.region}), ${cut} interruptions, ${share} % of machine time lost`,
  );
  for (const { name, found, limit } of findLimits(simulation)) {
    const percent = (100 * found) / limit;
    console.log(`${percent.toFixed(1).padStart(7)} %  ${name}: ${Math.round(found)} of ${limit}`);
  }
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      children: { type: "string", default: "500" },
      interruptions: { type: "string", default: "0.05" },
      scale: { type: "string", default: "1" },
      seed: { type: "string", default: "1" },
      "shard-bytes": { type: "string", default: "1.6e9" },
    },
  });
  const scale = Number(values.scale);
  print(
    simulateFleet({
      models: 3,
      layers: BUILDS["405B"].layers * scale,
      shardBytes: Number(values["shard-bytes"]),
      fleet: {
        seed: Number(values.seed),
        children: Number(values.children) * scale,
        childrenPerMachine: 2,
        interruptionsPerHour: Number(values.interruptions),
        machinesPerSecond: 5 * scale,
      },
    }),
  );
}
