// The record of a rank's push in the yard: the files as they were found, what is uploaded, and the large objects on
// their way. It is overwritten by compare-and-swap, so that of two processes that push the same only one goes on. Its
// being there without a marker makes the upload invisible.
import { randomUUID } from "node:crypto";
import {
  type PushedFile,
  type UploadRank,
  type UploadRecord,
  uploadRecordName,
  uploadRecordSchema,
} from "../../core/artifact/upload.ts";
import { MergeyardError } from "../../core/error.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { encodeRecord, readRecord } from "../records.ts";

/** Milliseconds between two writes of what can be found out again; what cannot is written at once. */
const NOTE_MS = 2000;

export type OpenRecord = {
  /** The files with what is known of each, in the order of the snapshot. */
  files(): readonly PushedFile[];
  /** Keeps something about a file; it is in the yard when the promise of `store` resolves. */
  note(name: string, known: Pick<PushedFile, "digest" | "ticket">): void;
  /** Writes what was noted. Throws UploadTakenOver when another process goes on with this push. */
  store(): Promise<void>;
  /** Writes it when the last time was a while ago. */
  storeSoon(): Promise<void>;
};

export type RecordStart = Omit<UploadRecord, "push" | "owner" | "files"> & {
  readonly files: readonly PushedFile[];
};

/**
 * Opens the record of this push: a new one, or the one that an earlier process left, which is taken over.
 * Throws UploadOccupied when the name belongs to other files, UploadTakenOver.
 */
export async function openUploadRecord(
  yard: ObjectStore,
  prefix: string,
  start: RecordStart,
  signal: AbortSignal,
  now: () => number,
): Promise<OpenRecord> {
  const rank: UploadRank = start;
  const key = `${prefix}${uploadRecordName(rank)}`;
  const found = await readRecord(yard, key, uploadRecordSchema, signal);
  if (found !== undefined) checkSame(yard, key, found.value, start);
  const known = new Map((found?.value.files ?? start.files).map((file) => [file.name, file]));
  const owner = randomUUID();
  const encode = () => encodeRecord({ push: 1, ...start, owner, files: [...known.values()] } satisfies UploadRecord);
  let etag = found?.etag;
  let [last, tail]: [number, Promise<void>] = [now(), Promise.resolve()];
  let queued: Promise<void> | undefined;
  const write = async () => {
    queued = undefined;
    last = now();
    const bytes = encode();
    if (etag === undefined) {
      const created = await yard.create(key, bytes, { signal });
      if (!created.created) throw takenOver(yard, key);
      etag = created.etag;
      return;
    }
    const replaced = await yard.replace(key, bytes, etag, { signal });
    if (!replaced.replaced) throw takenOver(yard, key);
    etag = replaced.etag;
  };
  // One write at a time; those who ask while one is under way share the next.
  const store = () => {
    queued ??= tail.then(write);
    tail = queued;
    tail.catch(() => undefined);
    return queued;
  };
  await store();
  return {
    files: () => [...known.values()],
    note(name, about) {
      const file = known.get(name);
      if (file === undefined) return;
      const { ticket: _, ...rest } = file;
      known.set(name, { ...(about.digest === undefined ? file : rest), ...about });
    },
    store,
    storeSoon: async () => (now() - last < NOTE_MS ? undefined : store()),
  };
}

function checkSame(yard: ObjectStore, key: string, found: UploadRecord, start: RecordStart): void {
  if (found.fingerprint === start.fingerprint && found.step === start.step) return;
  throw new MergeyardError("UploadOccupied", {
    where: { store: yard.uri, file: key, model: start.model },
    found: `a push of ${found.files.length} files, step ${found.step}`,
    expected: `a push of these ${start.files.length} files, step ${start.step}`,
  });
}

function takenOver(yard: ObjectStore, key: string): MergeyardError {
  return new MergeyardError("UploadTakenOver", { where: { store: yard.uri, file: key } });
}
