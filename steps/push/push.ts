// Pushing a checkpoint into a yard: the files of a folder as they are now, streamed with bounded memory to
// incoming/<model>/<upload>/, and a commit marker when all of them are there. Killed at any moment, the same push goes
// on where it was. The folder is only read.
import * as z from "zod";
import { digestBytes } from "../../core/artifact/digest.ts";
import { checkName } from "../../core/artifact/key.ts";
import { layout, shortDigest } from "../../core/artifact/layout.ts";
import {
  isUploadNote,
  REMOVAL_NOTE,
  type UploadMarker,
  type UploadRank,
  uploadRecordName,
} from "../../core/artifact/upload.ts";
import { hasCode, MergeyardError } from "../../core/error.ts";
import type { StepFolder } from "../../core/formats/step-folder.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { STREAMS_IN_FLIGHT } from "../stream.ts";
import { openYard } from "../yard.ts";
import { commitUpload, readUploadMarker, type UploadPlace } from "./commit-upload.ts";
import { reviewManifest } from "./stale-manifest.ts";
import { digestSource, uploadFile } from "./upload-file.ts";
import { type OpenRecord, openUploadRecord } from "./upload-record.ts";
import {
  checkSnapshot,
  checkUnchanged,
  fingerprintSnapshot,
  type Snapshot,
  type SnapshotFile,
  takeSnapshot,
  takeStepSnapshot,
} from "./upload-snapshot.ts";

/** A folder to push as an upload of a model. */
const pushInputSchema = z.strictObject({
  yard: uri,
  source: uri,
  model: z.string().min(1),
  upload: z.string().optional(),
  /** This process's number among those that push files of one upload. */
  rank: count.default(0),
  ranks: z.int().positive().default(1),
});
const pushOutputSchema = z.strictObject({
  model: z.string(),
  upload: z.string(),
  source: uri,
  prefix: z.string(),
  step: count.nullable(),
  /** committed: whole now. present: it was whole before. waiting: other ranks have not finished. */
  outcome: z.enum(["committed", "present", "waiting"]),
  files: count,
  bytes: count,
  /** What this process had to send; the rest was there already. */
  sentFiles: count,
  sentBytes: count,
  /** Published version that the folder was before it was changed, and which of its files were. */
  base: z.strictObject({ model: z.string(), version: z.string() }).nullable(),
  changed: z.array(z.string()),
});

export type PushOutput = z.infer<typeof pushOutputSchema>;

/**
 * Throws the codes of opening a checkpoint (it is not whole), StoreObjectChanged (a file changes while it is pushed),
 * UploadOccupied, UploadRemoved, UploadTakenOver, UploadRanksDisagree, YardFileCorrupt, and what the stores throw.
 * Memory: two pieces and a few parts for each file in flight.
 */
export const pushStep = defineStep({
  name: "push",
  input: pushInputSchema,
  output: pushOutputSchema,
  async run({ yard: uri, source: sourceUri, model, upload, rank, ranks }, deps) {
    const yard = await openYard(deps.openStore, uri);
    const source = deps.openStore(sourceUri);
    const take = () => takeSnapshot(source, deps.signal);
    const pushed = await pushSnapshot(yard, await take(), take, { model: checkName(model), upload, rank, ranks }, deps);
    return { ...pushed, source: source.uri };
  },
});

/** Pushes one step's folder of a training job. As above. */
export async function pushStepFolder(
  yard: ObjectStore,
  source: ObjectStore,
  step: StepFolder,
  wanted: PushTarget,
  deps: StepDeps,
): Promise<Pushed> {
  const take = () => takeStepSnapshot(source, step, deps.signal);
  return pushSnapshot(yard, await take(), take, wanted, deps);
}

/** What was pushed, but for the place that it came from. */
type Pushed = Omit<PushOutput, "source">;

export type PushTarget = UploadRank & {
  readonly model: string;
  /** Name of the upload; made from the folder's name and contents when it is not given. */
  readonly upload: string | undefined;
};

async function pushSnapshot(
  yard: ObjectStore,
  taken: Snapshot,
  takeAgain: () => Promise<Snapshot>,
  wanted: PushTarget,
  deps: StepDeps,
): Promise<Pushed> {
  const { snapshot, base, changed } = await reviewManifest(taken, deps);
  if (base !== undefined) deps.log({ event: "manifest-set-aside", ...base, changed });
  // Ranks that push to one upload each have a part; the whole is looked at when the last one is there.
  const unread = wanted.ranks === 1 ? await checkSnapshot(snapshot, deps.signal) : [];
  if (unread.length > 0) deps.log({ event: "weights-unread", files: unread });
  const upload = checkName(wanted.upload ?? nameUpload(snapshot, wanted));
  const place = { yard, prefix: layout.upload(wanted.model, upload) };
  const run: Push = { place, snapshot, wanted, upload, deps, done: { read: 0, sent: 0, files: 0 } };
  await refuseRemovedUpload(place, deps.signal);
  const there = await readUploadMarker(place, deps.signal);
  if (there !== undefined) checkMarker(run, there);
  const marker = there ?? (await uploadAll(run, base, async () => checkUnchanged(taken, await takeAgain())));
  const { files } = snapshot;
  return {
    model: wanted.model,
    upload,
    prefix: place.prefix,
    step: snapshot.step,
    outcome: there !== undefined ? "present" : marker === undefined ? "waiting" : "committed",
    files: files.length,
    bytes: files.reduce((sum, file) => sum + file.bytes, 0),
    sentFiles: run.done.files,
    sentBytes: run.done.sent,
    base: base ?? null,
    changed: [...changed],
  };
}

type Push = {
  readonly place: UploadPlace;
  readonly snapshot: Snapshot;
  readonly wanted: PushTarget;
  readonly upload: string;
  readonly deps: StepDeps;
  /** Bytes, and files. */
  readonly done: { read: number; sent: number; files: number };
};

/** The same files give the same name, so that a push that was killed finds what it has uploaded. */
function nameUpload(snapshot: Snapshot, { ranks }: UploadRank): string {
  if (ranks === 1) return `${snapshot.label}-${shortDigest(fingerprintSnapshot(snapshot)).slice(0, 8)}`;
  // No rank knows the others' files: the step's folder is what they have in common.
  return snapshot.label;
}

function checkMarker({ place, snapshot, wanted }: Push, marker: UploadMarker): void {
  const fingerprint = fingerprintSnapshot(snapshot);
  if (marker.ranks === wanted.ranks && marker.fingerprints[wanted.rank] === fingerprint) return;
  throw new MergeyardError("UploadOccupied", {
    where: { store: place.yard.uri, file: place.prefix },
    found: `a complete upload of ${marker.files.length} files, step ${marker.step}`,
    expected: `${snapshot.files.length} files, step ${snapshot.step}, as they are now`,
  });
}

async function refuseRemovedUpload({ yard, prefix }: UploadPlace, signal: AbortSignal): Promise<void> {
  if ((await yard.head(`${prefix}${REMOVAL_NOTE}`, { signal })) === undefined) return;
  throw new MergeyardError("UploadRemoved", { where: { store: yard.uri, file: prefix } });
}

async function uploadAll(
  run: Push,
  base: UploadMarker["base"],
  check: () => Promise<void>,
): Promise<UploadMarker | undefined> {
  const { place, snapshot, wanted, upload, deps } = run;
  const { signal } = deps;
  const present = await listPresent(run);
  const record = await openUploadRecord(
    place.yard,
    place.prefix,
    {
      model: wanted.model,
      upload,
      step: snapshot.step,
      rank: wanted.rank,
      ranks: wanted.ranks,
      fingerprint: fingerprintSnapshot(snapshot),
      files: snapshot.files.map(({ name, bytes, etag }) => ({ name, bytes, etag })),
    },
    signal,
    deps.now,
  );
  try {
    await mapBounded(snapshot.files, (file) => uploadOne(run, record, file, present), STREAMS_IN_FLIGHT);
    await check();
  } catch (cause) {
    // What is known by now is kept; a folder that changed will never be this upload, and leaves nothing behind.
    if (hasCode(cause, "StoreObjectChanged")) await discard(run, record);
    else await keepRecord(record);
    throw cause;
  }
  await record.store();
  return commitUpload(place, wanted.ranks, base, signal);
}

/** Throws UploadTakenOver only: that is why other things failed. */
async function keepRecord(record: OpenRecord): Promise<void> {
  await record.store().catch((cause: unknown) => {
    if (hasCode(cause, "UploadTakenOver")) throw cause;
  });
}

/** Sizes of what lies in the upload's folder. Throws UploadOccupied when it has no record of ours. */
async function listPresent({ place, snapshot, wanted }: Push): Promise<ReadonlyMap<string, number>> {
  const present = new Map<string, number>();
  for await (const { key, bytes } of place.yard.list(place.prefix)) present.set(key.slice(place.prefix.length), bytes);
  const names = new Set(snapshot.files.map(({ name }) => name));
  const isOurs = [...present.keys()].some(isUploadNote);
  const stranger = [...present.keys()].find((name) => !isOurs || (!isUploadNote(name) && !names.has(name)));
  if (stranger === undefined || wanted.ranks > 1) return present;
  throw new MergeyardError("UploadOccupied", {
    where: { store: place.yard.uri, file: `${place.prefix}${stranger}` },
    found: "a file of another upload",
    expected: "nothing, or an unfinished push of these files",
  });
}

async function uploadOne(
  run: Push,
  record: OpenRecord,
  file: SnapshotFile,
  present: ReadonlyMap<string, number>,
): Promise<void> {
  const { place, snapshot, deps, done } = run;
  const known = record.files().find(({ name }) => name === file.name);
  const isThere = present.get(file.name) === file.bytes;
  const took = (bytesRead: number, bytesSent: number) => {
    done.read += bytesRead;
    done.sent += bytesSent;
    deps.progress?.({ bytesRead: done.read, bytesWritten: done.sent });
  };
  if (isThere && known?.digest !== undefined) {
    took(file.bytes, 0);
    return;
  }
  if ("text" in file.content) return uploadText(run, record, file, file.content.text);
  const source = { store: snapshot.source, key: file.content.key, bytes: file.bytes };
  const common = { source, etag: file.etag, signal: deps.signal, took };
  const digest = isThere
    ? await digestSource(common)
    : await uploadFile({
        ...common,
        target: { store: place.yard, key: `${place.prefix}${file.name}` },
        ticket: known?.ticket,
        begun(ticket) {
          record.note(file.name, { ticket: { ...ticket, regions: [...ticket.regions] } });
          return record.store();
        },
      });
  record.note(file.name, { digest });
  if (!isThere) done.files += 1;
  deps.log({ event: isThere ? "file-present" : "file-pushed", file: file.name, bytes: file.bytes });
  await record.storeSoon();
}

async function uploadText(run: Push, record: OpenRecord, file: SnapshotFile, text: Uint8Array): Promise<void> {
  const { place, deps, done } = run;
  await writeBytes(place.yard, `${place.prefix}${file.name}`, text, { signal: deps.signal });
  done.sent += text.length;
  record.note(file.name, { digest: digestBytes(text) });
}

/** Removes what was uploaded, the record last: without it the files might look like an upload. */
async function discard({ place: { yard, prefix }, wanted }: Push, record: OpenRecord): Promise<void> {
  const removals = record.files().map(async ({ name, ticket }) => {
    if (ticket !== undefined) await yard.abortWrite(ticket);
    await yard.delete(`${prefix}${name}`);
  });
  const ends = await Promise.allSettled(removals);
  if (ends.some(({ status }) => status === "rejected")) return;
  await yard.delete(`${prefix}${uploadRecordName(wanted)}`).catch(() => undefined);
}
