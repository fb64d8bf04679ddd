// The failures that a run recorded, one for each attempt that ended with one (record-failure.ts). Those of single units
// lie beside them: steps/units/failures.ts.
import { isRunFailure, layout } from "../../core/artifact/layout.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { listKeys, readRecords } from "../records.ts";
import { type FailureRecord, failureSchema } from "../schemas.ts";

/** The oldest first. Throws StoreJsonInvalid. */
export async function readFailures(
  yard: ObjectStore,
  run: string,
  signal: AbortSignal,
): Promise<readonly FailureRecord[]> {
  const keys = await listKeys(yard, layout.failures(run), signal);
  return readRecords(yard, keys.filter(isRunFailure), failureSchema, signal);
}
