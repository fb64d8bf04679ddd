// The report of a run, from its folder in the yard: gathered here, drawn by core/report/run-report.ts. Notify keeps it
// as `runs/<run>/report.html`; the command line makes it when it is asked for.
import { layout } from "../../core/artifact/layout.ts";
import { collectStatistics } from "../../core/artifact/statistics.ts";
import { PRICES } from "../../core/cost/estimate.ts";
import { warnOfLosses } from "../../core/plan/loss-warnings.ts";
import { receiptSchema } from "../../core/plan/receipt.ts";
import { type ReportedRun, renderRunReport } from "../../core/report/run-report.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { readPlan } from "../plan-file.ts";
import { mapBounded, readRecord } from "../records.ts";
import { failureSchema, resultSchema } from "../schemas.ts";
import { readJobProgress } from "./job-progress.ts";

/** The page, of the run as it is now. Throws YardRunMissing. */
export async function makeRunReport(yard: ObjectStore, run: string, signal: AbortSignal): Promise<string> {
  const { header } = await readPlan(yard, run, signal);
  const keys = {
    receipts: await listKeys(yard, layout.receipts(run)),
    failures: await listKeys(yard, layout.failures(run)),
  };
  const found = await mapBounded(
    keys.receipts,
    async (key) => (await readRecord(yard, key, receiptSchema, signal))?.value,
  );
  const receipts = found.flatMap((receipt) => receipt ?? []);
  const records = await readJobProgress(yard, run, new Map(), signal);
  const failures = await mapBounded(
    keys.failures.filter((key) => /\/\d+\.json$/.test(key)),
    async (key) => (await readRecord(yard, key, failureSchema, signal))?.value,
  );
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
    failures: failures.flatMap((failure) =>
      failure === undefined ? [] : [{ code: failure.error.code, text: describe(failure.error) }],
    ),
    warnings: [...header.warnings, ...warnOfLosses(receipts.flatMap(({ losses }) => losses))],
    statistics: collectStatistics(
      header.method,
      receipts.flatMap(({ statistics }) => statistics ?? []),
      receipts.flatMap(({ losses }) => losses),
    ),
  };
  return renderRunReport(report, PRICES);
}

function describe({ meaning, where, found }: { meaning: string; where: object; found?: string | undefined }): string {
  return `${meaning} (${JSON.stringify(where)})${found === undefined ? "" : `; found ${found}`}`;
}

async function listKeys(yard: ObjectStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of yard.list(prefix)) keys.push(key);
  return keys;
}

/** Keeps the report in the run's folder, over the one of an earlier attempt. */
export async function keepRunReport(yard: ObjectStore, run: string, signal: AbortSignal): Promise<void> {
  const bytes = new TextEncoder().encode(await makeRunReport(yard, run, signal));
  const { created, etag } = await yard.create(layout.report(run), bytes, { signal });
  if (!created) await yard.replace(layout.report(run), bytes, etag, { signal });
}
