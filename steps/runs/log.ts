// What happened in a run, in the order of time, from its folder in the yard: it needs no more than read access, is the
// same for a run on this machine and for one on AWS, and outlives the log service's retention.
import { isRunFailure, layout } from "../../core/artifact/layout.ts";
import { isVerdict } from "../../core/error.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import { receiptSchema } from "../../core/plan/receipt.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { readRecord, readRecords } from "../records.ts";
import { failureSchema, resultSchema } from "../schemas.ts";
import type { StepDeps } from "../step.ts";
import { currentJobs, isLost, readJobProgress } from "./job-progress.ts";

export type LoggedEvent = { readonly event: string; readonly atMs: number; readonly [field: string]: unknown };

/** Events that receipts tell better. */
const FROM_RECEIPTS: ReadonlySet<string> = new Set(["unit-started", "unit-finished", "unit-found"]);

/**
 * Every finished unit, the last words of every job, failures, jobs that are lost, and the result. Empty when the yard
 * has no such run.
 */
export async function readRunLog(
  yard: ObjectStore,
  run: string,
  deps: Pick<StepDeps, "now" | "signal">,
): Promise<readonly LoggedEvent[]> {
  const { signal } = deps;
  const receipts: string[] = [];
  const single: { readonly key: string; readonly modifiedMs: number }[] = [];
  for await (const { key, modifiedMs } of yard.list(layout.run(run), { signal })) {
    if (key.startsWith(layout.receipts(run))) receipts.push(key);
    else single.push({ key, modifiedMs });
  }
  const events: LoggedEvent[] = [];
  for (const { key, modifiedMs: atMs } of single) {
    if (key === layout.plan(run)) events.push({ event: "run-planned", atMs, run });
    if (key === layout.result(run)) {
      const result = await readRecord(yard, key, resultSchema, signal);
      if (result !== undefined) events.push({ event: "run-published", atMs, ...result.value });
    }
    if (isRunFailure(key)) {
      const failure = await readRecord(yard, key, failureSchema, signal);
      if (failure !== undefined) events.push({ event: "run-failed", atMs, ...failure.value });
    }
  }
  for (const receipt of await readRecords(yard, receipts, receiptSchema, signal)) {
    const { stage, index: unit, op, cached, bytesRead, bytesWritten, wallMs, startedMs } = receipt;
    const atMs = startedMs + wallMs;
    events.push({ event: "unit-finished", atMs, stage, unit, op, cached, bytesRead, bytesWritten, wallMs });
  }
  events.push(...(await readJobEvents(yard, run, deps)));
  return events.sort((a, b) => secondOf(a) - secondOf(b) || rankOf(a) - rankOf(b) || a.atMs - b.atMs);
}

/** Stores keep whole seconds of when an object was written; within one, what must have come first comes first. */
function secondOf({ atMs }: LoggedEvent): number {
  return Math.floor(atMs / 1000);
}

const ORDER = ["run-planned", "", "run-failed", "run-published"];

function rankOf({ event }: LoggedEvent): number {
  const rank = ORDER.indexOf(event);
  return rank === -1 ? 1 : rank;
}

async function readJobEvents(
  yard: ObjectStore,
  run: string,
  { now, signal }: Pick<StepDeps, "now" | "signal">,
): Promise<readonly LoggedEvent[]> {
  const records = await readJobProgress(yard, run, new Map(), signal);
  const nowMs = now();
  const told = records.flatMap(({ job, attempt, events }) =>
    events.filter(({ event }) => !FROM_RECEIPTS.has(event)).map((event) => ({ ...event, job, attempt })),
  );
  const lost = currentJobs(records)
    .filter((record) => isLost(record, nowMs))
    .map(({ stage, job, attempt, unit, atMs }) => ({ event: "job-lost", atMs, stage, job, attempt, unit }));
  return [...told, ...lost];
}

export type RunListing = {
  readonly run: string;
  readonly plannedMs: number;
  readonly state: "published" | "failed" | "unfinished";
  /** What it published, MODEL@VERSION; or the code of the error that it failed with. Null: neither. */
  readonly end: string | null;
};

/** Runs of the yard, newest first. Cost: one listing of their folders, and one small object of each that ended. */
export async function listRuns(yard: ObjectStore, signal: AbortSignal): Promise<readonly RunListing[]> {
  const runs = new Map<string, Omit<RunListing, "end"> & { readonly failure: string | undefined }>();
  for await (const { key, modifiedMs } of yard.list("runs/", { signal })) {
    const run = key.split("/")[1] ?? "";
    const found = runs.get(run) ?? { run, plannedMs: modifiedMs, state: "unfinished", failure: undefined };
    // Keys come in order, so the last failure is the newest.
    const failure = isRunFailure(key) ? key : found.failure;
    const isFailed = found.state === "unfinished" && failure !== undefined;
    const state = key === layout.result(run) ? "published" : isFailed ? "failed" : found.state;
    const plannedMs = key === layout.plan(run) ? modifiedMs : found.plannedMs;
    runs.set(run, { run, plannedMs, state, failure });
  }
  const listed = await mapBounded([...runs.values()], async ({ failure, ...run }): Promise<RunListing> => {
    const isPublished = run.state === "published";
    const reading = isPublished ? publishedBy(yard, run.run, signal) : failedBy(yard, failure, signal);
    const end = await reading.catch((cause: unknown) => {
      // A record that this version cannot read keeps nobody from seeing the other runs.
      if (!isVerdict(cause)) throw cause;
      return undefined;
    });
    return { ...run, end: end ?? null };
  });
  return listed.sort((a, b) => b.plannedMs - a.plannedMs || (a.run < b.run ? -1 : 1));
}

async function publishedBy(yard: ObjectStore, run: string, signal: AbortSignal): Promise<string | undefined> {
  const result = (await readRecord(yard, layout.result(run), resultSchema, signal))?.value;
  return result?.version == null ? undefined : `${result.model}@${result.version}`;
}

async function failedBy(yard: ObjectStore, key: string | undefined, signal: AbortSignal): Promise<string | undefined> {
  if (key === undefined) return undefined;
  return (await readRecord(yard, key, failureSchema, signal))?.value.error.code;
}
