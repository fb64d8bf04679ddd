// Opening a GGUF file that lies in a store: its header, no byte of weights.
import type { ReadRange } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { type GgufHeader, readGgufHeader } from "../core/formats/gguf/gguf.ts";
import { readRange } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";

export type StoredGguf = { readonly name: string; readonly fileBytes: number; readonly header: GgufHeader };

/** Throws CheckpointFileMissing, the Gguf codes with the file's key, and what the store throws. */
export async function openGguf(store: ObjectStore, key: string, signal?: AbortSignal): Promise<StoredGguf> {
  const info = await store.head(key, { signal });
  if (info === undefined) throw new MergeyardError("CheckpointFileMissing", { where: { store: store.uri, file: key } });
  const read: ReadRange = (offset, bytes) => readRange(store, key, offset, bytes, { signal });
  return { name: key, fileBytes: info.bytes, header: await readGgufHeader(read, { name: key, bytes: info.bytes }) };
}
