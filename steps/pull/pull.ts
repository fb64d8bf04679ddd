// Pulling a published version into a folder: every file is checked against the manifest, appears whole under its final
// name, and the manifest comes last. A pull that was interrupted goes on where it stopped, also within a file. A folder
// that holds another version of the model is brought up to date: only files and tensors that changed are fetched.
import * as z from "zod";
import { MANIFEST_FILE, type ManifestFile, manifestDigest, SIGNATURE_FILE } from "../../core/artifact/manifest.ts";
import { parsePublicKeys } from "../../core/artifact/public-key.ts";
import { hasCode } from "../../core/error.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import type { FolderPlace, ObjectStore } from "../../stores/store.ts";
import { readVersion } from "../checkpoint-listing.ts";
import { createOnce, overwrite } from "../records.ts";
import { checkSignature, readSignatures, signatureSchema, trustedKeysSchema } from "../signature.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { STREAMS_IN_FLIGHT } from "../stream.ts";
import { findVersion, openYard, parseVersionReference } from "../yard.ts";
import { assembleFile, type LocalTensors, locateTensors, planAssembly } from "./assemble-file.ts";
import { fetchFile } from "./fetch-file.ts";
import { closePullFolder, openPullFolder } from "./folder.ts";

/** MODEL, MODEL@VERSION or MODEL:CHANNEL of a yard, and the folder to pull into. */
const pullInputSchema = z.strictObject({
  yard: uri,
  model: z.string().min(1),
  target: uri,
  trustedKeys: trustedKeysSchema,
});
const pullOutputSchema = z.strictObject({
  model: z.string(),
  version: z.string(),
  channel: z.string().nullable(),
  target: uri,
  files: count,
  /** Files that were there already, with the right digest. */
  present: count,
  bytes: count,
  /** Of `bytes`: what came from the yard, and what the folder held already. */
  fetchedBytes: count,
  reusedBytes: count,
  signature: signatureSchema,
});

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
    const { manifest, bytes } = await readVersion(yard, place, deps.signal);
    const source = { store: yard, prefix: place.prefix };
    const { status, keyIds } = await checkSignature(source, manifestDigest(manifest), trusted, deps.signal);
    const target = deps.openStore(targetUri);
    const folder = await openPullFolder(yard, target, { ...place, manifest }, deps);
    const local = locateTensors(
      target,
      folder.whole.filter((file) => "tensors" in file),
    );
    const done = { fetched: 0, reused: 0, present: 0 };
    await mapBounded(
      manifest.files,
      (file) => pullFile(source, target, file, { whole: folder.whole, local }, deps, done),
      STREAMS_IN_FLIGHT,
    );
    await pullSignatures(source, target, deps.signal);
    await createOnce(target, MANIFEST_FILE, bytes, deps.signal);
    await closePullFolder(target, folder, deps.signal);
    return {
      model: place.model,
      version: place.version,
      channel: place.channel ?? null,
      target: target.uri,
      files: manifest.files.length,
      present: done.present,
      fetchedBytes: done.fetched,
      reusedBytes: done.reused,
      bytes: manifest.files.reduce((sum, file) => sum + file.bytes, 0),
      signature: { status, keyIds },
    };
  },
});

/** The signatures as they are now; a version may have been signed since it was pulled. */
async function pullSignatures(source: FolderPlace, target: ObjectStore, signal: AbortSignal): Promise<void> {
  const found = await readSignatures(source.store, source.prefix, signal);
  if (found === undefined) return;
  await overwrite(target, SIGNATURE_FILE, found.bytes, signal);
}

/** What a pull has done so far, in bytes of files. */
type Done = { fetched: number; reused: number; present: number };

/** Fetches one file, or makes it of what the folder holds, or leaves it where it is. */
async function pullFile(
  source: FolderPlace,
  target: ObjectStore,
  file: ManifestFile,
  held: { readonly whole: readonly ManifestFile[]; readonly local: LocalTensors },
  deps: StepDeps,
  done: Done,
): Promise<void> {
  const remote = { store: source.store, key: `${source.prefix}${file.name}`, bytes: file.bytes };
  const took = (bytes: number) => {
    done.fetched += bytes;
    deps.progress?.({ bytesRead: done.fetched, bytesWritten: done.fetched + done.reused });
  };
  if (held.whole.some(({ name, digest }) => name === file.name && digest === file.digest)) {
    done.reused += file.bytes;
    done.present += 1;
    deps.log({ event: "file-present", file: file.name, bytes: file.bytes });
    return;
  }
  const assembly = "tensors" in file ? planAssembly(file, remote, held.local) : undefined;
  if (assembly !== undefined) {
    const reused = file.bytes - assembly.fetchedBytes;
    const made = assembleFile(target, file, assembly.ranges, deps.signal);
    const isMade = await made.then(() => true, unlessCorrupt);
    done.fetched += assembly.fetchedBytes;
    if (isMade) {
      done.reused += reused;
      deps.log({ event: "file-updated", file: file.name, bytes: file.bytes, reused });
      return;
    }
  }
  const known = await fetchFile(remote, target, file, deps.signal, took);
  done.reused += known;
  deps.log({ event: "file-pulled", file: file.name, bytes: file.bytes });
}

/** A file beside it was replaced while its tensors were read: the whole is fetched, which also says what is damaged. */
function unlessCorrupt(cause: unknown): false {
  if (!hasCode(cause, "YardFileCorrupt", "StoreShortRead")) throw cause;
  return false;
}
