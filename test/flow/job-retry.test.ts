import assert from "node:assert/strict";
import { test } from "node:test";
import { JOB_RETRY, judgeExit, TRANSIENT_EXIT_CODE } from "../../flow/job-retry.ts";
import { EXIT_TRANSIENT } from "../../workers/main.ts";

const judge = (statusReason: string, reason: string, exitCode?: number) =>
  judgeExit(JOB_RETRY.evaluateOnExit, { statusReason, reason, exitCode });

test("a lost host, a missing image and a transient exit are tried again; anything else is not", () => {
  assert.equal(judge("Host EC2 (instance i-0) terminated.", ""), "RETRY");
  assert.equal(judge("Task failed to start", "CannotPullContainerError: timeout"), "RETRY");
  assert.equal(judge("Essential container in task exited", "", 75), "RETRY");
  assert.equal(judge("Essential container in task exited", "", 1), "EXIT");
  assert.equal(judge("Essential container in task exited", "OutOfMemoryError: Container killed", 137), "EXIT");
  assert.equal(judge("The host EC2 is fine", "", 0), "EXIT");
});

test("all conditions of a rule must hold, and the first rule that holds decides", () => {
  const end = { statusReason: "s", reason: "r", exitCode: 3 };
  assert.equal(judgeExit([{ action: "EXIT", onReason: "r", onExitCode: "4" }], end), "RETRY");
  assert.equal(judgeExit([{ action: "EXIT", onReason: "r", onExitCode: "3" }], end), "EXIT");
  assert.equal(
    judgeExit(
      [
        { action: "RETRY", onExitCode: "3" },
        { action: "EXIT", onReason: "*" },
      ],
      end,
    ),
    "RETRY",
  );
  assert.equal(judgeExit([], end), "RETRY");
});

test("the rules stay within Batch's bounds and the worker exits by them", () => {
  assert.ok(JOB_RETRY.attempts >= 1 && JOB_RETRY.attempts <= 10);
  assert.ok(JOB_RETRY.evaluateOnExit.length <= 5);
  assert.equal(EXIT_TRANSIENT, TRANSIENT_EXIT_CODE);
});
