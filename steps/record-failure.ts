// Recording a failure: turns what the state machine caught into one typed record that names the error, where it was
// and what to do, and keeps it in the run's folder. It never fails the run a second time: a record that cannot be
// written (a full disk, no run yet) is still returned and logged.
import * as z from "zod";
import { layout } from "../core/artifact/layout.ts";
import { ERROR_CODES, type ErrorCode, MergeyardError } from "../core/error.ts";
import { parseJson } from "../core/json.ts";
import type { ObjectStore } from "../stores/store.ts";
import { describeError, INTERNAL_HINT, orLog } from "./error-record.ts";
import { encodeRecord } from "./records.ts";
import { currentJobs, type JobProgress, readJobProgress } from "./runs/job-progress.ts";
import {
  type ErrorFields,
  errorRecordSchema,
  type FailureRecord,
  recordFailureInputSchema,
  recordFailureOutputSchema,
} from "./schemas.ts";
import { defineStep, type StepDeps } from "./step.ts";
import { readUnitFailures, type UnitFailure } from "./units/failures.ts";

/** Failed units that a record holds; it travels through the state machine, which carries 256 KiB. */
const UNITS_LISTED_MAX = 20;
/** Records of one run that are tried before giving up; more failed attempts than this are nobody's wish. */
const ATTEMPTS_MAX = 10_000;

/** The cause of a failed Lambda function, and of a step run in process. */
const functionCauseSchema = z.looseObject({ errorType: z.string(), errorMessage: z.string() });
/** The cause of a failed Batch job: the job as DescribeJobs tells it. */
const jobCauseSchema = z.looseObject({
  StatusReason: z.string().optional(),
  Container: z.looseObject({ ExitCode: z.int().optional(), Reason: z.string().optional() }).optional(),
  /** Of the local runner, which hears what its workers say. */
  Failures: z.array(z.looseObject({ Error: errorRecordSchema.optional() })).optional(),
});

export const recordFailureStep = defineStep({
  name: "record-failure",
  input: recordFailureInputSchema,
  output: recordFailureOutputSchema,
  async run({ yard, run, state, error }, deps) {
    const store = deps.openStore(yard);
    const caught = parseCaught(error.Error, error.Cause ?? "");
    const readUnits = () => (run === null || caught.isFunction ? Promise.resolve([]) : readUnitFailures(store, run));
    const units = (await orLog(deps.log, "unit-failures-unreadable", readUnits)) ?? [];
    const failure: FailureRecord = {
      failure: 1,
      run,
      state: state ?? null,
      error: units[0] === undefined ? await nameLost(store, run, caught, deps) : nameUnit(units[0]),
      units: units.slice(0, UNITS_LISTED_MAX),
      unitsFailed: units.length,
    };
    deps.log({ event: "run-failed", ...failure });
    return { yard, key: await keepRecord(store, failure, deps), ...failure };
  },
});

/**
 * The error of a failed array of jobs none of which left one: the job that was last heard of first. Batch says of an
 * array only that a child failed.
 */
async function nameLost(store: ObjectStore, run: string | null, caught: Caught, deps: StepDeps): Promise<ErrorFields> {
  if (run === null || caught.isFunction || isCode(caught.error.code)) return caught.error;
  const read = () => readJobProgress(store, run, new Map(), deps.signal);
  const records = currentJobs((await orLog(deps.log, "progress-unreadable", read)) ?? []);
  const lost = records.filter(({ state }) => state === "running").sort((a, b) => a.atMs - b.atMs);
  return lost[0] === undefined ? caught.error : describeError(lostWorker(store, lost[0], lost.length, caught.error));
}

function lostWorker(
  store: ObjectStore,
  { stage, job, jobs, unit, attempt, atMs }: JobProgress,
  lost: number,
  { meaning, found }: ErrorFields,
): MergeyardError {
  const more = lost === 1 ? "" : `, and ${lost - 1} more`;
  const said = found === undefined ? meaning : `${meaning}, ${found}`;
  const place = `job ${job} of ${jobs} of stage ${stage}, attempt ${attempt}`;
  return new MergeyardError("FlowWorkerLost", {
    where: { store: store.uri, unit: unit ?? undefined },
    found: `${place}, last heard of at ${isoTime(atMs)}${more}: ${said}`,
  });
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}

function nameUnit({ stage, index, error }: UnitFailure): ErrorFields {
  return { ...error, where: { ...error.where, stage, unit: index } };
}

type Caught = { readonly error: ErrorFields; readonly isFunction: boolean };

/** The typed error in what a state machine catches: of a function, of a job, or of the platform itself. */
function parseCaught(name: string, cause: string): Caught {
  const json = parseJson(cause);
  const whole = errorRecordSchema.safeParse(json);
  if (whole.success) return { error: whole.data, isFunction: true };
  const thrown = functionCauseSchema.safeParse(json);
  if (thrown.success) {
    const { errorType, errorMessage } = thrown.data;
    const record = errorRecordSchema.safeParse(parseJson(errorMessage));
    return { error: record.success ? record.data : describeName(errorType, errorMessage), isFunction: true };
  }
  const job = jobCauseSchema.safeParse(json);
  if (!job.success) return { error: describeName(name, cause), isFunction: Object.hasOwn(ERROR_CODES, name) };
  const { StatusReason, Container, Failures } = job.data;
  const told = Failures?.find((failure) => failure.Error !== undefined)?.Error;
  if (told !== undefined) return { error: told, isFunction: false };
  const reason = Container?.Reason ?? StatusReason ?? "a job failed";
  const exit = Container?.ExitCode === undefined ? {} : { found: `exit code ${Container.ExitCode}` };
  return { error: { ...describeName(name, reason), ...exit }, isFunction: false };
}

function describeName(name: string, message: string): ErrorFields {
  if (isCode(name)) {
    const { meaning, remedy, retryable } = ERROR_CODES[name];
    return { code: name, meaning, where: {}, found: message, hint: remedy, retryable };
  }
  const meaning = message === "" ? "the state machine stopped" : message;
  return { code: name, meaning, where: {}, hint: INTERNAL_HINT, retryable: false };
}

function isCode(name: string): name is ErrorCode {
  return Object.hasOwn(ERROR_CODES, name);
}

/** Writes the record under the next free number; null without a run, or when it cannot be written. */
async function keepRecord(store: ObjectStore, failure: FailureRecord, deps: StepDeps): Promise<string | null> {
  const { run } = failure;
  if (run === null) return null;
  const key = await orLog(deps.log, "failure-not-recorded", async () => {
    for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
      const place = layout.failure(run, attempt);
      if ((await store.create(place, encodeRecord(failure))).created) return place;
    }
    return undefined;
  });
  return key ?? null;
}
