// A run on AWS as a person sees it: started or found, followed with its stages, bytes and cost, and told like one on
// this machine. Interrupting ends the following, never the execution.
import { setTimeout as sleep } from "node:timers/promises";
import { formatUsd, PRICES, workerUsd } from "../core/cost/estimate.ts";
import { MergeyardError } from "../core/error.ts";
import { openExecutions, regionOf } from "../remote/executions.ts";
import { type Follower, followExecution } from "../remote/follow.ts";
import { submit } from "../remote/submit.ts";
import type { RunStatus } from "../steps/runs/status.ts";
import { openYard } from "../steps/yard.ts";
import { createStoreOpener } from "../stores/open.ts";
import { locateFile, toUri } from "./arguments.ts";
import { createProgress, type Progress } from "./progress.ts";
import { describeOutcome, toError } from "./run-outcome.ts";
import { printResult, type Terminal } from "./terminal.ts";
import { countOf, formatCount } from "./text.ts";

type Options = {
  readonly yard: string;
  readonly model: Readonly<Record<string, string>>;
  readonly stateMachine?: string;
  readonly poll: number;
  readonly json?: boolean;
};

/** Throws Remote codes, the error that failed the run, and CliInterrupted, which says how to go on. */
export async function runRemote(pipeline: string, options: Options, terminal: Terminal): Promise<void> {
  const { signal, now, env } = terminal;
  const machineArn = options.stateMachine ?? (env.MERGEYARD_STATE_MACHINE || "");
  regionOf(machineArn);
  const openStore = createStoreOpener(env);
  const yard = await openYard(openStore, toUri(options.yard, terminal.cwd));
  const executions = openExecutions(machineArn, { env, signal });
  const submission = {
    yard: yard.uri,
    pipeline: locateFile(pipeline, terminal.cwd),
    models: options.model,
  };
  const { execution, isNew } = await submit(submission, executions, { openStore, now, signal });
  const progress = createProgress(terminal, { silent: options.json === true });
  const follower = createFollower(progress, options.json === true ? terminal : undefined);
  progress.note(`${isNew ? "started" : "follows"} ${execution.name}`);
  try {
    const pause = () => sleep(options.poll * 1000, undefined, { signal });
    const outcome = await followExecution(execution, { executions, yard, now, signal, pause }, follower);
    progress.end();
    if (outcome.status === "failed") throw toError(outcome);
    const data = { ...outcome, execution: execution.name };
    printResult(terminal, options.json, data, () => describeOutcome(outcome, outcome.summary.units));
  } catch (error) {
    progress.end();
    if (!signal.aborted) throw error;
    throw new MergeyardError("CliInterrupted", {
      found: `the execution ${execution.name} goes on`,
      hint: `run the same command to follow it again, or \`mergeyard cancel ${execution.name}\` to stop it`,
      cause: error,
    });
  }
}

/** Draws what is looked at; with `--json` each look is an event on stderr. */
function createFollower(progress: Progress, events: Terminal | undefined): Follower {
  let label = "";
  const ended = new Set<number>();
  const lost = new Set<string>();
  const tell = (event: object) => void events?.stderr.write(`${JSON.stringify(event)}\n`);
  return {
    planned(run) {
      progress.note(`run        ${run}`);
      tell({ event: "run-planned", run });
    },
    progress(status) {
      const { stages, jobsRunning, workerMs } = status;
      const costUsd = workerUsd(workerMs, PRICES);
      tell({ event: "run-progress", stages, jobsRunning, lost: status.lost.length, workerMs, costUsd });
      for (const { index, name, units, unitsDone } of stages) {
        if (units === 0 || unitsDone < units || ended.has(index)) continue;
        ended.add(index);
        progress.note(`${name.padEnd(10)} ${countOf(units, "unit")} done, ${costOf(status)} so far`);
      }
      for (const { stage, job, jobs, unit } of status.lost) {
        if (lost.has(`${stage}/${job}`)) continue;
        lost.add(`${stage}/${job}`);
        progress.note(`lost       job ${job} of ${jobs} of stage ${stage} is silent, at unit ${unit ?? "none"}`);
      }
      const current = stages.find(({ units, unitsDone }) => unitsDone < units);
      if (current === undefined) return;
      const wanted = labelOf(current, status);
      if (wanted !== label) progress.begin(wanted, current.bytes);
      label = wanted;
      progress.update(current.bytesDone);
    },
    troubled(error) {
      progress.note(`trouble    ${error.code}: ${error.found ?? ""}; looks again`);
      tell({ event: "look-failed", code: error.code, found: error.found });
    },
  };
}

/** `merge 12/64 units, 8 jobs, $0.12`: begins a new line of progress whenever it changes. */
function labelOf({ name, units, unitsDone }: RunStatus["stages"][number], status: RunStatus): string {
  const jobs = status.jobsRunning === 0 ? "waits for machines" : countOf(status.jobsRunning, "job");
  return `${name} ${formatCount(unitsDone)}/${countOf(units, "unit")}, ${jobs}, ${costOf(status)}`;
}

function costOf({ workerMs }: RunStatus): string {
  return formatUsd(workerUsd(workerMs, PRICES));
}
