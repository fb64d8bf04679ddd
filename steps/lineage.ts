// The lineage of a version, as far as it lies in a yard: each input that is a version or a universal checkpoint of the
// yard is there, and is at the digest that the version names; and so are the inputs of those.
import * as z from "zod";
import { placesInYard, type Statement } from "../core/artifact/attestation.ts";
import { shortDigest } from "../core/artifact/layout.ts";
import { MANIFEST_FILE, type Manifest, manifestDigest } from "../core/artifact/manifest.ts";
import { checkpointDigest, UNIVERSAL_FILE } from "../core/artifact/universal.ts";
import { MergeyardError } from "../core/error.ts";
import type { ObjectStore } from "../stores/store.ts";
import { readManifest, readUniversal } from "./checkpoint-listing.ts";

export const lineageEntrySchema = z.strictObject({
  /** The model whose input it is: the version's own, or an input's. */
  of: z.string(),
  /** The reference as the recipe spells it. */
  model: z.string(),
  digest: z.string().nullable(),
  /** Folder of the yard that holds it at this digest; null when it lies elsewhere. */
  place: z.string().nullable(),
});

export type LineageEntry = z.infer<typeof lineageEntrySchema>;

/** `artifacts/base/0123456789abcdef/`, and what kind of document describes it. */
type Place = { readonly prefix: string; readonly kind: "version" | "checkpoint" };

const DOCUMENT = /^(artifacts|checkpoints)\/[^/]+\/([0-9a-f]{16})\/(manifest|universal)\.json$/;

/**
 * Every input of the version and of its inputs, nearest first. An input whose digest no folder of the yard has is an
 * entry without a place: it came from elsewhere; unless a signed statement says that it lay in the yard.
 * Throws YardLineageBroken. Cost: a listing of artifacts and checkpoints, one document an input.
 */
export async function checkLineage(
  yard: ObjectStore,
  manifest: Manifest,
  statement: Statement | undefined,
  signal: AbortSignal,
): Promise<LineageEntry[]> {
  const places = await listPlaces(yard, signal);
  const own = statement === undefined ? [] : placesInYard(statement);
  for (const { place, digest } of own) await checkStated(yard, place, digest, signal);
  const entries: LineageEntry[] = [];
  const seen = new Set<string>();
  const queue: Manifest[] = [manifest];
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    for (const { model, digest } of next.inputs) {
      if (digest !== null && seen.has(digest)) continue;
      if (digest !== null) seen.add(digest);
      const place = digest === null ? undefined : places.get(shortDigest(digest));
      entries.push({ of: next.model, model, digest, place: place?.prefix ?? null });
      if (place === undefined || digest === null) continue;
      const parent = await readInput(yard, place, digest, signal);
      if (parent !== undefined) queue.push(parent);
    }
  }
  return entries;
}

/** By short digest. Models of different names may hold the same version: any of them will do. */
async function listPlaces(yard: ObjectStore, signal: AbortSignal): Promise<ReadonlyMap<string, Place>> {
  const places = new Map<string, Place>();
  for (const area of ["checkpoints/", "artifacts/"]) {
    for await (const { key } of yard.list(area, { signal })) {
      const [, , digest, document] = DOCUMENT.exec(key) ?? [];
      if (digest === undefined) continue;
      const kind = document === "manifest" ? "version" : "checkpoint";
      places.set(digest, { prefix: key.slice(0, key.lastIndexOf("/") + 1), kind });
    }
  }
  return places;
}

/** The manifest of an input that is a version; throws YardLineageBroken when the document is not at the digest. */
async function readInput(
  yard: ObjectStore,
  { prefix, kind }: Place,
  expected: string,
  signal: AbortSignal,
): Promise<Manifest | undefined> {
  const manifest = kind === "version" ? (await readManifest(yard, prefix, signal)).manifest : undefined;
  const found =
    manifest === undefined
      ? checkpointDigest((await readUniversal(yard, prefix, signal)).universal)
      : manifestDigest(manifest);
  if (found !== expected) throw broken(yard, prefix, found, expected);
  return manifest;
}

/** What the publisher signed that it read. */
async function checkStated(
  yard: ObjectStore,
  prefix: string,
  digest: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  for (const [document, kind] of [
    [MANIFEST_FILE, "version"],
    [UNIVERSAL_FILE, "checkpoint"],
  ] as const) {
    if ((await yard.head(`${prefix}${document}`, { signal })) === undefined) continue;
    if (digest !== undefined) await readInput(yard, { prefix, kind }, digest, signal);
    return;
  }
  if (digest !== undefined) throw broken(yard, prefix, "nothing", digest);
}

function broken(yard: ObjectStore, file: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("YardLineageBroken", { where: { store: yard.uri, file }, found, expected });
}
