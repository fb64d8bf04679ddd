// The one error class and the closed table of codes, which core/error-codes/ lists by area. Retry lists of the state
// machine, the local runner and docs/errors.md are made from this table; nobody writes prose at a throw.
import { CLI_CODES } from "./error-codes/cli.ts";
import { ENGINE_CODES } from "./error-codes/engine.ts";
import { FLOW_CODES } from "./error-codes/flow.ts";
import { FORMAT_CODES } from "./error-codes/format.ts";
import type { ErrorKind } from "./error-codes/kind.ts";
import { PICKLED_CODES } from "./error-codes/pickled.ts";
import { PLAN_CODES } from "./error-codes/plan.ts";
import { RECIPE_CODES } from "./error-codes/recipe.ts";
import { REMOTE_CODES } from "./error-codes/remote.ts";
import { SIGNING_CODES } from "./error-codes/signing.ts";
import { STORE_CODES } from "./error-codes/store.ts";
import { YARD_CODES } from "./error-codes/yard.ts";

/** Every code, by the part that throws it. A code is added together with a test that provokes it. */
export const ERROR_CODES = {
  ...FORMAT_CODES,
  ...PICKLED_CODES,
  ...ENGINE_CODES,
  ...STORE_CODES,
  ...YARD_CODES,
  ...SIGNING_CODES,
  ...RECIPE_CODES,
  ...PLAN_CODES,
  ...FLOW_CODES,
  ...REMOTE_CODES,
  ...CLI_CODES,
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** Where it happened; printed in this order, absent fields left out. */
export type ErrorPlace = {
  readonly store?: string | undefined;
  readonly file?: string | undefined;
  readonly model?: string | undefined;
  readonly tensor?: string | undefined;
  /** Path inside a document, such as `models[1].parameters.weight`. */
  readonly field?: string | undefined;
  readonly line?: number | undefined;
  readonly offset?: number | undefined;
  readonly bytes?: number | undefined;
  readonly state?: string | undefined;
  readonly unit?: number | undefined;
};

export type ErrorDetails = {
  readonly where?: ErrorPlace;
  readonly found?: string | number | undefined;
  readonly expected?: string | number | undefined;
  readonly hint?: string | undefined;
  readonly cause?: unknown;
};

/**
 * The error of every refusal and failure that a user can meet. `name` equals `code`, because Step Functions matches
 * Retry and Catch on the error name. A broken invariant of ours is not this: it is an assertion and crashes.
 */
export class MergeyardError extends Error {
  readonly code: ErrorCode;
  readonly where: ErrorPlace;
  readonly found: string | undefined;
  readonly expected: string | undefined;
  readonly hint: string;
  readonly retryable: boolean;

  constructor(code: ErrorCode, details: ErrorDetails = {}) {
    const kind: ErrorKind = ERROR_CODES[code];
    const where = details.where ?? {};
    const hint = details.hint ?? kind.remedy;
    super(composeMessage(kind.meaning, where, details, hint), { cause: details.cause });
    this.name = code;
    this.code = code;
    this.where = where;
    this.found = details.found === undefined ? undefined : String(details.found);
    this.expected = details.expected === undefined ? undefined : String(details.expected);
    this.hint = hint;
    this.retryable = kind.retryable;
  }

  /** The error as data: what `--json` prints, receipts store and Step Functions carries as Cause. */
  toJSON(): ErrorRecord {
    const { code, where, found, expected, hint, retryable } = this;
    return { code, meaning: ERROR_CODES[code].meaning, where, found, expected, hint, retryable };
  }
}

/** True when an error is one of ours with one of these codes. */
export function hasCode<Code extends ErrorCode>(
  error: unknown,
  ...codes: readonly Code[]
): error is MergeyardError & { readonly code: Code } {
  return error instanceof MergeyardError && codes.some((code) => code === error.code);
}

/** By these a store refuses to say anything of what it holds. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set([
  "StoreAccessDenied",
  "StoreBucketMissing",
  "StoreCredentialsInvalid",
  "StoreFailed",
  "StoreRegionMissing",
]);

/**
 * True when an error is what is to be said of the thing that was read: it is malformed, cut short, not there. False for
 * faults that pass and for a store that refuses: then nothing is known of the thing.
 */
export function isVerdict(error: unknown): error is MergeyardError {
  return error instanceof MergeyardError && !error.retryable && !REFUSALS.has(error.code);
}

export type ErrorRecord = {
  readonly code: ErrorCode;
  readonly meaning: string;
  readonly where: ErrorPlace;
  readonly found: string | undefined;
  readonly expected: string | undefined;
  readonly hint: string;
  readonly retryable: boolean;
};

/** `tensor "x", file "y"`: the place as words, in the order of `ErrorPlace`. */
export function describePlace(where: ErrorPlace): string {
  const words = Object.entries(where)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => (typeof value === "string" ? `${key} ${JSON.stringify(value)}` : `${key} ${value}`));
  return words.join(", ");
}

function composeMessage(meaning: string, where: ErrorPlace, details: ErrorDetails, hint: string): string {
  const place = describePlace(where);
  const found = details.found === undefined ? "" : `; found ${details.found}`;
  const expected = details.expected === undefined ? "" : `; expected ${details.expected}`;
  return `${meaning}${place === "" ? "" : ` (${place})`}${found}${expected}; ${hint}`;
}
