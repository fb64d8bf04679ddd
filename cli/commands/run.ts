// `mergeyard run PIPELINE --yard YARD`: runs a pipeline through the state machine, and publishes; on this machine, or
// with --remote on AWS.
import { availableParallelism } from "node:os";
import { type Command, Option } from "commander";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { pipelineParts } from "../../local/pipeline-parts.ts";
import { openSigner } from "../../signing/open-signer.ts";
import { readPlan } from "../../steps/plan-file.ts";
import type { StepEvent } from "../../steps/step.ts";
import { createStoreOpener } from "../../stores/open.ts";
import type { OpenStore } from "../../stores/store.ts";
import {
  jobsOption,
  jsonOption,
  locateFile,
  memoryOption,
  modelOption,
  parseSeconds,
  stateMachineOption,
  threadsOption,
  toUri,
  yardOption,
} from "../arguments.ts";
import { createProgress } from "../progress.ts";
import { describeOutcome, toError } from "../run-outcome.ts";
import { createRunReport } from "../run-report.ts";
import { printResult, type Terminal } from "../terminal.ts";

type Options = {
  readonly yard: string;
  readonly model: Readonly<Record<string, string>>;
  readonly jobs?: number;
  readonly threads?: number;
  readonly memory?: number;
  readonly remote?: boolean;
  readonly stateMachine?: string;
  readonly poll?: number;
  readonly json?: boolean;
};

/** More workers at once only wait for each other's disk; more threads in one only for its memory. */
const JOBS_MAX = 8;
const THREADS_MAX = 4;
/** What a job of a local run executes. */
const WORKER = new URL("../../workers/main.ts", import.meta.url);

export function addRun(program: Command, terminal: Terminal): void {
  program
    .command("run")
    .description("run a pipeline and publish its result, on this machine or with --remote on AWS")
    .argument("<pipeline>", "a pipeline file")
    .addOption(yardOption())
    .addOption(modelOption())
    .addOption(jobsOption())
    .addOption(threadsOption())
    .addOption(memoryOption())
    .option(
      "--remote",
      "run on AWS and follow; interrupted, the execution goes on, and the same command follows it again",
    )
    .addOption(stateMachineOption())
    .addOption(
      new Option("--poll <seconds>", "time between two looks at a remote run").argParser(parseSeconds).default(5),
    )
    .addOption(jsonOption())
    .action(async (pipeline: string, options: Options) => {
      if (options.remote !== true) return run(pipeline, options, terminal);
      // The AWS SDK is loaded by who needs it.
      const { runRemote } = await import("../remote-run.ts");
      return runRemote(pipeline, options, terminal);
    });
}

async function run(pipeline: string, options: Options, terminal: Terminal): Promise<void> {
  // So is what runs a state machine.
  const { runPipeline } = await import("../../local/run-pipeline.ts");
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
      pipeline: locateFile(pipeline, terminal.cwd),
      models: options.model,
      folder: toUri(terminal.cwd, terminal.cwd),
      jobs: options.jobs ?? Math.min(JOBS_MAX, availableParallelism()),
      threads: options.threads ?? Math.min(THREADS_MAX, availableParallelism()),
      memoryBytes: options.memory ?? MEMORY_BYTES_DEFAULT,
      environment: terminal.env,
      signal: terminal.signal,
      onEvent,
    },
    pipelineParts(openStore, WORKER, signer),
  ).finally(() => progress.end());
  if (outcome.status !== "done") throw toError(outcome);
  printResult(terminal, options.json, outcome, () => describeOutcome(outcome, report.unitsEnded()));
}

async function readStageBytes(
  openStore: OpenStore,
  yard: string,
  run: string,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, number>> {
  const { header } = await readPlan(openStore(yard), run, signal);
  return new Map(header.stages.map(({ name, bytesRead, bytesWritten }) => [name, bytesRead + bytesWritten]));
}
