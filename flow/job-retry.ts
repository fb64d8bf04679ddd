// When a job of the fleet is tried again: the retry strategy of the Batch job definition, as data. The local runner
// judges its child processes by the same rules.

/** What a worker exits with when trying again may succeed (EX_TEMPFAIL of sysexits.h). */
export const TRANSIENT_EXIT_CODE = 75;

/** One rule; all its conditions must hold. A pattern may end in `*`. */
export type ExitRule = {
  readonly action: "RETRY" | "EXIT";
  readonly onStatusReason?: string;
  readonly onReason?: string;
  readonly onExitCode?: string;
};

/**
 * The first rule that holds decides; AWS Batch's meaning of `evaluateOnExit`. The host went away (a reclaimed spot
 * instance), its image did not arrive, or the worker said so: again. Anything else: the same would happen again.
 */
export const JOB_RETRY = Object.freeze({
  attempts: 5,
  evaluateOnExit: [
    { action: "RETRY", onStatusReason: "Host EC2*" },
    { action: "RETRY", onReason: "CannotPullContainerError:*" },
    { action: "RETRY", onExitCode: String(TRANSIENT_EXIT_CODE) },
    { action: "EXIT", onReason: "*" },
  ] satisfies readonly ExitRule[],
});

/** How an attempt ended, in Batch's words. */
export type AttemptEnd = {
  readonly statusReason: string;
  readonly reason: string;
  readonly exitCode: number | undefined;
};

/** Whether an attempt that failed is worth another one: its first matching rule says so; RETRY when none matches. */
export function judgeExit(rules: readonly ExitRule[], end: AttemptEnd): ExitRule["action"] {
  const rule = rules.find(
    ({ onStatusReason, onReason, onExitCode }) =>
      matches(onStatusReason, end.statusReason) &&
      matches(onReason, end.reason) &&
      matches(onExitCode, end.exitCode === undefined ? "" : String(end.exitCode)),
  );
  return rule?.action ?? "RETRY";
}

function matches(pattern: string | undefined, text: string): boolean {
  if (pattern === undefined) return true;
  return pattern.endsWith("*") ? text.startsWith(pattern.slice(0, -1)) : text === pattern;
}
