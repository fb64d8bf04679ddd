// What a failed unit leaves behind for the record of the run: Batch tells the state machine no more than an exit code,
// so the worker writes its typed error beside the receipts. It counts only as long as the unit has no receipt.
import * as z from "zod";
import { layout } from "../../core/artifact/layout.ts";
import { ERROR_CODES, MergeyardError } from "../../core/error.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { encodeRecord, listKeys, mapBounded, overwrite, readRecords } from "../records.ts";
import { type ErrorFields, errorRecordSchema } from "../schemas.ts";

const unitFailureSchema = z.strictObject({
  unitFailure: z.literal(1),
  stage: z.int(),
  index: z.int(),
  error: errorRecordSchema,
});

/** A failed unit and its error. */
export type UnitFailure = Omit<z.infer<typeof unitFailureSchema>, "unitFailure">;

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

/** Records the failure of a unit, over an earlier one of the same unit. */
export async function recordUnitFailure(yard: ObjectStore, run: string, failure: UnitFailure): Promise<void> {
  const key = layout.unitFailure(run, failure.stage, failure.index);
  const bytes = encodeRecord({ unitFailure: 1, ...failure });
  await overwrite(yard, key, bytes);
}

/** Failures of units that still have no receipt, in the order of stages and units. */
export async function readUnitFailures(yard: ObjectStore, run: string): Promise<readonly UnitFailure[]> {
  const failures = await readRecords(yard, await listKeys(yard, layout.unitFailures(run)), unitFailureSchema);
  const open = await mapBounded(failures, async ({ stage, index, error }) => {
    const receipt = await yard.head(layout.receipt(run, stage, index));
    return receipt === undefined ? [{ stage, index, error }] : [];
  });
  return open.flat();
}
