// AWS Batch played on one machine: a job, or an array of jobs, as child processes. Same variables, same exit codes,
// same retry rules (flow/job-retry.ts), same end: an array runs all its jobs and fails when one of them did.
import * as z from "zod";
import type { Json } from "../core/json.ts";
import { JOB_RETRY, judgeExit } from "../flow/job-retry.ts";
import { type ErrorFields, errorRecordSchema } from "../steps/schemas.ts";
import type { StepEvent } from "../steps/step.ts";
import { type Clock, sleep } from "./asl/clock.ts";
import { stateFailure } from "./asl/failure.ts";
import type { TaskFunction } from "./asl/task.ts";
import { type ChildEnd, type Command, runChild } from "./child.ts";
import { attemptEnd, describeEnd, failureCause, type JobEnd } from "./job-end.ts";

export type LocalBatchOptions = {
  /** What runs for each job definition. */
  readonly definitions: ReadonlyMap<string, Command>;
  /** What children inherit; the job's own variables win. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Variables that win over the job's: this machine is as large as it is, whatever a job asks Batch for. */
  readonly size?: Readonly<Record<string, string>>;
  /** Children at one time. */
  readonly jobs: number;
  readonly clock: Clock;
  readonly log: (event: StepEvent) => void;
  /** Between SIGTERM and SIGKILL; Batch's own is 30 s. */
  readonly killAfterMs?: number | undefined;
  /** Before the second attempt of a job; doubled for each further one. */
  readonly retryDelayMs?: number | undefined;
};

const KILL_AFTER_MS = 30_000;
const RETRY_DELAY_MS = 1000;

const name = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$/);
/** Of SubmitJob, what our definition uses. */
const submitJobSchema = z.strictObject({
  JobName: name,
  JobQueue: z.string().min(1),
  JobDefinition: z.string().min(1),
  ArrayProperties: z.strictObject({ Size: z.int().min(2).max(10_000) }).optional(),
  ContainerOverrides: z
    .strictObject({
      Environment: z.array(z.strictObject({ Name: z.string().min(1), Value: z.string() })).optional(),
      ResourceRequirements: z
        .array(z.strictObject({ Type: z.enum(["VCPU", "MEMORY", "GPU"]), Value: z.string() }))
        .optional(),
    })
    .optional(),
  Timeout: z.strictObject({ AttemptDurationSeconds: z.int().min(60) }).optional(),
});
type Submission = z.infer<typeof submitJobSchema>;

/**
 * The task behind `batch:submitJob.sync`. Gives the finished job. Fails with States.TaskFailed, and the job with all
 * its failed indexes as the cause, when one failed for good; with Batch.ClientException for a wrong submission.
 */
export function createLocalBatch(options: LocalBatchOptions): TaskFunction {
  let submitted = 0;
  return async (input, { signal }) => {
    const parsed = submitJobSchema.safeParse(input);
    if (!parsed.success) throw stateFailure("Batch.ClientException", z.prettifyError(parsed.error));
    const job = parsed.data;
    const command = options.definitions.get(job.JobDefinition);
    if (command === undefined) {
      throw stateFailure("Batch.ClientException", `there is no job definition ${job.JobDefinition}`);
    }
    submitted += 1;
    const id = `local-${process.pid}-${submitted}`;
    const size = job.ArrayProperties?.Size;
    options.log({ event: "jobs-submitted", job: job.JobName, jobs: size ?? 1 });
    const ends = await runJobs(size ?? 1, options.jobs, signal, (index) =>
      runJob({ job, id, index, command }, options, signal),
    );
    const failed = ends.filter((end) => end.failure !== undefined);
    options.log({ event: "jobs-ended", job: job.JobName, jobs: ends.length, failed: failed.map((end) => end.index) });
    const summary = summarise(job, id, ends.length, failed.length);
    if (failed.length > 0) throw stateFailure("States.TaskFailed", failureCause(summary, failed, ends.length));
    return summary;
  };
}

/** The job in the words of DescribeJobs. */
function summarise(job: Submission, id: string, jobs: number, failed: number): Readonly<Record<string, Json>> {
  const counts = { SUCCEEDED: jobs - failed, FAILED: failed };
  return {
    JobId: id,
    JobName: job.JobName,
    JobQueue: job.JobQueue,
    JobDefinition: job.JobDefinition,
    Status: failed === 0 ? "SUCCEEDED" : "FAILED",
    ...(job.ArrayProperties === undefined
      ? {}
      : { ArrayProperties: { Size: job.ArrayProperties.Size, StatusSummary: counts } }),
  };
}

/** All jobs, so many at one time, whatever becomes of the others; rejects only when the signal is aborted. */
async function runJobs(
  count: number,
  lanes: number,
  signal: AbortSignal,
  work: (index: number) => Promise<JobEnd>,
): Promise<JobEnd[]> {
  const ends = new Array<JobEnd>(count);
  const indexes = ends.keys();
  const lane = async (): Promise<void> => {
    for (const index of indexes) {
      if (signal.aborted) return;
      ends[index] = await work(index);
    }
  };
  const lanesEnded = await Promise.allSettled(Array.from({ length: Math.min(lanes, count) }, lane));
  signal.throwIfAborted();
  for (const ended of lanesEnded) if (ended.status === "rejected") throw ended.reason;
  return ends;
}

type Job = {
  readonly job: Submission;
  readonly id: string;
  readonly index: number;
  readonly command: Command;
};

/** One job through all its attempts. */
async function runJob(job: Job, options: LocalBatchOptions, signal: AbortSignal): Promise<JobEnd> {
  const { index } = job;
  for (let attempt = 1; ; attempt += 1) {
    const { end, error } = await runAttempt(job, attempt, options, signal);
    signal.throwIfAborted();
    if (end.exitCode === 0) return { index, attempts: attempt, failure: undefined };
    const verdict = end.timedOut ? "EXIT" : judgeExit(JOB_RETRY.evaluateOnExit, attemptEnd(end));
    const again = verdict === "RETRY" && attempt < JOB_RETRY.attempts;
    const reason = describeEnd(end);
    options.log({ event: "job-attempt-failed", job: job.job.JobName, index, attempt, reason, again, error });
    if (!again) return { index, attempts: attempt, failure: { ...end, reason, error } };
    await sleep(options.clock, (options.retryDelayMs ?? RETRY_DELAY_MS) * 2 ** (attempt - 1), signal);
  }
}

async function runAttempt(
  { job, id, index, command }: Job,
  attempt: number,
  options: LocalBatchOptions,
  signal: AbortSignal,
): Promise<{ end: ChildEnd; error: ErrorFields | undefined }> {
  const isArray = job.ArrayProperties !== undefined;
  let error: ErrorFields | undefined;
  const seconds = job.Timeout?.AttemptDurationSeconds;
  const end = await runChild({
    command,
    environment: {
      ...options.environment,
      ...Object.fromEntries((job.ContainerOverrides?.Environment ?? []).map(({ Name, Value }) => [Name, Value])),
      ...options.size,
      AWS_BATCH_JOB_ID: isArray ? `${id}:${index}` : id,
      AWS_BATCH_JOB_ATTEMPT: String(attempt),
      AWS_BATCH_JOB_ARRAY_INDEX: isArray ? String(index) : undefined,
    },
    signal,
    killAfterMs: options.killAfterMs ?? KILL_AFTER_MS,
    timeoutMs: seconds === undefined ? undefined : seconds * 1000,
    clock: options.clock,
    onStart: (pid) => options.log({ event: "worker-started", job: job.JobName, index, attempt, pid }),
    onLine: (line) => {
      const event = parseEvent(line);
      if (event.event === "unit-failed") error = errorRecordSchema.safeParse(event.error).data ?? error;
      options.log({ ...event, job: job.JobName, index });
    },
  });
  return { end, error };
}

const eventSchema = z.looseObject({ event: z.string() });

/** A line of a worker's output: its event, or whatever else it printed. */
function parseEvent(line: string): StepEvent {
  try {
    return eventSchema.parse(JSON.parse(line));
  } catch {
    return { event: "worker-output", line };
  }
}
