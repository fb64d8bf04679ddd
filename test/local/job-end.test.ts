import assert from "node:assert/strict";
import { test } from "node:test";
import * as z from "zod";
import { CAUSE_CHARACTERS_MAX } from "../../local/asl/limits.ts";
import type { ChildEnd } from "../../local/child.ts";
import { attemptEnd, describeEnd, failureCause } from "../../local/job-end.ts";

const ended: ChildEnd = { exitCode: 1, signal: undefined, startError: undefined, timedOut: false, stderr: "" };
const causeSchema = z.looseObject({ FailedIndexes: z.string(), Failures: z.array(z.looseObject({ Index: z.int() })) });

test("the largest array, failed at every other index with long errors, leaves a cause that can be read", () => {
  const stderr = `"\\"${"é".repeat(8000)}`;
  const failure = { ...ended, stderr, reason: describeEnd({ ...ended, stderr }), error: undefined };
  const failed = Array.from({ length: 5000 }, (_, index) => ({ index: index * 2, attempts: 1, failure }));
  const cause = failureCause({ JobName: "n".repeat(128) }, failed, 10_000);
  assert.ok(cause.length <= CAUSE_CHARACTERS_MAX, `${cause.length} characters`);
  const { FailedIndexes, Failures } = causeSchema.parse(JSON.parse(cause));
  assert.match(FailedIndexes, /^0,2,4,6,.*\.\.\.$/);
  assert.equal(Failures[0]?.Index, 0);
});

test("only signals from outside count as the loss of the host", () => {
  for (const signal of ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"] as const) {
    assert.match(attemptEnd({ ...ended, exitCode: undefined, signal }).statusReason, /^Host EC2/);
  }
  for (const [signal, exitCode] of [
    ["SIGSEGV", 139],
    ["SIGABRT", 134],
  ] as const) {
    const end = attemptEnd({ ...ended, exitCode: undefined, signal });
    assert.doesNotMatch(end.statusReason, /^Host EC2/);
    assert.equal(end.exitCode, exitCode);
  }
});
