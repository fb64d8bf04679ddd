// Errors as the data that records and logs hold.
import { ERROR_CODES, MergeyardError } from "../core/error.ts";
import type { ErrorFields } from "./schemas.ts";
import type { StepDeps } from "./step.ts";

/** An error as data. What is not ours (a crash) keeps its name and text, and is not worth trying again. */
export function describeError(error: unknown): ErrorFields {
  if (error instanceof MergeyardError) {
    const { code, where, found, expected, hint, retryable } = error;
    const places = Object.entries(where).flatMap(([key, value]) =>
      value === undefined ? [] : [[key, value] as const],
    );
    return {
      code,
      meaning: ERROR_CODES[code].meaning,
      where: Object.fromEntries(places),
      ...(found === undefined ? {} : { found }),
      ...(expected === undefined ? {} : { expected }),
      hint,
      retryable,
    };
  }
  const [name, message] = error instanceof Error ? [error.name, error.message] : ["Error", String(error)];
  return { code: name, meaning: message, where: {}, hint: INTERNAL_HINT, retryable: false };
}

/** What to do about an error that is none of ours. */
export const INTERNAL_HINT =
  "this is a fault of the program or of its platform; please report it with the run's folder";

/** What `work` gives. Nothing fails for it: its failure is logged as `event`, and gives undefined. */
export async function orLog<Result>(
  log: StepDeps["log"],
  event: string,
  work: () => Promise<Result>,
): Promise<Result | undefined> {
  try {
    return await work();
  } catch (cause) {
    log({ event, error: describeError(cause) });
    return undefined;
  }
}
