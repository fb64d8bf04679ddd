// What is due in a yard, for whoever looks again and again: the starts that schedules and whole uploads ask for. On AWS
// events tell of both (on-schedule.ts, on-upload.ts). The same cause starts a pipeline once, whoever looks and however
// often he begins anew: start-records.ts.
import type { ObjectStore } from "../stores/store.ts";
import { scheduleCauses } from "./on-schedule.ts";
import { asksForUploads, fingerprintUpload } from "./on-upload.ts";
import { findStarts, type Start, type StartCause, type Starts, type StoredPipeline } from "./pipeline-starts.ts";
import { whyIncomplete } from "./resolve-model.ts";
import { createStartRecords, type StartEnd } from "./start-records.ts";
import type { StepDeps } from "./step.ts";
import { listAllUploads, type UploadListing } from "./yard.ts";

export type Lookout = {
  /**
   * Starts that are due and that nobody made, those of former looks first: of a schedule the latest time since the look
   * before, of uploads every whole one.
   */
  look(): Promise<Starts>;
  /** Remembers that a start was made. */
  keep(start: Start, end: StartEnd): Promise<void>;
};

export type LookoutOptions = {
  /** The first look asks schedules what fell due after this. */
  readonly sinceMs: number;
  /**
   * Whether an upload counts only when two looks in a row found it the same: one that is copied in without a marker may
   * look whole before its last files are there.
   */
  readonly rest: boolean;
};

const FORGET_EVERY_MS = 24 * 60 * 60 * 1000;

type SeenUpload = UploadListing & { readonly model: string; readonly fingerprint: string };

/** Why an upload that a pipeline waits for does not count is logged when the reason changes. */
export function createLookout(yard: ObjectStore, { sinceMs, rest }: LookoutOptions, deps: StepDeps): Lookout {
  const whole = new Set<string>();
  const records = createStartRecords(yard, deps);
  const reasons = new Map<string, string>();
  const open = new Map<string, Start>();
  let afterMs = sinceMs;
  let before = new Map<string, string>();
  // The first look knows of no upload that rests.
  let forgetMs = deps.now() + (rest ? FORGET_EVERY_MS : 0);

  const isWhole = async (upload: SeenUpload): Promise<boolean> => {
    const { prefix, fingerprint } = upload;
    if (whole.has(`${prefix} ${fingerprint}`)) return true;
    const reason = await whyIncomplete(yard, upload, deps.signal);
    if (reason === undefined) {
      whole.add(`${prefix} ${fingerprint}`);
      return true;
    }
    if (reasons.get(prefix) !== reason.found) deps.log({ event: "upload-incomplete", prefix, reason: reason.found });
    reasons.set(prefix, reason.found);
    return false;
  };

  const uploadCauses = async (pipeline: StoredPipeline, uploads: readonly SeenUpload[]): Promise<StartCause[]> => {
    const causes: StartCause[] = [];
    for (const upload of uploads) {
      if (!asksForUploads(pipeline, upload.model) || !(await isWhole(upload))) continue;
      causes.push({ cause: upload.fingerprint, words: "upload" });
    }
    return causes;
  };

  return {
    async look() {
      const untilMs = deps.now();
      const uploads = await seeUploads(yard, deps.signal);
      const resting = uploads.filter(({ prefix, fingerprint }) => !rest || before.get(prefix) === fingerprint);
      before = new Map(uploads.map(({ prefix, fingerprint }) => [prefix, fingerprint]));
      const { starts, unreadable } = await findStarts(yard, deps, async (pipeline) => [
        ...scheduleCauses(pipeline, { afterMs, untilMs }),
        ...(await uploadCauses(pipeline, resting)),
      ]);
      for (const start of starts) open.set(start.name, start);
      afterMs = untilMs;
      if (untilMs >= forgetMs) {
        await records.forget(starts);
        forgetMs = untilMs + FORGET_EVERY_MS;
      }
      for (const name of open.keys()) if (await records.isMade(name)) open.delete(name);
      return { starts: [...open.values()], unreadable };
    },
    async keep(start, end) {
      await records.keep(start, end);
      open.delete(start.name);
    },
  };
}

async function seeUploads(yard: ObjectStore, signal: AbortSignal): Promise<readonly SeenUpload[]> {
  const models = await listAllUploads(yard, signal);
  return [...models].flatMap(([model, uploads]) =>
    uploads.map((upload) => ({ ...upload, model, fingerprint: fingerprintUpload(upload) })),
  );
}
