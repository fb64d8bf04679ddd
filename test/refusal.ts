// How tests say what a refusal must carry: its code, and the fields that are named.
import assert from "node:assert/strict";
import { type ErrorPlace, MergeyardError } from "../core/error.ts";

type Said = string | RegExp;
export type Expected = { readonly code: string; readonly found?: Said; readonly expected?: Said } & ErrorPlace;

/** For assert.throws and assert.rejects: a MergeyardError of this code; fields not given are not compared. */
export function refusal({ code, found, expected, ...where }: Expected): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof MergeyardError, `not refused with a typed error: ${error}`);
    const place = Object.fromEntries(Object.keys(where).map((key) => [key, Reflect.get(error.where, key)]));
    assert.deepEqual({ code: error.code, ...place }, { code, ...where }, error.message);
    if (found !== undefined) assertSaid(error.found, found);
    if (expected !== undefined) assertSaid(error.expected, expected);
    return true;
  };
}

function assertSaid(said: string | undefined, wanted: Said): void {
  if (typeof wanted === "string") assert.equal(said, wanted);
  else assert.match(said ?? "", wanted);
}

/** Asserts that `work` throws such an error, and returns it. */
export function assertRefused(work: () => unknown, expected: Expected): MergeyardError {
  let refused: MergeyardError | undefined;
  assert.throws(work, (error) => {
    refusal(expected)(error);
    if (error instanceof MergeyardError) refused = error;
    return true;
  });
  return refused ?? assert.fail();
}
