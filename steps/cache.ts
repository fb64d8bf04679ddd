// The cache: content key → what already holds that output. Entries are hints, checked before every use and safe to
// delete; a wrong one costs time, never a wrong byte.
import * as z from "zod";
import { layout } from "../core/artifact/layout.ts";
import { hasCode } from "../core/error.ts";
import { derivedFileListingSchema, receiptSchema, tensorFileSchema } from "../core/plan/receipt.ts";
import type { ObjectStore } from "../stores/store.ts";
import { encodeRecord, readRecord } from "./records.ts";
import { fileIsWhole } from "./stream.ts";

const cachedFileSchema = z.strictObject({
  cache: z.literal(1),
  output: z.literal("file"),
  /** Key of a file in a published version, or of an intermediate result in its run. */
  file: z.string(),
  etag: z.string(),
  listing: tensorFileSchema,
  /** Files that were made of the same tensors, in the order of the unit. */
  derived: z.array(z.strictObject({ file: z.string(), etag: z.string(), listing: derivedFileListingSchema })),
  losses: receiptSchema.shape.losses,
  nonFinite: receiptSchema.shape.nonFinite,
  statistics: receiptSchema.shape.statistics,
});

const cachedCheckpointSchema = z.strictObject({
  cache: z.literal(1),
  output: z.literal("checkpoint"),
  /** Folder of a universal checkpoint. */
  prefix: z.string(),
  digest: z.string(),
});

export type CachedFile = z.infer<typeof cachedFileSchema>;
export type CachedCheckpoint = z.infer<typeof cachedCheckpointSchema>;

/**
 * The file that holds the output of a content key, checked: it is there, has its size, and its ETag is the one at which
 * its digest was known. Where the ETag differs (the yard was copied or restored) the file is read and digested instead.
 * Undefined when there is no entry or it does not hold any more.
 */
export async function findCachedFile(
  yard: ObjectStore,
  key: string,
  signal: AbortSignal,
): Promise<CachedFile | undefined> {
  const entry = await readEntry(yard, key, cachedFileSchema, signal);
  return entry !== undefined && (await fileHolds(yard, entry, signal)) ? entry : undefined;
}

/** An entry that does not parse is no entry: it is written anew by whoever makes the output. */
async function readEntry<Schema extends z.ZodType>(
  yard: ObjectStore,
  key: string,
  schema: Schema,
  signal: AbortSignal,
) {
  try {
    return (await readRecord(yard, layout.cache(key), schema, signal))?.value;
  } catch (cause) {
    if (hasCode(cause, "StoreJsonInvalid")) return undefined;
    throw cause;
  }
}

async function fileHolds(yard: ObjectStore, entry: CachedFile, signal: AbortSignal): Promise<boolean> {
  for (const { file, etag, listing } of [entry, ...entry.derived]) {
    const info = await yard.head(file, { signal });
    if (info?.etag === etag && info.bytes === listing.bytes) continue;
    if (!(await fileIsWhole(yard, file, listing, signal))) return false;
  }
  return true;
}

/** The universal checkpoint made from a source of this fingerprint, when its listing is still there. */
export async function findCachedCheckpoint(
  yard: ObjectStore,
  fingerprint: string,
  signal: AbortSignal,
): Promise<CachedCheckpoint | undefined> {
  const entry = await readEntry(yard, fingerprint, cachedCheckpointSchema, signal);
  if (entry === undefined) return undefined;
  const listing = await yard.head(`${entry.prefix}universal.json`, { signal });
  return listing === undefined ? undefined : entry;
}

/** Records what holds the output of a key, in place of an entry that does not hold any more. */
export async function recordCached(
  yard: ObjectStore,
  key: string,
  entry: CachedFile | CachedCheckpoint,
  signal: AbortSignal,
): Promise<void> {
  const place = layout.cache(key);
  const bytes = encodeRecord(entry);
  if ((await yard.create(place, bytes, { signal })).created) return;
  const standing =
    entry.output === "file" ? await findCachedFile(yard, key, signal) : await findCachedCheckpoint(yard, key, signal);
  if (standing !== undefined) return;
  const stale = await yard.head(place, { signal });
  if (stale !== undefined) await yard.replace(place, bytes, stale.etag, { signal });
}
