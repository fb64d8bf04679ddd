// How a state fails: an error name and a cause, as Amazon States Language has them. Retry and Catch see these; anything
// else that is thrown inside the interpreter (a lost journal, a broken invariant, cancellation) passes through them.
import { CAUSE_CHARACTERS_MAX, ERROR_CHARACTERS_MAX } from "./limits.ts";

const failures = new WeakSet<Error>();

/** An error that Retry and Catch may handle: its name is the error name, its message the cause. */
export function stateFailure(name: string, cause: string): Error {
  const failure = new Error(cause.slice(0, CAUSE_CHARACTERS_MAX));
  failure.name = name.slice(0, ERROR_CHARACTERS_MAX);
  failures.add(failure);
  return failure;
}

/** True for what `stateFailure` made. */
export function isStateFailure(error: unknown): error is Error {
  return error instanceof Error && failures.has(error);
}

/** What a task rejected with, as a failure of its state. */
export function taskFailure(error: unknown): Error {
  if (isStateFailure(error)) return error;
  return error instanceof Error ? stateFailure(error.name, error.message) : stateFailure("Error", String(error));
}

/** `$states.errorOutput`: what a Catch receives. */
export function errorOutput(failure: Error): { readonly Error: string; readonly Cause: string } {
  return { Error: failure.name, Cause: failure.message };
}

/** Errors that wildcards never match: trying again cannot help, and the service ends the execution. */
const TERMINAL = new Set(["States.DataLimitExceeded", "States.Runtime"]);

/** True when an ErrorEquals list names the error, itself or by a wildcard. */
export function matchesError(errorEquals: readonly string[], name: string): boolean {
  return errorEquals.some((pattern) => {
    if (pattern === name) return true;
    if (pattern === "States.ALL") return !TERMINAL.has(name);
    if (pattern === "States.TaskFailed") return name !== "States.Timeout" && !TERMINAL.has(name);
    return pattern === "States.Timeout" && name === "States.HeartbeatTimeout";
  });
}
