// A folder that holds a published version: any format, and `manifest.json`, which states the digest of every tensor.
import { checkDocumentBytes } from "../artifact/document.ts";
import { MANIFEST_FILE, manifestDigest, parseManifest } from "../artifact/manifest.ts";
import type { FolderReader } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { attachDigests, checkConfig, checkFilesPresent, checkHeader } from "./compare-listing.ts";
import type { OpenedCheckpoint } from "./format.ts";

const CHANGED = "ManifestFileChanged";

/**
 * The opened checkpoint with the digests that the folder's manifest states; unchanged when it has none of ours.
 * Throws ManifestInvalid, ManifestVersionUnsupported, and ManifestFileChanged when the files are not those listed.
 */
export async function describeByManifest(folder: FolderReader, opened: OpenedCheckpoint): Promise<OpenedCheckpoint> {
  const document = folder.files.find(({ name }) => name === MANIFEST_FILE);
  if (document === undefined) return opened;
  checkDocumentBytes(document.bytes, document.name, "ManifestInvalid");
  const manifest = parseManifest(await folder.read(document.name, 0, document.bytes));
  if (manifest === undefined) return opened;
  checkFilesPresent(manifest.files, folder.files, CHANGED);
  await checkConfig(folder, manifest.files, CHANGED);
  const { checkpoint, headers } = opened;
  const listings = manifest.files.filter((file) => "tensors" in file);
  const entriesByFile = Map.groupBy(checkpoint.tensors, ({ ranges }) => ranges[0]?.file);
  const listed = new Map(manifest.files.map((file) => [file.name, file]));
  for (const { name } of checkpoint.tensorFiles) {
    const listing = listed.get(name);
    if (listing !== undefined && "blocks" in listing) continue;
    if (listing === undefined || !("tensors" in listing)) {
      throw new MergeyardError(CHANGED, { where: { file: name }, found: "a file that the manifest does not list" });
    }
    checkHeader(listing, headers.get(name), entriesByFile.get(name) ?? [], CHANGED);
  }
  const tensors = attachDigests(checkpoint.tensors, listings);
  return { ...opened, checkpoint: { ...checkpoint, tensors }, digest: manifestDigest(manifest), listings };
}
