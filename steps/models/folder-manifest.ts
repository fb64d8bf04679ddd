// The manifest of a folder that a step made of whole models without a plan: every file at its digest, what made it, and
// what it was made from. Written last, so that a folder with a manifest is whole, as a version is.
import { canonicalJson, type Digest } from "../../core/artifact/digest.ts";
import { buildManifest, encodeManifest, MANIFEST_FILE, versionName } from "../../core/artifact/manifest.ts";
import { ENGINE_VERSION } from "../../core/version.ts";
import { digestRanges } from "../../engine/digest-ranges.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectInfo, ObjectStore } from "../../stores/store.ts";
import { planDigest } from "../checkpoint-digest.ts";
import { digestFile } from "../stream.ts";
import { adoptFile } from "../units/adopt.ts";
import type { ReadableModel } from "./whole-tensors.ts";

/** What made a folder. */
export type Making = {
  /** The step, which is also what the folder is called. */
  readonly step: string;
  /** Whatever decides the bytes, apart from the models; nothing of the machine. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** The models that it was made from, in order; the manifest has the names of their folders. */
  readonly inputs: readonly ReadableModel[];
};

/**
 * Digests all files below `target` and writes its manifest; returns the name of the version that it describes.
 * Throws YardSourceChanged when an input is not what it was when it was opened, Safetensors codes, and what the store
 * throws. Cost: every file is read once, and so is an input that states no digest of itself.
 */
export async function writeFolderManifest(target: ObjectStore, making: Making, signal: AbortSignal): Promise<string> {
  const { step, settings } = making;
  const files = [];
  for await (const info of target.list("", { signal })) files.push(await describeFile(target, info, signal));
  const inputs = [];
  for (const place of making.inputs) inputs.push({ model: nameOf(place), digest: await digestOf(place, signal) });
  const recipe = canonicalJson({ ...settings, step });
  const manifest = buildManifest({ model: step, engine: ENGINE_VERSION, method: step, recipe, inputs, files });
  const bytes = encodeManifest(manifest);
  await writeBytes(target, MANIFEST_FILE, bytes, { signal });
  return versionName(manifest);
}

async function describeFile(store: ObjectStore, { key, bytes, etag }: ObjectInfo, signal: AbortSignal) {
  const source = { store, key, bytes, etag };
  if (key.endsWith(".safetensors")) return adoptFile(source, key, signal);
  return { name: key, bytes, digest: await digestFile(source, signal) };
}

/** `NAME@DIGEST` in a yard, else the last part of the path, which does not say where on a machine the folder lies. */
function nameOf({ store, prefix }: ReadableModel): string {
  const path = `${store.uri.replace(/\?.*$/, "")}/${prefix}`;
  const [, model, digest] = /\/(?:artifacts|checkpoints)\/([^/]+)\/([0-9a-f]{16})\/*$/.exec(path) ?? [];
  if (model !== undefined) return `${decodeURIComponent(model)}@${digest}`;
  const parts = path.split("/").filter((part) => part !== "");
  return decodeURIComponent(parts.at(-1) ?? "");
}

/** What the model states of itself, or what a yard would call it. */
async function digestOf(model: ReadableModel, signal: AbortSignal): Promise<Digest> {
  const { ranges, digest } = planDigest(model, model.opened, [], signal);
  return digest(await digestRanges(ranges, { openStore: () => model.store, signal, progress: () => {} }));
}
