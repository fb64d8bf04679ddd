// Pulling a published version into a folder: every file is checked against the manifest on its way, appears whole under
// its final name, and the manifest comes last. A pull that was interrupted goes on where it stopped; a folder that
// holds another version, or files of that name which are not the version's, is refused.
import { z } from "zod";
import {
  MANIFEST_FILE,
  type Manifest,
  type ManifestFile,
  manifestDigest,
  parseManifest,
  SIGNATURE_FILE,
  versionName,
} from "../core/artifact/manifest.ts";
import { parsePublicKeys } from "../core/artifact/public-key.ts";
import { MergeyardError } from "../core/error.ts";
import { ARTIFACT_LIMITS } from "../core/limits.ts";
import type { ObjectStore } from "../stores/store.ts";
import { readManifest } from "./checkpoint-listing.ts";
import { createOnce, encodeRecord, mapBounded, readRecord } from "./records.ts";
import { pullInputSchema, pullOutputSchema } from "./schemas.ts";
import { checkSignature, readSignatures } from "./signature.ts";
import { defineStep, type StepDeps } from "./step.ts";
import { copyVerified, fileIsWhole, STREAMS_IN_FLIGHT } from "./stream.ts";
import { findVersion, openYard, parseVersionReference } from "./yard.ts";

/** There while a pull is under way: what the folder is going to hold. */
const MARKER = ".mergeyard-pull.json";
const markerSchema = z.strictObject({ pull: z.literal(1), model: z.string(), version: z.string() });

/**
 * Throws YardModelMissing, YardVersionMissing, YardChannelMissing, YardFileCorrupt, YardTargetOccupied, Manifest and
 * Signature codes (these before anything is fetched), SigningKeyInvalid, and what the stores throw. Memory: a few
 * pieces for each file in flight.
 */
export const pullStep = defineStep({
  name: "pull",
  input: pullInputSchema,
  output: pullOutputSchema,
  async run({ yard: uri, model, target: targetUri, trustedKeys }, deps) {
    const trusted = trustedKeys === undefined ? [] : parsePublicKeys(trustedKeys, "trusted keys");
    const yard = await openYard(deps.openStore, uri);
    const place = await findVersion(yard, parseVersionReference(model));
    const { manifest, bytes } = await readManifest(yard, place.prefix, deps.signal);
    checkVersion(yard, manifest, place.prefix, place.version);
    const source = { store: yard, prefix: place.prefix };
    const { status, keyIds } = await checkSignature(source, manifestDigest(manifest), trusted, deps.signal);
    const target = deps.openStore(targetUri);
    const mayReplace = await isOurs(target, place, deps);
    if (!mayReplace) await refuseStrangers(target, manifest, deps);
    await target.create(MARKER, encodeRecord({ pull: 1, model: place.model, version: place.version }));
    const done = { bytesRead: 0, bytesWritten: 0 };
    const fetched = await mapBounded(
      manifest.files,
      (file) => pullFile(source, target, file, deps, done),
      STREAMS_IN_FLIGHT,
    );
    await pullSignatures(source, target, deps.signal);
    await createOnce(target, MANIFEST_FILE, bytes, deps.signal);
    await target.delete(MARKER);
    return {
      model: place.model,
      version: place.version,
      channel: place.channel ?? null,
      target: target.uri,
      files: manifest.files.length,
      present: fetched.filter((isFetched) => !isFetched).length,
      bytes: manifest.files.reduce((sum, file) => sum + file.bytes, 0),
      signature: { status, keyIds },
    };
  },
});

/** The signatures as they are now; a version may have been signed since it was pulled. */
async function pullSignatures(
  source: { readonly store: ObjectStore; readonly prefix: string },
  target: ObjectStore,
  signal: AbortSignal,
): Promise<void> {
  const found = await readSignatures(source.store, source.prefix, signal);
  if (found === undefined) return;
  const { created, etag } = await target.create(SIGNATURE_FILE, found.bytes, { signal });
  if (!created) await target.replace(SIGNATURE_FILE, found.bytes, etag, { signal });
}

/** A version's name is made from its manifest; another manifest under it was put there by hand. */
function checkVersion(store: ObjectStore, manifest: Manifest, prefix: string, version: string): void {
  if (versionName(manifest) === version) return;
  throw new MergeyardError("YardFileCorrupt", {
    where: { store: store.uri, file: `${prefix}${MANIFEST_FILE}` },
    found: `the manifest of version ${versionName(manifest)}`,
    expected: version,
  });
}

/** True when the folder holds this version or is becoming it. Throws YardTargetOccupied when it is another's. */
async function isOurs(
  target: ObjectStore,
  wanted: { model: string; version: string },
  deps: StepDeps,
): Promise<boolean> {
  const refuse = (file: string, found: string): never => {
    throw new MergeyardError("YardTargetOccupied", {
      where: { store: target.uri, file },
      found,
      expected: `nothing, or version ${wanted.version} of ${wanted.model}`,
    });
  };
  const marker = (await readRecord(target, MARKER, markerSchema, deps.signal))?.value;
  if (marker !== undefined && marker.version !== wanted.version) {
    refuse(MARKER, `an unfinished pull of version ${marker.version} of ${marker.model}`);
  }
  const stored = await target.get(MANIFEST_FILE, ARTIFACT_LIMITS.documentBytes, { signal: deps.signal });
  const manifest = stored && parseManifest(stored.bytes);
  if (stored !== undefined && manifest === undefined) refuse(MANIFEST_FILE, "another tool's manifest");
  if (manifest !== undefined && versionName(manifest) !== wanted.version) {
    refuse(MANIFEST_FILE, `version ${versionName(manifest)} of ${manifest.model}`);
  }
  return marker !== undefined || manifest !== undefined;
}

/** A folder of the user's own may hold other things, but no other weights, and no file that would be overwritten. */
async function refuseStrangers(target: ObjectStore, manifest: Manifest, deps: StepDeps): Promise<void> {
  const listed = new Map(manifest.files.map((file) => [file.name, file]));
  for await (const { key } of target.list("", { signal: deps.signal })) {
    const file = listed.get(key);
    const isStranger = file === undefined && /\.safetensors(\.index\.json)?$/.test(key);
    const isOther = file !== undefined && !(await fileIsWhole(target, key, file, deps.signal));
    if (!isStranger && !isOther) continue;
    throw new MergeyardError("YardTargetOccupied", {
      where: { store: target.uri, file: key },
      found: isOther ? "a file of this name with other content" : "weights that are no part of the version",
      expected: "an empty folder",
    });
  }
}

/** False when the file was there already, with the right bytes. */
async function pullFile(
  source: { readonly store: ObjectStore; readonly prefix: string },
  target: ObjectStore,
  file: ManifestFile,
  deps: StepDeps,
  done: { bytesRead: number; bytesWritten: number },
): Promise<boolean> {
  const isThere = await fileIsWhole(target, file.name, file, deps.signal);
  if (!isThere) {
    const from = { store: source.store, key: `${source.prefix}${file.name}`, bytes: file.bytes };
    await copyVerified(from, { store: target, key: file.name }, file, deps.signal, (bytes) => {
      done.bytesRead += bytes;
      done.bytesWritten += bytes;
      deps.progress?.({ ...done });
    });
  }
  deps.log({ event: isThere ? "file-present" : "file-pulled", file: file.name, bytes: file.bytes });
  return !isThere;
}
