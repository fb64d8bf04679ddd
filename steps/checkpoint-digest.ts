// The digest of a checkpoint that states none of itself, for a merge without a yard that says what it was made from.
// In a yard, adopting finds the same one.
import { type Digest, digestJson } from "../core/artifact/digest.ts";
import type { PlainFile } from "../core/artifact/listed-file.ts";
import { adoptSafetensors, checkpointDigest } from "../core/artifact/universal.ts";
import type { CheckpointFile } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { sortByName } from "../core/utf8-order.ts";
import type { ObjectStore } from "../stores/store.ts";
import { openPlace, type StoredCheckpoint, travellingFiles } from "./open-checkpoint.ts";
import { digestFile } from "./stream.ts";
import { adoptFile } from "./units/adopt.ts";

/** A checkpoint's folder, or the one file of it that is meant. */
type Place = { readonly store: ObjectStore; readonly prefix: string; readonly file?: string | undefined };

/**
 * The digest that the checkpoint states, or what a yard would call it: that of its universal checkpoint. Of a format
 * that a yard converts: the digest of the list of its files with theirs, in name order.
 * Throws YardSourceChanged when the files are not those that were opened, and what the store throws.
 * Cost: every file is read once, unless a digest is stated.
 */
export async function digestCheckpoint(place: Place, opened: StoredCheckpoint, signal: AbortSignal): Promise<Digest> {
  if (opened.digest !== undefined) return opened.digest;
  const { tensorFiles } = opened.checkpoint;
  const sideFiles = await digestFiles(place, travellingFiles(opened), signal);
  const isAdopted = opened.conversion === undefined;
  const digest = isAdopted
    ? checkpointDigest(adoptSafetensors(await adoptFiles(place, tensorFiles, signal), sideFiles))
    : digestJson(sortByName([...(await digestFiles(place, tensorFiles, signal)), ...sideFiles]));
  const { fingerprint } = await openPlace(place, signal); // what was merged is what was digested
  if (fingerprint === opened.fingerprint) return digest;
  const where = { store: place.store.uri, file: place.prefix };
  throw new MergeyardError("YardSourceChanged", { where, found: fingerprint, expected: opened.fingerprint });
}

async function adoptFiles({ store, prefix }: Place, files: readonly CheckpointFile[], signal: AbortSignal) {
  const adopted = [];
  for (const { name, bytes } of files) {
    const info = await store.head(`${prefix}${name}`, { signal });
    adopted.push(await adoptFile({ store, key: `${prefix}${name}`, bytes, etag: info?.etag ?? "" }, name, signal));
  }
  return adopted;
}

/** Files of a checkpoint, each read once and digested. */
export async function digestFiles(
  { store, prefix }: Pick<Place, "store" | "prefix">,
  files: readonly CheckpointFile[],
  signal: AbortSignal,
): Promise<readonly PlainFile[]> {
  const digested: PlainFile[] = [];
  for (const { name, bytes } of files) {
    digested.push({ name, bytes, digest: await digestFile({ store, key: `${prefix}${name}`, bytes }, signal) });
  }
  return digested;
}
