// `mergeyard run PIPELINE --yard YARD`: runs a pipeline on this machine through the state machine, and publishes.
import { availableParallelism } from "node:os";
import type { Command } from "commander";
import type { PipelineOutcome } from "../../local/run-pipeline.ts";
import type { FailureRecord, PublishOutput } from "../../steps/schemas.ts";
import type { StepEvent } from "../../steps/step.ts";
import type { OpenStore } from "../../stores/store.ts";
import {
  jobsOption,
  jsonOption,
  memoryOption,
  modelOption,
  splitUri,
  threadsOption,
  toUri,
  yardOption,
} from "../arguments.ts";
import { createProgress } from "../progress.ts";
import { createRunReport } from "../run-report.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { countOf, formatBytes, formatCount } from "../text.ts";

type Options = {
  readonly yard: string;
  readonly model: Readonly<Record<string, string>>;
  readonly jobs?: number;
  readonly threads?: number;
  readonly memory?: number;
  readonly json?: boolean;
};

/** More workers at once only wait for each other's disk; more threads in one only for its memory. */
const JOBS_MAX = 8;
const THREADS_MAX = 4;

export function addRun(program: Command, terminal: Terminal): void {
  program
    .command("run")
    .description("run a pipeline on this machine and publish its result")
    .argument("<pipeline>", "a pipeline file")
    .addOption(yardOption())
    .addOption(modelOption())
    .addOption(jobsOption())
    .addOption(threadsOption())
    .addOption(memoryOption())
    .addOption(jsonOption())
    .action((pipeline: string, options: Options) => run(pipeline, options, terminal));
}

async function run(pipeline: string, options: Options, terminal: Terminal): Promise<void> {
  const [{ createStoreOpener }, { openSigner }, { runPipeline }, { MEMORY_BYTES_DEFAULT }, { pipelineParts }] =
    await Promise.all([
      import("../../stores/open.ts"),
      import("../../signing/open-signer.ts"),
      import("../../local/run-pipeline.ts"),
      import("../../core/plan/plan-merge.ts"),
      import("../../local/pipeline-parts.ts"),
    ]);
  const openStore = createStoreOpener(terminal.env);
  // A key that cannot be read stops the run before it began, not at its end.
  const signer = await openSigner(terminal.env);
  const yard = toUri(options.yard, terminal.cwd);
  const progress = createProgress(terminal, { silent: options.json === true });
  const report = createRunReport(progress);
  const onEvent = (event: StepEvent): void => {
    if (options.json === true) terminal.stderr.write(`${JSON.stringify(event)}\n`);
    report.handle(event);
    if (event.event === "attempt-opened") {
      // Only the progress line waits for this; a plan that cannot be read fails the run itself.
      readStageBytes(openStore, yard, String(event.run), terminal.signal).then(report.setStages, () => undefined);
    }
  };
  const outcome = await runPipeline(
    {
      yard,
      pipeline: splitUri(toUri(pipeline, terminal.cwd)),
      models: options.model,
      folder: toUri(terminal.cwd, terminal.cwd),
      jobs: options.jobs ?? Math.min(JOBS_MAX, availableParallelism()),
      threads: options.threads ?? Math.min(THREADS_MAX, availableParallelism()),
      memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
      environment: terminal.env,
      signal: terminal.signal,
      onEvent,
    },
    pipelineParts(openStore, signer),
  ).finally(() => progress.end());
  if (outcome.status !== "done") throw await toError(outcome);
  printResult(terminal, options.json, outcome, () => describe(outcome, report.unitsEnded()));
}

async function readStageBytes(
  openStore: OpenStore,
  yard: string,
  run: string,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, number>> {
  const { readPlan } = await import("../../steps/plan-file.ts");
  const { header } = await readPlan(openStore(yard), run, signal);
  return new Map(header.stages.map(({ name, bytesRead, bytesWritten }) => [name, bytesRead + bytesWritten]));
}

/** The error that failed the run, as the class it had where it was thrown. */
async function toError(outcome: Exclude<PipelineOutcome, { status: "done" }>): Promise<Error> {
  const { ERROR_CODES, MergeyardError } = await import("../../core/error.ts");
  if (outcome.status === "cancelled") return new MergeyardError("CliInterrupted");
  const failure: FailureRecord["error"] | undefined = outcome.failure?.error;
  if (failure === undefined) {
    return new MergeyardError("CliRunFailed", { found: outcome.error, expected: undefined, hint: outcome.cause });
  }
  const { code, where, found, expected, hint } = failure;
  const known = Object.keys(ERROR_CODES).find((name): name is keyof typeof ERROR_CODES => name === code);
  if (known !== undefined) return new MergeyardError(known, { where, found, expected, hint });
  return new MergeyardError("CliRunFailed", { where, found: `${code}: ${failure.meaning}`, expected, hint });
}

function describe({ result, summary }: Extract<PipelineOutcome, { status: "done" }>, unitsEnded: number): string {
  if (unitsEnded === 0) return `${describeResult(result)}; nothing was computed`;
  const cached = summary.cached === 0 ? "" : `, ${formatCount(summary.cached)} from the cache`;
  const bytes = `${formatBytes(summary.bytesRead)} read, ${formatBytes(summary.bytesWritten)} written`;
  return `${describeResult(result)}\n${countOf(summary.units, "unit")}${cached}; ${bytes}`;
}

function describeResult({ outcome, model, version, channel, current, files, bytes }: PublishOutput): string {
  switch (outcome) {
    case "published":
      return `published ${model}@${version} (${files} files, ${formatBytes(bytes)}); ${model}:${channel} points to it`;
    case "unchanged":
      return `nothing changed: ${model}:${channel} is ${model}@${version} already`;
    case "lost-race":
      return `published ${model}@${version}, but ${model}:${channel} is ${current?.version} by a later decision`;
    case "not-requested":
      return "done; the pipeline does not ask to publish, its files stay in the run's folder";
  }
}
