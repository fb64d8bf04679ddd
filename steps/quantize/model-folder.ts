// The folder that a quantized model goes to: empty before, and filled with what stands beside the shards, config.json
// last, for it makes the folder a model. Called by the steps that quantize into a folder and that derive.
import { MergeyardError } from "../../core/error.ts";
import { fileRole } from "../../core/formats/side-files.ts";
import { copyAcross, writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import type { ReadableModel } from "../models/whole-tensors.ts";
import { travellingFiles, writtenDocuments } from "../open-checkpoint.ts";

/** Written anew. */
const REPLACED: ReadonlySet<string> = new Set(["config", "index", "record"]);

/** Throws YardTargetOccupied. */
export async function checkEmpty(target: ObjectStore, signal: AbortSignal): Promise<void> {
  for await (const { key } of target.list("", { signal })) {
    throw new MergeyardError("YardTargetOccupied", { where: { store: target.uri }, found: key, expected: "nothing" });
  }
}

/**
 * Copies the source's side files, and writes the index, where there is one, and the config; returns how many files that
 * are. Throws what the stores throw.
 */
export async function writeBesideShards(
  source: ReadableModel,
  target: ObjectStore,
  { index, config }: { readonly index: { name: string; text: string } | undefined; readonly config: string },
  signal: AbortSignal,
): Promise<number> {
  const { store, prefix, opened } = source;
  const isKept = ({ name }: { readonly name: string }) => !REPLACED.has(fileRole(name));
  const copied = travellingFiles(opened).filter(isKept);
  for (const { name } of copied) await copyAcross(store, `${prefix}${name}`, target, name, { signal });
  const texts = [...(index === undefined ? [] : [index]), { name: "config.json", text: config }];
  const encoded = texts.map(({ name, text }) => ({ name, bytes: new TextEncoder().encode(text) }));
  const written = [...writtenDocuments(opened).filter(isKept), ...encoded];
  for (const { name, bytes } of written) await writeBytes(target, name, bytes, { signal });
  return copied.length + written.length;
}
