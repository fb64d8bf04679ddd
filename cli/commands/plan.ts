// `mergeyard plan PIPELINE --yard YARD`: what a run would do, from headers alone: stages, units, bytes, memory, time,
// and what it would cost on AWS. Writes nothing.
import { readFileSync } from "node:fs";
import path from "node:path";
import type { Command } from "commander";
import { type Estimate, estimateRun, formatUsd, PRICES, type Prices, pricesSchema } from "../../core/cost/estimate.ts";
import { MergeyardError } from "../../core/error.ts";
import { chooseMachine, FLEET_DEFAULT, type Machine } from "../../core/plan/machine.ts";
import type { Plan, PlanHeader } from "../../core/plan/schema.ts";
import { sumOf } from "../../core/sum-of.ts";
import { preparePlan } from "../../steps/plan.ts";
import { openYard } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import {
  defaultJobThreads,
  jobThreadsOption,
  jsonOption,
  locateFile,
  memoryOption,
  modelOption,
  toUri,
  yardOption,
} from "../arguments.ts";
import { createStepDeps } from "../step-deps.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { formatBytes, formatCount, formatDuration, formatMemory, renderTable } from "../text.ts";

type Options = {
  readonly yard: string;
  readonly model: Readonly<Record<string, string>>;
  readonly threads?: number;
  readonly memory?: number;
  readonly prices?: string;
  readonly json?: boolean;
};

export function addPlan(program: Command, terminal: Terminal): void {
  program
    .command("plan")
    .description("show what a run would do, take and cost, without doing it")
    .argument("<pipeline>", "a pipeline file")
    .addOption(yardOption())
    .addOption(modelOption())
    .addOption(jobThreadsOption())
    .addOption(memoryOption())
    .option("--prices <file>", "prices and workers in the form of core/cost/prices.json")
    .addOption(jsonOption())
    .action((pipeline: string, options: Options) => plan(pipeline, options, terminal));
}

async function plan(pipeline: string, options: Options, terminal: Terminal): Promise<void> {
  const prices = await readPrices(options.prices, terminal.cwd);
  const openStore = createStoreOpener(terminal.env);
  const yard = await openYard(openStore, toUri(options.yard, terminal.cwd));
  const threads = options.threads ?? defaultJobThreads();
  const prepared = await preparePlan(
    {
      yard: yard.uri,
      pipeline: locateFile(pipeline, terminal.cwd),
      models: { ...options.model },
      folder: toUri(terminal.cwd, terminal.cwd),
      threads,
      ...(options.memory === undefined ? {} : { memoryBytes: options.memory }),
    },
    yard,
    createStepDeps(terminal, openStore),
  );
  const machines = prepared.header.stages.map((stage) => chooseMachine(stage, FLEET_DEFAULT));
  const sized = prepared.header.stages.map((stage, index) => ({ ...stage, size: machines[index] }));
  const estimate = estimateRun(sized, prices, threads);
  printResult(terminal, options.json, toData(prepared, machines, estimate, prices), () =>
    render(prepared.header, machines, estimate, prices),
  );
}

/** Throws CliPricesInvalid. */
async function readPrices(file: string | undefined, cwd: string): Promise<Prices> {
  if (file === undefined) return PRICES;
  try {
    return pricesSchema.parse(JSON.parse(readFileSync(path.resolve(cwd, file), "utf8")));
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new MergeyardError("CliPricesInvalid", { where: { file }, found, cause });
  }
}

function toData({ header, units }: Plan, machines: readonly Machine[], estimate: Estimate, prices: Prices) {
  const { name, run, method, sources, stages, publish, warnings } = header;
  return {
    name,
    run,
    method,
    sources: sources.map(({ model, store, prefix, format, state }) => ({ model, store, prefix, format, state })),
    stages: stages.map((stage, index) => ({ ...stage, machine: machines[index], ...estimate.stages[index] })),
    units: units.length,
    bytesRead: sumOf(stages, (stage) => stage.bytesRead),
    bytesWritten: sumOf(stages, (stage) => stage.bytesWritten),
    publish: publish ?? null,
    estimate: { ...estimate, stages: undefined, region: prices.region, pricesAsOf: prices.asOf },
    warnings,
  };
}

function render(header: PlanHeader, machines: readonly Machine[], estimate: Estimate, prices: Prices): string {
  const { name, run, method, sources, stages, publish, warnings } = header;
  const rows = stages.map((stage, index) => [
    stage.name,
    stage.kind,
    formatCount(stage.units),
    formatBytes(stage.bytesRead),
    formatBytes(stage.bytesWritten),
    formatMemory(stage.peakBytes),
    formatDuration((estimate.stages[index]?.localSeconds ?? 0) * 1000),
  ]);
  const total = [
    "total",
    "",
    formatCount(sumOf(stages, (stage) => stage.units)),
    formatBytes(sumOf(stages, (stage) => stage.bytesRead)),
    formatBytes(sumOf(stages, (stage) => stage.bytesWritten)),
    formatMemory(Math.max(0, ...stages.map((stage) => stage.peakBytes))),
    formatDuration(estimate.localSeconds * 1000),
  ];
  return [
    `${name}: ${method} of ${sources.filter(({ state }) => state !== "merged").length} models, run ${run}`,
    publish === undefined ? "publishes nothing" : `publishes ${publish.model}:${publish.channel}`,
    "",
    renderTable(
      [
        { title: "stage", align: "left" },
        { title: "kind", align: "left" },
        ...["units", "read", "written", "memory", "time here"].map(right),
      ],
      [...rows, total],
    ),
    "",
    renderMachines(stages, machines, estimate),
    "",
    ...new Set(machines.map(({ queue, reason }) => `${queue.toUpperCase()}: ${reason}`)),
    "",
    `Estimates. AWS: ${prices.region}, prices of ${prices.asOf}, ${prices.worker.count} workers at most, or ` +
      `${prices.gpuWorker.count} of ${prices.gpuWorker.machine}; ` +
      `what is written costs ${formatUsd(estimate.storageUsdPerMonth)} a month to keep.`,
    ...warnings.map((warning) => `warning: ${warning}`),
  ].join("\n");
}

const right = (title: string) => ({ title, align: "right" as const });

/** Where each stage runs on AWS, and what it would take on either queue. */
function renderMachines(stages: PlanHeader["stages"], machines: readonly Machine[], estimate: Estimate): string {
  const rows = stages.map(({ name }, index) => {
    const { queue, vcpus, memoryMiB } = machines[index] ?? {};
    const { awsSeconds = 0, awsUsd = 0, gpuSeconds = 0, gpuUsd = 0 } = estimate.stages[index] ?? {};
    return [name, `${queue}, ${vcpus} vCPU`, formatMemory((memoryMiB ?? 0) * 2 ** 20)].concat([
      formatDuration(awsSeconds * 1000),
      formatUsd(awsUsd),
      formatDuration(gpuSeconds * 1000),
      formatUsd(gpuUsd),
    ]);
  });
  const total = [
    "total",
    "",
    "",
    formatDuration(estimate.awsSeconds * 1000),
    formatUsd(estimate.awsUsd),
    formatDuration(estimate.gpuSeconds * 1000),
    formatUsd(estimate.gpuUsd),
  ];
  return renderTable(
    [
      { title: "on AWS", align: "left" },
      { title: "queue", align: "left" },
      ...["memory", "time, CPU", "cost, CPU", "time, GPU", "cost, GPU"].map(right),
    ],
    [...rows, total],
  );
}
