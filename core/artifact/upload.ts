// What `push` leaves in an upload besides its files: a record for each rank while the upload is under way, and the
// commit marker at its end. The marker is written once, by conditional create, when every file of every rank is there;
// an upload that has records and no marker is invisible. Whoever uploads by other means may leave a marker of any
// content, or none (docs/yards.md).
import * as z from "zod";
import { MergeyardError } from "../error.ts";
import { parseJson } from "../json.ts";
import { count } from "../schema-atoms.ts";
import { sortByName } from "../utf8-order.ts";
import { digestSchema } from "./digest-schema.ts";

/** Commit marker of an upload: an object of this name says that all files of the upload were there before it. */
export const UPLOAD_MARKER = "_COMPLETE";

/**
 * Note of `gc` in a folder of inputs that it removes (steps/removal.ts). An upload that has it is none any more; where
 * it was pushed the note stays, so that `push --watch` does not push the step again.
 */
export const REMOVAL_NOTE = "_REMOVED";

const RECORD = /^_PUSH(-\d+-of-\d+)?$/;

/** One of several processes that push the files of one upload, each its own; a lone one is rank 0 of 1. */
export type UploadRank = { readonly rank: number; readonly ranks: number };

/** Name of a rank's record in the upload's folder. */
export function uploadRecordName({ rank, ranks }: UploadRank): string {
  return ranks === 1 ? "_PUSH" : `_PUSH-${rank}-of-${ranks}`;
}

/** True for what `push` itself writes into an upload: it is no part of what was uploaded. */
export function isUploadNote(name: string): boolean {
  return name === UPLOAD_MARKER || name === REMOVAL_NOTE || RECORD.test(name);
}

/** True when a push of these files has begun and not committed. */
export function isUnfinishedPush(names: readonly string[]): boolean {
  return names.some((name) => RECORD.test(name)) && !names.includes(UPLOAD_MARKER);
}

/** A large object being written, as stores give it: `WriteTicket`. */
export const ticketSchema = z.strictObject({
  key: z.string(),
  bytes: count,
  regions: z.array(z.strictObject({ offset: count, bytes: count })),
  token: z.string(),
});

/** A file that is being pushed: what it was when the push began, and how far it is. */
const pushedFileSchema = z.strictObject({
  /** Relative to the upload's folder. */
  name: z.string().min(1),
  bytes: count,
  /** ETag in the folder that is pushed: a file that has another one by now has changed. */
  etag: z.string(),
  /** Of the file's bytes, once all of them are in the yard. */
  digest: digestSchema.optional(),
  /** The large object being written, once begun: who pushes again goes on with it. */
  ticket: ticketSchema.optional(),
});

/** Where a set of files stands: all ranks of an upload, and the marker, agree on these. */
const stateSchema = z.strictObject({
  model: z.string(),
  upload: z.string(),
  /** Training step; null when the folder does not say. */
  step: count.nullable(),
  ranks: z.int().positive(),
});

export const uploadRecordSchema = z.strictObject({
  push: z.literal(1),
  ...stateSchema.shape,
  rank: count,
  /** The process that pushes; one that takes over puts its own name here. */
  owner: z.string().min(1),
  /** Of the files as they were found: names, sizes, ETags. */
  fingerprint: digestSchema,
  files: z.array(pushedFileSchema),
});

export const uploadMarkerSchema = z.strictObject({
  upload: z.literal(1),
  ...stateSchema.omit({ upload: true }).shape,
  name: z.string(),
  /** Of each rank's record. */
  fingerprints: z.array(digestSchema),
  /** Published version that the files were pulled from and then changed. */
  base: z.strictObject({ model: z.string(), version: z.string() }).optional(),
  /** Of all ranks, in name order. `digest` covers a file's bytes. */
  files: z.array(z.strictObject({ name: z.string().min(1), bytes: count, digest: digestSchema })),
});

export type UploadRecord = z.infer<typeof uploadRecordSchema>;
export type PushedFile = z.infer<typeof pushedFileSchema>;
export type UploadMarker = z.infer<typeof uploadMarkerSchema>;

/** The marker in `bytes`; undefined when another tool wrote it. */
export function parseUploadMarker(bytes: Uint8Array): UploadMarker | undefined {
  return uploadMarkerSchema.safeParse(parseJson(bytes)).data;
}

/**
 * The marker of an upload whose ranks have pushed all their files.
 * Throws UploadRanksDisagree when they do not speak of the same step, or push a file of one name each.
 */
export function buildUploadMarker(records: readonly UploadRecord[], base: UploadMarker["base"]): UploadMarker {
  const [first] = records;
  const refuse = (record: UploadRecord, found: string, expected: string): never => {
    const where = { model: record.model, file: record.upload };
    throw new MergeyardError("UploadRanksDisagree", { where, found: `rank ${record.rank}: ${found}`, expected });
  };
  const files = new Map<string, UploadMarker["files"][number]>();
  for (const record of records) {
    if (record.step !== first?.step) refuse(record, `step ${record.step}`, `step ${first?.step}, as rank 0 says`);
    for (const { name, bytes, digest } of record.files) {
      if (digest === undefined) throw refuse(record, `${name} is not uploaded`, "every file");
      const other = files.get(name);
      if (other !== undefined && other.digest !== digest) {
        refuse(record, `${name} at ${digest}`, `${other.digest}, as another rank pushed it`);
      }
      files.set(name, { name, bytes, digest });
    }
  }
  const { model = "", upload: name = "", step = null, ranks = 1 } = first ?? {};
  const sorted = sortByName([...files.values()]);
  return {
    upload: 1,
    model,
    name,
    step,
    ranks,
    fingerprints: records.map(({ fingerprint }) => fingerprint),
    ...(base === undefined ? {} : { base }),
    files: sorted,
  };
}
