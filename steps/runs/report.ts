// The report of a run, from its folder in the yard: gathered here, drawn by core/report/run-report.ts. Notify keeps it
// as `runs/<run>/report.html`; the command line makes it when it is asked for.
import { layout } from "../../core/artifact/layout.ts";
import { collectStatistics } from "../../core/artifact/statistics.ts";
import { PRICES } from "../../core/cost/estimate.ts";
import { warnOfLosses } from "../../core/plan/loss-warnings.ts";
import { type ReportedRun, renderRunReport } from "../../core/report/run-report.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { readPlan } from "../plan-file.ts";
import { overwrite, readRecord } from "../records.ts";
import { resultSchema } from "../schemas.ts";
import { readFailures } from "./failures.ts";
import { readJobProgress } from "./job-progress.ts";
import { readReceipts } from "./receipts.ts";

/** The page, of the run as it is now. Throws YardRunMissing. */
export async function makeRunReport(yard: ObjectStore, run: string, signal: AbortSignal): Promise<string> {
  const { header } = await readPlan(yard, run, signal);
  const receipts = await readReceipts(yard, run, signal);
  const records = await readJobProgress(yard, run, new Map(), signal);
  const failures = await readFailures(yard, run, signal);
  const result = (await readRecord(yard, layout.result(run), resultSchema, signal))?.value;
  const published = result?.version == null ? result?.outcome : `published ${result.model}@${result.version}`;
  const report: ReportedRun = {
    run,
    name: header.name,
    method: header.method,
    outcome: published ?? (failures.length > 0 ? "failed" : "not finished"),
    stages: header.stages,
    units: receipts.map(({ index: unit, ...receipt }) => ({ ...receipt, unit })),
    retries: records.flatMap(({ stage, job, attempt }) => (attempt > 1 ? [{ stage, job, attempts: attempt }] : [])),
    workerMs: records.reduce((sum, { workerMs }) => sum + workerMs, 0),
    failures: failures.map(({ error }) => ({ code: error.code, text: describe(error) })),
    warnings: [...header.warnings, ...warnOfLosses(receipts.flatMap(({ losses }) => losses))],
    statistics: collectStatistics(header.method, receipts),
  };
  return renderRunReport(report, PRICES);
}

function describe({ meaning, where, found }: { meaning: string; where: object; found?: string | undefined }): string {
  return `${meaning} (${JSON.stringify(where)})${found === undefined ? "" : `; found ${found}`}`;
}

/** Keeps the report in the run's folder, over the one of an earlier attempt. */
export async function keepRunReport(yard: ObjectStore, run: string, signal: AbortSignal): Promise<void> {
  const bytes = new TextEncoder().encode(await makeRunReport(yard, run, signal));
  await overwrite(yard, layout.report(run), bytes, signal);
}
