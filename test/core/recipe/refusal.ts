// How tests say what a refusal must carry: its code, and the fields that are named.
import assert from "node:assert/strict";
import { type ErrorPlace, MergeyardError } from "../../../core/error.ts";

export type Expected = { readonly code: string; readonly found?: string; readonly expected?: string } & ErrorPlace;

/** Asserts that `work` throws a MergeyardError with this code and these fields; fields not given are not compared. */
export function assertRefused(work: () => unknown, { code, found, expected, ...where }: Expected): MergeyardError {
  let error: unknown;
  try {
    work();
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error instanceof MergeyardError, `nothing was refused, or not with a typed error: ${error}`);
  const got: Record<string, unknown> = { code: error.code };
  const wanted: Record<string, unknown> = { code };
  for (const key of Object.keys(where)) {
    got[key] = Reflect.get(error.where, key);
    wanted[key] = Reflect.get(where, key);
  }
  if (found !== undefined) [got.found, wanted.found] = [error.found, found];
  if (expected !== undefined) [got.expected, wanted.expected] = [error.expected, expected];
  assert.deepEqual(got, wanted);
  return error;
}
