// How a run ended, as it is told: the result in one or two lines, or the error that failed it. The same for a run on
// this machine and for one on AWS.
import { ERROR_CODES, MergeyardError } from "../core/error.ts";
import type { PipelineOutcome } from "../local/run-pipeline.ts";
import type { ErrorFields, PublishOutput } from "../steps/schemas.ts";
import { countOf, formatBytes, formatCount } from "./text.ts";

/** The error that failed the run, as the class it had where it was thrown. */
export function toError(outcome: Exclude<PipelineOutcome, { status: "done" }>): MergeyardError {
  if (outcome.status === "cancelled") return new MergeyardError("CliInterrupted");
  const failure = outcome.failure?.error;
  if (failure === undefined) {
    return new MergeyardError("CliRunFailed", { found: outcome.error, expected: undefined, hint: outcome.cause });
  }
  return errorOf(failure);
}

/** A recorded error, as the class it had where it was thrown. */
export function errorOf({ code, where, found, expected, hint, meaning }: ErrorFields): MergeyardError {
  const known = Object.keys(ERROR_CODES).find((name): name is keyof typeof ERROR_CODES => name === code);
  if (known !== undefined) return new MergeyardError(known, { where, found, expected, hint });
  return new MergeyardError("CliRunFailed", { where, found: `${code}: ${meaning}`, expected, hint });
}

/** `unitsEnded`: of this call; 0: there was nothing to do. */
export function describeOutcome(
  { result, summary }: Extract<PipelineOutcome, { status: "done" }>,
  unitsEnded: number,
): string {
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
      if (current === null) return "nothing changed: the files of this run are in its folder already";
      if (current.version === version) return `nothing changed: ${model}:${channel} is ${model}@${version} already`;
      return `nothing changed: ${model}:${channel} stays ${model}@${current.version}, where a person put it since`;
    case "lost-race":
      return `published ${model}@${version}, but ${model}:${channel} is ${current?.version} by a later decision`;
    case "not-requested":
      return "done; the pipeline does not ask to publish, its files stay in the run's folder";
  }
}
