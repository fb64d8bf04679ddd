// What a person is told of a run: its end, and each state on the way.
import assert from "node:assert/strict";
import test from "node:test";
import { createProgress } from "../../cli/progress.ts";
import { describeOutcome } from "../../cli/run-outcome.ts";
import { createRunReport } from "../../cli/run-report.ts";
import { createRecorder } from "./recorder.ts";

const RESULT = { yard: "file:///yard", run: "r", model: "m", channel: "c", version: "v", files: 0, bytes: 0 } as const;
const SUMMARY = {
  yard: RESULT.yard,
  run: "r",
  outcome: "unchanged" as const,
  cpuMs: 0,
  units: 0,
  cached: 0,
  bytesRead: 0,
  bytesWritten: 0,
};

test("an unchanged run says what its channel points to, not what the run once published", () => {
  const describe = (change: object, current: { version: string; run: string | null } | null) => {
    const result = { ...RESULT, outcome: "unchanged" as const, current, ...change };
    return describeOutcome({ status: "done", result, summary: SUMMARY }, 0);
  };
  const nothing = "nothing was computed";
  assert.equal(describe({}, { version: "v", run: "r" }), `nothing changed: m:c is m@v already; ${nothing}`);
  const moved = "nothing changed: m:c stays m@w, where a person put it since";
  assert.equal(describe({}, { version: "w", run: null }), `${moved}; ${nothing}`);
  const unpublished = describe({ model: null, channel: null, version: null }, null);
  assert.equal(unpublished, `nothing changed: the files of this run are in its folder already; ${nothing}`);
});

test("a state whose error was caught is told as failed", () => {
  const terminal = createRecorder();
  const report = createRunReport(createProgress(terminal, { silent: false }));
  report.handle({ event: "state-finished", state: "Plan", caught: "YardMissing" });
  report.handle({ event: "state-finished", state: "RecordFailure", caught: null });
  assert.deepEqual(terminal.err().trimEnd().split("\n"), ["plan       failed", "record the failure done"]);
});

test("units that were done before are told apart, and are no work of this run", () => {
  const terminal = createRecorder();
  const report = createRunReport(createProgress(terminal, { silent: false }));
  const ended = (event: string, unit: number) =>
    report.handle({ event, unit, cached: false, bytesRead: 1000, bytesWritten: 10 });
  for (const [stage, events] of [
    ["adopt", ["unit-found", "unit-found"]],
    ["merge", ["unit-found", "unit-finished"]],
    ["apply", ["unit-finished"]],
  ] as const) {
    const job = `mergeyard-${stage}-0123456789abcdef`;
    report.handle({ event: "jobs-submitted", job, jobs: 1 });
    for (const [unit, event] of events.entries()) ended(event, unit);
    report.handle({ event: "jobs-ended", job, failed: [] });
  }
  assert.deepEqual(terminal.err().trimEnd().split("\n"), [
    "adopt      2 units, done before",
    "merge      2 units, 1 done before, 1.00 kB read, 10 B written",
    "apply      1 unit, 1.00 kB read, 10 B written",
  ]);
  assert.equal(report.unitsEnded(), 2);
});
