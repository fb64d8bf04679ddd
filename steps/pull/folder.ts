// The folder that a version is pulled into: what it holds, whether it may be changed, and which of its bytes are known.
// A folder that holds another version of the same model becomes the new one: the marker says so, then the old manifest
// goes, so that the folder never claims to be what it is not.
import * as z from "zod";
import { layout } from "../../core/artifact/layout.ts";
import {
  MANIFEST_FILE,
  type Manifest,
  type ManifestFile,
  parseManifest,
  SIGNATURE_FILE,
  versionName,
} from "../../core/artifact/manifest.ts";
import { MergeyardError } from "../../core/error.ts";
import { ARTIFACT_LIMITS } from "../../core/limits.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { readManifest } from "../checkpoint-listing.ts";
import { encodeRecord, overwrite, readRecord } from "../records.ts";
import type { StepDeps } from "../step.ts";
import { fileIsWhole, STREAMS_IN_FLIGHT } from "../stream.ts";
import { dropFetches } from "./fetch-file.ts";

/** There while a pull is under way: what the folder is going to hold, and what it may hold still. */
const MARKER = ".mergeyard-pull.json";
const markerSchema = z.strictObject({
  pull: z.literal(1),
  model: z.string(),
  version: z.string(),
  /** Versions whose files may be there, besides. */
  before: z.array(z.string()).default([]),
});

type Wanted = { readonly model: string; readonly version: string; readonly manifest: Manifest };

export type PullFolder = {
  /** Files that are whole, as some version of the model lists them. */
  readonly whole: readonly ManifestFile[];
  /** Files of earlier versions that the wanted one does not have. */
  readonly obsolete: readonly string[];
};

/**
 * Prepares the folder for the version and looks at what it holds. Every file of its own is read.
 * Throws YardTargetOccupied: another model's version, another tool's files, or files that were changed since they were
 * pulled. Then the folder is as it was.
 */
export async function openPullFolder(
  yard: ObjectStore,
  folder: ObjectStore,
  wanted: Wanted,
  deps: StepDeps,
): Promise<PullFolder> {
  const { signal } = deps;
  const marker = (await readRecord(folder, MARKER, markerSchema, signal))?.value;
  const held = await readHeld(folder, signal);
  const claimed = marker?.model ?? held?.model;
  if (claimed !== undefined && claimed !== wanted.model) {
    throw occupied(folder, marker === undefined ? MANIFEST_FILE : MARKER, `a version of ${claimed}`, wanted);
  }
  if (claimed === undefined) await refuseStrangers(folder, wanted, signal);
  const names = [marker?.version, ...(marker?.before ?? []), held && versionName(held)];
  const before = [...new Set(names)].filter((name) => name !== undefined && name !== wanted.version);
  const earlier = await readEarlier(yard, wanted.model, before, held, signal);
  const whole = await findWhole(folder, [wanted.manifest, ...earlier], signal);
  // A marker says that the files are ours in any case; without one, what no listing knows was made by the user.
  if (marker === undefined && before.length > 0) await refuseChanged(folder, earlier, whole, wanted, signal);
  const record = { pull: 1, model: wanted.model, version: wanted.version, before };
  await overwrite(folder, MARKER, encodeRecord(record), signal);
  if (before.length > 0) {
    await folder.delete(MANIFEST_FILE, { signal });
    await folder.delete(SIGNATURE_FILE, { signal });
  }
  const wantedNames = new Set(wanted.manifest.files.map(({ name }) => name));
  const obsolete = earlier
    .flatMap(({ files }) => files.map(({ name }) => name))
    .filter((name) => !wantedNames.has(name));
  return { whole, obsolete: [...new Set(obsolete)] };
}

/** Ends a pull: what is left of earlier versions goes, then the marker. The manifest is there by now. */
export async function closePullFolder(
  folder: ObjectStore,
  { obsolete }: PullFolder,
  signal: AbortSignal,
): Promise<void> {
  await dropFetches(folder, signal);
  for (const name of obsolete) await folder.delete(name, { signal });
  await folder.delete(MARKER, { signal });
}

async function readHeld(folder: ObjectStore, signal: AbortSignal): Promise<Manifest | undefined> {
  const stored = await folder.get(MANIFEST_FILE, ARTIFACT_LIMITS.documentBytes, { signal });
  const manifest = stored && parseManifest(stored.bytes);
  if (stored === undefined || manifest !== undefined) return manifest;
  throw new MergeyardError("YardTargetOccupied", {
    where: { store: folder.uri, file: MANIFEST_FILE },
    found: "another tool's manifest",
    expected: "an empty folder, or a version of the model",
  });
}

/** The manifests of earlier versions: the folder's own, else the yard's where it keeps them still. */
async function readEarlier(
  yard: ObjectStore,
  model: string,
  versions: readonly (string | undefined)[],
  held: Manifest | undefined,
  signal: AbortSignal,
): Promise<readonly Manifest[]> {
  const manifests: Manifest[] = [];
  for (const version of versions) {
    if (version === undefined) continue;
    const own = held !== undefined && versionName(held) === version ? held : undefined;
    const found = own ?? (await readManifest(yard, layout.version(model, version), signal).catch(noManifest))?.manifest;
    if (found !== undefined) manifests.push(found);
  }
  return manifests;
}

/** Without it nothing is lost but what might have been used again. */
function noManifest(cause: unknown): undefined {
  const isGone = cause instanceof MergeyardError && !cause.retryable;
  if (!isGone) throw cause;
  return undefined;
}

async function findWhole(
  folder: ObjectStore,
  manifests: readonly Manifest[],
  signal: AbortSignal,
): Promise<readonly ManifestFile[]> {
  const listed = Map.groupBy(
    manifests.flatMap(({ files }) => files),
    ({ name }) => name,
  );
  const found = await mapBounded(
    [...listed],
    async ([name, files]) => {
      const distinct = [...new Map(files.map((file) => [file.digest, file])).values()];
      for (const file of distinct) if (await fileIsWhole(folder, name, file, signal)) return file;
      return undefined;
    },
    STREAMS_IN_FLIGHT,
  );
  return found.filter((file) => file !== undefined);
}

/** A file of the old version that is neither its nor the new one's was changed by the user, and would be lost. */
async function refuseChanged(
  folder: ObjectStore,
  earlier: readonly Manifest[],
  whole: readonly ManifestFile[],
  wanted: Wanted,
  signal: AbortSignal,
): Promise<void> {
  const known = new Set(whole.map(({ name }) => name));
  for (const { name } of earlier.flatMap(({ files }) => files)) {
    if (known.has(name) || (await folder.head(name, { signal })) === undefined) continue;
    const hint = "push the folder, or pull into another one; to throw the change away, delete the file";
    throw occupied(folder, name, "a file that was changed since it was pulled", wanted, hint);
  }
}

/** A folder of the user's own may hold other things, but no other weights, and no file that would be overwritten. */
async function refuseStrangers(folder: ObjectStore, wanted: Wanted, signal: AbortSignal): Promise<void> {
  const listed = new Map(wanted.manifest.files.map((file) => [file.name, file]));
  for await (const { key } of folder.list("", { signal })) {
    const file = listed.get(key);
    const isStranger = file === undefined && /\.safetensors(\.index\.json)?$/.test(key);
    const isOther = file !== undefined && !(await fileIsWhole(folder, key, file, signal));
    if (!isStranger && !isOther) continue;
    const found = isOther ? "a file of this name with other content" : "weights that are no part of the version";
    throw occupied(folder, key, found, wanted);
  }
}

function occupied(
  folder: ObjectStore,
  file: string,
  found: string,
  { model, version }: Wanted,
  hint?: string,
): MergeyardError {
  const expected = `an empty folder, or a version of ${model}, to become ${version}`;
  return new MergeyardError("YardTargetOccupied", { where: { store: folder.uri, file }, found, expected, hint });
}
