// What a job says of itself while it works, as one small object in the run's folder that it overwrites now and then:
// a sign of life, how far it is, and its last events. Whoever follows a run reads these objects and never asks Batch;
// of a job that died without a word they are what is left. Written by workers/main.ts.
import * as z from "zod";
import { layout } from "../../core/artifact/layout.ts";
import { YARD_LIMITS } from "../../core/limits.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import { count } from "../../core/schema-atoms.ts";
import type { BytesDone } from "../../engine/request.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { orLog } from "../error-record.ts";
import { encodeRecord, readRecord } from "../records.ts";
import type { StepDeps, StepEvent } from "../step.ts";

const jobProgressSchema = z.strictObject({
  progress: z.literal(1),
  stage: count,
  job: count,
  /** Of the stage, when this job ran. */
  jobs: count,
  /** running: at work, or gone without a word. */
  state: z.enum(["running", "done", "stopped", "failed"]),
  /** Starts of this job in this run, this one included. */
  attempt: z.int().positive(),
  /** Of this job. */
  units: count,
  unitsDone: count,
  /** Index of the unit at work. */
  unit: count.nullable(),
  /** Of all attempts. */
  bytesRead: count,
  bytesWritten: count,
  workerMs: z.number().nonnegative(),
  startedMs: z.number(),
  atMs: z.number(),
  threads: count,
  memoryBytes: count,
  /** Newest last. */
  events: z.array(z.looseObject({ event: z.string(), atMs: z.number() })).max(YARD_LIMITS.jobEvents),
});
export type JobProgress = z.infer<typeof jobProgressSchema>;

/** Objects that all jobs of a stage write in a second, at most; S3 bears 3500 a prefix. */
const WRITES_PER_SECOND = 50;
const BEAT_MS_MIN = 10_000;

/** Milliseconds between two signs of life of a job of this many; silence of three of them is a lost job. */
export function beatMs(jobs: number): number {
  return Math.max(BEAT_MS_MIN, (jobs / WRITES_PER_SECOND) * 1000);
}

/** Beats without a sign of life after which a job that says that it runs counts as lost. */
const BEATS_LOST = 3;

/** True when a job that says that it runs has been silent for too long: it was killed, or its machine was taken. */
export function isLost({ state, jobs, atMs }: JobProgress, nowMs: number): boolean {
  return state === "running" && nowMs - atMs > BEATS_LOST * beatMs(jobs);
}

export type JobPlace = {
  readonly yard: ObjectStore;
  readonly run: string;
  readonly stage: number;
  readonly job: number;
  readonly jobs: number;
  readonly units: number;
  readonly threads: number;
  readonly memoryBytes: number;
};

export type ProgressKeeper = {
  /** Keeps an event for the last words. */
  note(event: StepEvent): void;
  /** Bytes of the unit at work so far. */
  update(done: BytesDone): void;
  unitStarted(unit: number): void;
  unitFinished(done: BytesDone): void;
  /** Writes how far the job is, unless a write is under way. Never rejects. */
  beat(): Promise<void>;
  /** The last word. Never rejects. */
  close(state: "done" | "stopped" | "failed"): Promise<void>;
};

/**
 * Begins a job's record, counting on from what earlier attempts did. What cannot be written is logged, and no job fails
 * for it.
 */
export async function openProgress(
  place: JobPlace,
  deps: Pick<StepDeps, "now" | "log" | "signal">,
): Promise<ProgressKeeper> {
  const { yard, run, units, ...job } = place;
  const key = layout.progress(run, job.stage, job.job);
  const startedMs = deps.now();
  const read = () => readRecord(yard, key, jobProgressSchema, deps.signal);
  const before = await orLog(deps.log, "progress-not-kept", read);
  const done = { bytesRead: before?.value.bytesRead ?? 0, bytesWritten: before?.value.bytesWritten ?? 0, unitsDone: 0 };
  let etag = before?.etag;
  let unit: number | null = null;
  let current: BytesDone = { bytesRead: 0, bytesWritten: 0 };
  const events: JobProgress["events"] = [];
  const describe = (state: JobProgress["state"]): JobProgress => ({
    progress: 1,
    ...job,
    state,
    attempt: (before?.value.attempt ?? 0) + 1,
    units,
    unitsDone: done.unitsDone,
    unit,
    bytesRead: done.bytesRead + current.bytesRead,
    bytesWritten: done.bytesWritten + current.bytesWritten,
    workerMs: (before?.value.workerMs ?? 0) + Math.max(0, deps.now() - startedMs),
    startedMs,
    atMs: deps.now(),
    events: [...events],
  });
  const write = async (state: JobProgress["state"]): Promise<void> => {
    const bytes = encodeRecord(describe(state));
    await orLog(deps.log, "progress-not-kept", async () => {
      const created = etag === undefined ? await yard.create(key, bytes) : undefined;
      if (created?.created === true) etag = created.etag;
      else etag = (await yard.replace(key, bytes, created?.etag ?? etag ?? "")).etag;
    });
  };
  let writing: Promise<void> | undefined;
  const beat = async (): Promise<void> => {
    if (writing !== undefined) return;
    writing = write("running");
    await writing;
    writing = undefined;
  };
  await beat();
  return {
    note(event) {
      events.push(trimEvent(event, deps.now()));
      if (events.length > YARD_LIMITS.jobEvents) events.shift();
    },
    update(progress) {
      current = progress;
    },
    unitStarted(index) {
      unit = index;
    },
    unitFinished({ bytesRead, bytesWritten }) {
      done.unitsDone += 1;
      done.bytesRead += bytesRead;
      done.bytesWritten += bytesWritten;
      current = { bytesRead: 0, bytesWritten: 0 };
      unit = null;
    },
    beat,
    async close(state) {
      await writing;
      await write(state);
    },
  };
}

/** Characters of one event that are kept. */
const EVENT_CHARACTERS_MAX = 2000;

function trimEvent(event: StepEvent, atMs: number): JobProgress["events"][number] {
  const text = JSON.stringify(event);
  if (text.length <= EVENT_CHARACTERS_MAX) return { ...event, atMs };
  return { event: event.event, atMs, text: text.slice(0, EVENT_CHARACTERS_MAX) };
}

/** What a follower has read before: an object whose ETag is the same is not read again. */
export type KnownProgress = Map<string, { readonly etag: string; readonly value: JobProgress }>;

/** The records of all jobs of a run, in the order of stages and jobs. Throws StoreJsonInvalid. */
export async function readJobProgress(
  yard: ObjectStore,
  run: string,
  known: KnownProgress,
  signal: AbortSignal,
): Promise<readonly JobProgress[]> {
  const changed: string[] = [];
  for await (const { key, etag } of yard.list(layout.progresses(run), { signal })) {
    if (known.get(key)?.etag !== etag) changed.push(key);
  }
  await mapBounded(changed, async (key) => {
    const found = await readRecord(yard, key, jobProgressSchema, signal);
    if (found !== undefined) known.set(key, found);
  });
  return [...known].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, { value }]) => value);
}

/**
 * Of each stage the jobs of its newest execution: a run that is started again may spread its units over another number
 * of jobs, and the records of the former ones stay.
 */
export function currentJobs(records: readonly JobProgress[]): readonly JobProgress[] {
  return [...Map.groupBy(records, ({ stage }) => stage).values()].flatMap((ofStage) => {
    const newest = ofStage.reduce((latest, record) => (record.atMs > latest.atMs ? record : latest));
    return ofStage.filter(({ jobs }) => jobs === newest.jobs);
  });
}
