// The digest of a checkpoint that states none of itself, for a merge without a yard that says what it was made from.
// In a yard, adopting finds the same one.
import assert from "node:assert/strict";
import { type Digest, digestJson } from "../core/artifact/digest.ts";
import type { PlainFile } from "../core/artifact/listed-file.ts";
import { adoptSafetensors, checkpointDigest } from "../core/artifact/universal.ts";
import type { ByteRange, CheckpointFile } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import type { TensorFile } from "../core/plan/receipt.ts";
import { sortByName } from "../core/utf8-order.ts";
import type { StoredRange } from "../engine/request.ts";
import type { FolderPlace } from "../stores/store.ts";
import { type CheckpointPlace, openPlace, type StoredCheckpoint, travellingFiles } from "./open-checkpoint.ts";
import { digestFile } from "./stream.ts";
import { type ListedHeader, listTensorFile, placeOf } from "./units/adopt.ts";

/** What must still be read for a checkpoint's digest, and the digest once the ranges have theirs, in order. */
export type DigestPlan = {
  readonly ranges: readonly StoredRange[];
  /** Throws YardSourceChanged when the files are not those that were opened, and what the store throws. */
  digest(found: readonly Digest[]): Promise<Digest>;
};

/** Digest of a range that has been read already. */
export type KnownRange = { readonly range: ByteRange; readonly digest: Digest };

/**
 * The digest that the checkpoint states, or what a yard would call it: that of its universal checkpoint. Of a format
 * that a yard converts: the digest of the list of its files with theirs, in name order. `known` are tensors of it that
 * need not be read again. Nothing is read: the headers were when it was opened.
 */
export function planDigest(
  place: CheckpointPlace,
  opened: StoredCheckpoint,
  known: readonly KnownRange[],
  signal: AbortSignal,
): DigestPlan {
  const stated = opened.digest;
  if (stated !== undefined) return { ranges: [], digest: async () => stated };
  const { tensorFiles, tensors } = opened.checkpoint;
  const sideFiles = travellingFiles(opened).map((file) => listPlain(place, file));
  if (opened.conversion !== undefined) {
    const files = [...tensorFiles.map((file) => listPlain(place, file)), ...sideFiles];
    return joinPlans(place, opened, files, [], signal);
  }
  const done = new Map(known.map(({ range, digest }) => [rangeKey(range), digest]));
  const byFile = Map.groupBy(tensors, ({ ranges: [range] }) => range?.file);
  const files = tensorFiles.map((file) => {
    const header = opened.headers.get(file.name);
    assert.ok(header !== undefined, "every file that is kept has a header");
    return listTensors(place, file, { headerDigest: header.digest, tensors: byFile.get(file.name) ?? [] }, done);
  });
  return joinPlans(place, opened, sideFiles, files, signal);
}

/** A file to be listed: ranges whose digests are missing, and the listing that they make. */
type FilePlan<Listing> = {
  readonly ranges: readonly StoredRange[];
  list(found: readonly Digest[]): Listing;
};

function joinPlans(
  place: CheckpointPlace,
  opened: StoredCheckpoint,
  plain: readonly FilePlan<PlainFile>[],
  tensors: readonly FilePlan<TensorFile>[],
  signal: AbortSignal,
): DigestPlan {
  const ranges = [...tensors, ...plain].flatMap((file) => file.ranges);
  return {
    ranges,
    async digest(found) {
      let at = 0;
      const take = <Listing>({ ranges, list }: FilePlan<Listing>): Listing => {
        at += ranges.length;
        return list(found.slice(at - ranges.length, at));
      };
      const tensorFiles = tensors.map(take);
      const plainFiles = plain.map(take);
      await checkUnchanged(place, opened, signal); // what was merged is what was digested
      return opened.conversion === undefined
        ? checkpointDigest(adoptSafetensors(tensorFiles, plainFiles))
        : digestJson(sortByName(plainFiles));
    },
  };
}

function listPlain({ store, prefix }: CheckpointPlace, { name, bytes }: CheckpointFile): FilePlan<PlainFile> {
  return {
    ranges: [{ store: store.uri, key: `${prefix}${name}`, offset: 0, bytes }],
    list: ([digest = ""]) => ({ name, bytes, digest }),
  };
}

function listTensors(
  { store, prefix }: CheckpointPlace,
  { name, bytes }: CheckpointFile,
  header: ListedHeader,
  known: ReadonlyMap<string, Digest>,
): FilePlan<TensorFile> {
  const key = `${prefix}${name}`;
  const places = header.tensors.map((tensor) => ({ file: name, ...placeOf(tensor) }));
  const isMissing = (place: ByteRange): boolean => !known.has(rangeKey(place));
  return {
    ranges: places
      .filter(isMissing)
      .map((place) => ({ store: store.uri, key, offset: place.offset, bytes: place.bytes })),
    list(found) {
      let next = 0;
      const digests = places.map((place) => known.get(rangeKey(place)) ?? found[next++] ?? "");
      return listTensorFile(name, bytes, header, digests);
    },
  };
}

function rangeKey({ file, offset, bytes }: ByteRange): string {
  return `${offset} ${bytes} ${file}`;
}

async function checkUnchanged(place: CheckpointPlace, opened: StoredCheckpoint, signal: AbortSignal): Promise<void> {
  const { fingerprint } = await openPlace(place, signal);
  if (fingerprint === opened.fingerprint) return;
  const where = { store: place.store.uri, file: place.prefix };
  throw new MergeyardError("YardSourceChanged", { where, found: fingerprint, expected: opened.fingerprint });
}

/** Files of a checkpoint, each read once and digested. */
export async function digestFiles(
  { store, prefix }: FolderPlace,
  files: readonly CheckpointFile[],
  signal: AbortSignal,
): Promise<readonly PlainFile[]> {
  const digested: PlainFile[] = [];
  for (const { name, bytes } of files) {
    digested.push({ name, bytes, digest: await digestFile({ store, key: `${prefix}${name}`, bytes }, signal) });
  }
  return digested;
}
