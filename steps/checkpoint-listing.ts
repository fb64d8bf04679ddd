// What a universal checkpoint or a published version says of its own files, read from its one document: the files with
// their digests, and each tensor's. Tensor files are not touched; open-checkpoint.ts reads their headers too.
import { MANIFEST_FILE, type Manifest, manifestDigest, parseManifest, versionName } from "../core/artifact/manifest.ts";
import { checkpointDigest, listTensorFiles, parseUniversal, UNIVERSAL_FILE } from "../core/artifact/universal.ts";
import { MergeyardError } from "../core/error.ts";
import { ARTIFACT_LIMITS } from "../core/limits.ts";
import { readAll } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";

/**
 * Digest of a checkpoint as a whole, and of its tensors by name. Undefined where only quantized files are listed: what
 * is read of them are other values, and they are known by the whole's digest and their place.
 */
export type CheckpointDigests = {
  readonly digest: string;
  readonly digests: Readonly<Record<string, string>> | undefined;
};

/**
 * The digests of a universal checkpoint or published version.
 * Throws YardManifestMissing when the folder has neither document, Universal and Manifest codes when it is malformed.
 */
export async function readDigests(store: ObjectStore, prefix: string, signal: AbortSignal): Promise<CheckpointDigests> {
  const key = `${prefix}${UNIVERSAL_FILE}`;
  const found = await store.get(key, ARTIFACT_LIMITS.documentBytes, { signal });
  if (found !== undefined) {
    const universal = parseUniversal(found.bytes, key);
    return { digest: checkpointDigest(universal), digests: byName(universal.parameters) };
  }
  const { manifest } = await readManifest(store, prefix, signal);
  // Other checkpoints of the version lie in folders, and have tensors of the same names.
  const own = manifest.files.filter(({ name }) => !name.includes("/"));
  const listings = own.flatMap((file) => ("tensors" in file ? file.tensors : []));
  return { digest: manifestDigest(manifest), digests: listings.length === 0 ? undefined : byName(listings) };
}

function byName(tensors: readonly { readonly name: string; readonly digest: string }[]) {
  return Object.fromEntries(tensors.map(({ name, digest }) => [name, digest]));
}

/** The manifest of a version's folder, and its bytes. Throws YardManifestMissing and Manifest codes. */
export async function readManifest(
  store: ObjectStore,
  prefix: string,
  signal: AbortSignal,
): Promise<{ readonly manifest: Manifest; readonly bytes: Uint8Array }> {
  const key = `${prefix}${MANIFEST_FILE}`;
  const found = await store.get(key, ARTIFACT_LIMITS.documentBytes, { signal });
  const manifest = found === undefined ? undefined : parseManifest(found.bytes, key);
  if (found === undefined || manifest === undefined) {
    throw new MergeyardError("YardManifestMissing", {
      where: { store: store.uri, file: key },
      found: found === undefined ? "no such file" : "another tool's manifest",
    });
  }
  return { manifest, bytes: found.bytes };
}

/** `readManifest` of a published version. Throws YardFileCorrupt too: its name is made from the manifest. */
export async function readVersion(
  yard: ObjectStore,
  { prefix, version }: { readonly prefix: string; readonly version: string },
  signal: AbortSignal,
): ReturnType<typeof readManifest> {
  const read = await readManifest(yard, prefix, signal);
  const name = versionName(read.manifest);
  if (name === version) return read;
  const where = { store: yard.uri, file: `${prefix}${MANIFEST_FILE}` };
  throw new MergeyardError("YardFileCorrupt", {
    where,
    found: `the manifest of version ${name}`,
    expected: version,
  });
}

/** The listing of a universal checkpoint. Throws StoreObjectMissing and Universal codes. */
export async function readUniversal(store: ObjectStore, prefix: string, signal: AbortSignal) {
  const key = `${prefix}${UNIVERSAL_FILE}`;
  const bytes = await readAll(store, key, ARTIFACT_LIMITS.documentBytes, { signal });
  const universal = parseUniversal(bytes, key);
  return { universal, bytes, files: [...listTensorFiles(universal), ...universal.sideFiles] };
}
