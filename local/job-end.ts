// How jobs end, in Batch's words: what the retry rules look at, and the cause that a failed job leaves for the record.
import { constants } from "node:os";
import type { Json, JsonObject } from "../core/json.ts";
import type { AttemptEnd } from "../flow/job-retry.ts";
import type { ErrorFields } from "../steps/schemas.ts";
import { CAUSE_CHARACTERS_MAX } from "./asl/limits.ts";
import type { ChildEnd } from "./child.ts";

/** A job after its last attempt. */
export type JobEnd = {
  readonly index: number;
  readonly attempts: number;
  /** Undefined when it succeeded. */
  readonly failure: (ChildEnd & { readonly reason: string; readonly error: ErrorFields | undefined }) | undefined;
};

/**
 * Signals that come from outside (an operator, the kernel short of memory, a machine that shuts down): the job did
 * nothing wrong, as when Batch loses a host. Other signals are crashes of the program itself.
 */
const OUTSIDE_SIGNALS: ReadonlySet<string> = new Set(["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"]);

/** An attempt's end as Batch would report it. */
export function attemptEnd(end: ChildEnd): AttemptEnd {
  if (end.signal !== undefined && OUTSIDE_SIGNALS.has(end.signal)) {
    return { statusReason: `Host EC2 (local process ended by ${end.signal})`, reason: "", exitCode: undefined };
  }
  const exitCode = end.signal === undefined ? end.exitCode : 128 + constants.signals[end.signal];
  return { statusReason: "Essential container in task exited", reason: end.startError ?? "", exitCode };
}

/** Characters of standard error in a reason; it stands in the cause several times. */
const REASON_CHARACTERS_MAX = 500;

/** `exit code 1: <last line of standard error>` and its like. */
export function describeEnd(end: ChildEnd): string {
  if (end.startError !== undefined) return `could not be started: ${end.startError.slice(0, REASON_CHARACTERS_MAX)}`;
  if (end.timedOut) return "Job attempt duration exceeded timeout";
  const how = end.signal === undefined ? `exit code ${end.exitCode}` : `ended by ${end.signal}`;
  const last = (end.stderr.trimEnd().split("\n").at(-1) ?? "").slice(0, REASON_CHARACTERS_MAX);
  return last === "" ? how : `${how}: ${last}`;
}

/** Characters of the cause kept for the list of failed indexes; the event jobs-ended has all. */
const INDEXES_CHARACTERS_MAX = 12_000;
/** Characters of one failed job's standard error in the cause. */
const STDERR_CHARACTERS_MAX = 2000;

/** The cause of failed jobs: valid JSON within the service's length, every failed index and as many errors as fit. */
export function failureCause(summary: JsonObject, failed: readonly JobEnd[], jobs: number): string {
  const indexes = formatIndexes(failed.map((end) => end.index));
  const first = failed[0]?.failure;
  const whole: Record<string, Json> = {
    ...summary,
    StatusReason: `${failed.length} of ${jobs} jobs failed (${indexes}): ${first?.reason ?? ""}`,
    FailedIndexes: indexes,
    Container: {
      ...(first?.exitCode === undefined ? {} : { ExitCode: first.exitCode }),
      Reason: `job ${failed[0]?.index ?? 0} of ${jobs}: ${first?.reason ?? ""}`,
    },
  };
  const failures: Json[] = [];
  let cause = JSON.stringify({ ...whole, Failures: failures });
  for (const end of failed) {
    failures.push(describeFailure(end));
    const longer = JSON.stringify({ ...whole, Failures: failures });
    if (longer.length > CAUSE_CHARACTERS_MAX) break;
    cause = longer;
  }
  return cause;
}

function describeFailure({ index, attempts, failure }: JobEnd): JsonObject {
  return {
    Index: index,
    Attempts: attempts,
    Reason: failure?.reason ?? "",
    ...(failure?.error === undefined ? {} : { Error: errorJson(failure.error) }),
    Stderr: failure?.stderr.slice(-STDERR_CHARACTERS_MAX) ?? "",
  };
}

function errorJson({ found, expected, ...error }: ErrorFields): JsonObject {
  return { ...error, ...(found === undefined ? {} : { found }), ...(expected === undefined ? {} : { expected }) };
}

/** `0-4,7`: ascending indexes as ranges; a list that is far too long ends in `...`. */
function formatIndexes(indexes: readonly number[]): string {
  const ranges: { first: number; last: number }[] = [];
  for (const index of indexes) {
    const range = ranges.at(-1);
    if (range !== undefined && range.last === index - 1) range.last = index;
    else ranges.push({ first: index, last: index });
  }
  const text = ranges.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
  return text.length <= INDEXES_CHARACTERS_MAX ? text : `${text.slice(0, INDEXES_CHARACTERS_MAX)}...`;
}
