import assert from "node:assert/strict";
import { test } from "node:test";
import { PRICES } from "../../../core/cost/estimate.ts";
import { type ReportedRun, renderRunReport } from "../../../core/report/run-report.ts";

const units = (count: number) =>
  Array.from({ length: count }, (_, unit) => ({
    stage: 0,
    unit,
    cached: false,
    bytesRead: 1e6,
    bytesWritten: 5e5,
    startedMs: 1000 + Math.floor(unit / 2) * 10,
    wallMs: 10,
  }));

const report = (overrides: Partial<ReportedRun> = {}): ReportedRun => ({
  run: "r",
  name: "<n>",
  method: "linear",
  outcome: "published m@v",
  stages: [{ index: 0, name: "merge & more", units: 8 }],
  units: units(8),
  retries: [],
  workerMs: 3_600_000,
  failures: [],
  warnings: [],
  statistics: undefined,
  ...overrides,
});

test("the page shows stages, units, cost and no network, with every name escaped", () => {
  const page = renderRunReport(report(), PRICES);
  assert.doesNotMatch(page, /<script|https?:|<n>|merge & more/);
  assert.match(page, /8 of 8/);
  assert.match(page, /8\.00 MB.*4\.00 MB/);
  // An hour of 2 vCPU and 4 GiB by the table.
  assert.match(page, /\$0\.099 /);
  assert.equal(page.match(/<rect /g)?.length, 8);
  assert.deepEqual([...new Set(page.match(/(?<=<rect [^>]* y=")\d+/g))], ["0", "8"], "two ran at a time");
});

test("of very many units only how many ran at a time is drawn", () => {
  const page = renderRunReport(report({ units: units(12_000) }), PRICES);
  assert.equal(page.match(/<rect /g), null);
  assert.ok(page.length < 20_000, `${page.length}`);
});

test("retries and failures are listed; without work that is said", () => {
  const failures = [{ code: "StoreFull", text: "<full>" }];
  const page = renderRunReport(report({ units: [], failures, retries: [{ stage: 0, job: 7, attempts: 3 }] }), PRICES);
  assert.match(page, /Nothing was computed/);
  assert.match(page, /<td>0<\/td><td>7<\/td><td>3<\/td>/);
  assert.match(page, /StoreFull.*&#60;full&#62;/);
});
