// Ending an execution and its Batch jobs. Step Functions ends the job that it waits for by itself; that is looked
// after, because a job that goes on costs money until somebody notices.
import { BatchClient, DescribeJobsCommand, TerminateJobCommand } from "@aws-sdk/client-batch";
import { matchName } from "../core/artifact/name-prefix.ts";
import { MergeyardError } from "../core/error.ts";
import { ask } from "./aws-errors.ts";
import { type AwsSettings, type Execution, type Executions, regionOf } from "./executions.ts";

export type Cancelled = {
  readonly execution: string;
  /** Its jobs that had not ended. */
  readonly jobs: readonly string[];
};

const ENDED: ReadonlySet<string | undefined> = new Set(["SUCCEEDED", "FAILED"]);
/** Ids of one DescribeJobs. */
const DESCRIBED_MAX = 100;

/**
 * Stops the running execution of this name, ARN or run (names may be cut short), and terminates its jobs that have not
 * ended. Throws RemoteExecutionMissing, YardNameAmbiguous, RemoteUnavailable, RemoteRefused.
 */
export async function cancelExecution(
  wanted: string,
  executions: Executions,
  settings: AwsSettings,
): Promise<Cancelled> {
  const running = await executions.listRunning();
  const { arn, name } = await findExecution(wanted, running, executions);
  const jobs = await executions.listJobs(arn);
  await executions.stop(arn);
  const { env, signal } = settings;
  const endpoint = env.AWS_ENDPOINT_URL_BATCH || env.AWS_ENDPOINT_URL || undefined;
  const region = regionOf(executions.machineArn);
  const client = new BatchClient({ region, ...(endpoint === undefined ? {} : { endpoint }) });
  const ended: string[] = [];
  for (let at = 0; at < jobs.length; at += DESCRIBED_MAX) {
    const command = new DescribeJobsCommand({ jobs: jobs.slice(at, at + DESCRIBED_MAX) });
    const found = await ask("batch:DescribeJobs", signal, () => client.send(command, { abortSignal: signal }));
    for (const { jobId, status } of found.jobs ?? []) {
      if (jobId === undefined || ENDED.has(status)) continue;
      const terminate = new TerminateJobCommand({ jobId, reason: "mergeyard cancel" });
      await ask("batch:TerminateJob", signal, () => client.send(terminate, { abortSignal: signal }));
      ended.push(jobId);
    }
  }
  return { execution: name, jobs: ended };
}

async function findExecution(
  wanted: string,
  running: readonly Execution[],
  executions: Executions,
): Promise<Execution> {
  const named = running.find(({ name, arn }) => name === wanted || arn === wanted);
  if (named !== undefined) return named;
  const known = new Map(running.map((execution) => [execution.name, execution]));
  for (const execution of running) {
    const run = (await executions.readPlan(execution.arn))?.run;
    if (run === wanted) return execution;
    if (run !== undefined) known.set(run, execution);
  }
  const meant = known.get(matchName(wanted, known.keys()) ?? "");
  if (meant !== undefined) return meant;
  const found =
    running
      .map(({ name }) => name)
      .slice(0, 5)
      .join(", ") || "none is running";
  throw new MergeyardError("RemoteExecutionMissing", { found, expected: wanted });
}
