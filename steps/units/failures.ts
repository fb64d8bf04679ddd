// What a failed unit leaves behind for the record of the run: Batch tells the state machine no more than an exit code,
// so the worker writes its typed error beside the receipts. It counts only as long as the unit has no receipt.
import * as z from "zod";
import { layout } from "../../core/artifact/layout.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { encodeRecord, listKeys, overwrite, readRecords } from "../records.ts";
import { errorRecordSchema } from "../schemas.ts";

const unitFailureSchema = z.strictObject({
  unitFailure: z.literal(1),
  stage: z.int(),
  index: z.int(),
  error: errorRecordSchema,
});

/** A failed unit and its error. */
export type UnitFailure = Omit<z.infer<typeof unitFailureSchema>, "unitFailure">;

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
