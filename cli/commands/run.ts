// `mergeyard run PIPELINE --yard YARD`: runs a pipeline through the state machine, and publishes; on this machine, or
// with --remote on AWS.
import { type Command, Option } from "commander";
import {
  jobsOption,
  jobThreadsOption,
  jsonOption,
  locateFile,
  memoryOption,
  modelOption,
  parseSeconds,
  refuseGiven,
  stateMachineOption,
  toUri,
  yardOption,
} from "../arguments.ts";
import { describeOutcome, toError } from "../run-outcome.ts";
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

const POLL_SECONDS = 5;

export function addRun(program: Command, terminal: Terminal): void {
  program
    .command("run")
    .description("run a pipeline and publish its result, on this machine or with --remote on AWS")
    .argument("<pipeline>", "a pipeline file")
    .addOption(yardOption())
    .addOption(modelOption())
    .addOption(jobsOption())
    .addOption(jobThreadsOption())
    .addOption(memoryOption())
    .option(
      "--remote",
      "run on AWS and follow; interrupted, the execution goes on, and the same command follows it again",
    )
    .addOption(stateMachineOption())
    .addOption(
      new Option("--poll <seconds>", `time between two looks at a remote run (default: ${POLL_SECONDS})`).argParser(
        parseSeconds,
      ),
    )
    .addOption(jsonOption())
    .action(async (pipeline: string, options: Options) => {
      const { remote, poll, stateMachine, jobs, threads, memory } = options;
      if (remote !== true) {
        refuseGiven({ "--poll": poll, "--state-machine": stateMachine }, { expected: "--remote" });
        return run(pipeline, options, terminal);
      }
      const ownMachine = { "--jobs": jobs, "--threads": threads, "--memory": memory };
      refuseGiven(ownMachine, { expected: "a run on this machine; on AWS the deployment says it" });
      // The AWS SDK is loaded by who needs it.
      const { runRemote } = await import("../remote-run.ts");
      return runRemote(pipeline, { ...options, poll: poll ?? POLL_SECONDS }, terminal);
    });
}

async function run(pipeline: string, options: Options, terminal: Terminal): Promise<void> {
  // So is what runs a state machine.
  const { createLocalRunner } = await import("../local-run.ts");
  const runner = await createLocalRunner(toUri(options.yard, terminal.cwd), options, terminal);
  const { outcome, unitsEnded } = await runner.run(locateFile(pipeline, terminal.cwd), {
    models: options.model,
    folder: toUri(terminal.cwd, terminal.cwd),
  });
  if (outcome.status !== "done") throw toError(outcome);
  printResult(terminal, options.json, outcome, () => describeOutcome(outcome, unitsEnded));
}
