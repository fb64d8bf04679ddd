// The end of a push: the commit marker, written once, when every rank has pushed all of its files and they agree.
import {
  buildUploadMarker,
  parseUploadMarker,
  UPLOAD_MARKER,
  type UploadMarker,
  type UploadRecord,
  uploadRecordName,
  uploadRecordSchema,
} from "../../core/artifact/upload.ts";
import { MergeyardError } from "../../core/error.ts";
import { ARTIFACT_LIMITS } from "../../core/limits.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { openCheckpoint } from "../open-checkpoint.ts";
import { encodeRecord, readRecord } from "../records.ts";

/** Where an upload's marker is to be. */
export type UploadPlace = { readonly yard: ObjectStore; readonly prefix: string };

/** The marker that push wrote; undefined when there is none yet. Throws UploadOccupied for another tool's. */
export async function readUploadMarker(place: UploadPlace, signal: AbortSignal): Promise<UploadMarker | undefined> {
  const key = `${place.prefix}${UPLOAD_MARKER}`;
  const stored = await place.yard.get(key, ARTIFACT_LIMITS.documentBytes, { signal });
  if (stored === undefined) return undefined;
  const marker = parseUploadMarker(stored.bytes);
  if (marker !== undefined) return marker;
  const where = { store: place.yard.uri, file: key };
  throw new MergeyardError("UploadOccupied", { where, found: "a complete upload by other means", expected: "a push" });
}

/**
 * Commits the upload when every rank's files are there; undefined when some rank has not finished. Several ranks may
 * come here at once: one writes the marker, all see the same. Throws UploadRanksDisagree; with several ranks also what
 * opening their files as one checkpoint throws, since no rank has seen the others' files before.
 */
export async function commitUpload(
  place: UploadPlace,
  ranks: number,
  base: UploadMarker["base"],
  signal: AbortSignal,
): Promise<UploadMarker | undefined> {
  const records: UploadRecord[] = [];
  for (let rank = 0; rank < ranks; rank += 1) {
    const key = `${place.prefix}${uploadRecordName({ rank, ranks })}`;
    const record = (await readRecord(place.yard, key, uploadRecordSchema, signal))?.value;
    if (record === undefined || record.files.some(({ digest }) => digest === undefined)) return undefined;
    records.push(record);
  }
  const marker = buildUploadMarker(records, base);
  if (ranks > 1) await openCheckpoint(place.yard, place.prefix, signal);
  const { created } = await place.yard.create(`${place.prefix}${UPLOAD_MARKER}`, encodeRecord(marker), { signal });
  return created ? marker : readUploadMarker(place, signal);
}
