// Following a run whose plan this version does not read.
import assert from "node:assert/strict";
import { test } from "node:test";
import { followExecution } from "../../remote/follow.ts";
import { newStore, putText } from "../steps/deps.ts";

const result = { outcome: "not-requested", model: null, channel: null, version: null, current: null };
const ref = { yard: "memory://yard", run: "0123" };
const summary = { ...ref, outcome: "not-requested", units: 1, cached: 0, bytesRead: 1, bytesWritten: 1, cpuMs: 1 };

test("a plan in another version's form is told, and the run followed to its end without its stages", async () => {
  const yard = newStore();
  await putText(yard, "runs/0123/plan.jsonl", `${JSON.stringify({ plan: 1, addedLater: 1 })}\n`);
  const execution = { arn: "arn", name: "run-p", startedMs: 0 };
  const output = JSON.stringify({ result: { ...ref, ...result, files: 1, bytes: 1 }, summary });
  const told: string[] = [];
  const executions = {
    machineArn: "arn",
    start: async () => undefined,
    listRunning: async () => [],
    listJobs: async () => [],
    stop: async () => undefined,
    readPlan: async () => ({ run: "0123", outcome: "planned", addedLater: 1 }),
    describe: async () => ({ ...execution, status: "SUCCEEDED" as const, output, error: undefined, cause: undefined }),
  };
  const deps = { executions, yard, now: Date.now, signal: new AbortController().signal, pause: async () => undefined };
  const outcome = await followExecution(execution, deps, {
    planned: (run) => void told.push(`planned ${run}`),
    progress: () => assert.fail("no stage is known"),
    troubled: ({ code }) => void told.push(code),
  });
  assert.deepEqual([outcome.status, told], ["done", ["YardPlanInvalid", "planned 0123"]]);
});
