// A folder that was pulled, changed, and is pushed again: its manifest speaks of the version that it was. Files that
// were written after the manifest were changed on purpose, so the manifest stays behind and the rest is a plain upload;
// files that differ although nobody has written them since are damaged, and refused.
import { MANIFEST_FILE, type Manifest, parseManifest, versionName } from "../../core/artifact/manifest.ts";
import { MergeyardError } from "../../core/error.ts";
import { ARTIFACT_LIMITS } from "../../core/limits.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import type { StepDeps } from "../step.ts";
import { fileIsWhole, STREAMS_IN_FLIGHT } from "../stream.ts";
import type { Snapshot, SnapshotFile } from "./upload-snapshot.ts";

export type Reviewed = {
  /** Without the manifest, when it does not hold any more. */
  readonly snapshot: Snapshot;
  /** The version that was changed. */
  readonly base: { readonly model: string; readonly version: string } | undefined;
  /** Files that are not the version's, in name order. */
  readonly changed: readonly string[];
};

/**
 * Compares a snapshot with the manifest of ours that it may hold. Every listed file is read.
 * Throws YardFileCorrupt, Manifest codes.
 */
export async function reviewManifest(snapshot: Snapshot, deps: StepDeps): Promise<Reviewed> {
  const { source, files } = snapshot;
  const document = files.find(({ name }) => name === MANIFEST_FILE);
  const stored = document && (await source.get(MANIFEST_FILE, ARTIFACT_LIMITS.documentBytes, { signal: deps.signal }));
  const manifest = stored && parseManifest(stored.bytes);
  if (document === undefined || manifest === undefined) return { snapshot, base: undefined, changed: [] };
  const changed = await findChanged(snapshot, manifest, deps.signal);
  if (changed.length === 0) return { snapshot, base: undefined, changed };
  for (const name of changed) {
    const file = files.find((each) => each.name === name);
    if (file !== undefined && file.modifiedMs <= document.modifiedMs) throw damaged(source.uri, file);
  }
  const base = { model: manifest.model, version: versionName(manifest) };
  return { snapshot: { ...snapshot, files: files.filter((file) => file !== document) }, base, changed };
}

async function findChanged({ source, files }: Snapshot, manifest: Manifest, signal: AbortSignal): Promise<string[]> {
  const listed = new Set(manifest.files.map(({ name }) => name));
  const present = new Set(files.map(({ name }) => name));
  const added = files.filter(({ name }) => name !== MANIFEST_FILE && !listed.has(name) && isTensorFile(name));
  const wholes = await mapBounded(
    manifest.files,
    async (file) => present.has(file.name) && (await fileIsWhole(source, file.name, file, signal)),
    STREAMS_IN_FLIGHT,
  );
  const differing = manifest.files.filter((_, index) => wholes[index] !== true);
  return [...differing, ...added].map(({ name }) => name).sort();
}

/** Notes and logs beside a version change nothing of it; other weights do. */
function isTensorFile(name: string): boolean {
  return /\.safetensors(\.index\.json)?$/.test(name);
}

function damaged(store: string, { name }: SnapshotFile): MergeyardError {
  return new MergeyardError("YardFileCorrupt", {
    where: { store, file: name },
    found: "other bytes than manifest.json lists, in a file that was not written since",
    expected: "the version's bytes, or a file that was changed later",
    hint: "pull the version again; delete manifest.json if the folder is to be pushed as it is",
  });
}
