// Adopting: reading one safetensors file once, with bounded memory, and digesting its header and every tensor. An adopt
// unit writes nothing but its receipt; a conversion writes the pieces on as they pass.
import { createPartHasher, type Digest, digestTensorFile } from "../../core/artifact/digest.ts";
import type { ReadRange, TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { readSafetensorsHeader, type SafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import type { TensorFile } from "../../core/plan/receipt.ts";
import type { BytesDone } from "../../engine/request.ts";
import { readRange } from "../../stores/objects.ts";
import type { ObjectInfo, ObjectStore } from "../../stores/store.ts";

import { readPieces, type StreamSource } from "../stream.ts";

/** A file to adopt, at the ETag at which it was found. */
export type AdoptSource = StreamSource & { readonly etag: string };

/** The file to adopt under a key; undefined when there is no such object. */
export async function findAdoptSource(
  store: ObjectStore,
  key: string,
  signal: AbortSignal,
): Promise<AdoptSource | undefined> {
  const info = await store.head(key, { signal });
  return info && { store, key, bytes: info.bytes, etag: info.etag };
}

/**
 * Digests of a safetensors file, listed under the name `name`. The header is checked against every rule of the format.
 * Throws any Safetensors code, YardSourceChanged when the object is replaced meanwhile, and what the store throws.
 * Cost: the file is read once (its header twice); memory 2 pieces and the header.
 */
export async function adoptFile(
  source: AdoptSource,
  name: string,
  signal: AbortSignal,
  progress?: (done: BytesDone) => void,
): Promise<TensorFile> {
  let listing: TensorFile | undefined;
  let bytesRead = 0;
  const keep = (file: TensorFile): void => {
    listing = file;
  };
  for await (const piece of adoptPieces(source, name, signal, keep)) {
    bytesRead += piece.length;
    progress?.({ bytesRead, bytesWritten: 0 });
  }
  if (listing === undefined) throw changed(source, "the end of the file was not reached");
  return listing;
}

/** The pieces of a file on their way to a copy of it; `adopted` gets its listing before the last one ends. As above. */
export async function* adoptPieces(
  source: AdoptSource,
  name: string,
  signal: AbortSignal,
  adopted: (file: TensorFile) => void,
): AsyncGenerator<Uint8Array> {
  const { store, key, bytes } = source;
  const read: ReadRange = (offset, length) => readRange(store, key, offset, length, { signal });
  const header = await readSafetensorsHeader(read, { name, bytes });
  const hasher = createPartHasher([header.headerBytes, ...header.tensors.map((tensor) => placeOf(tensor).bytes)]);
  for await (const piece of readPieces(source, signal)) {
    hasher.update(piece);
    yield piece;
  }
  const [headerDigest, ...digests] = hasher.digests();
  if (headerDigest !== header.headerDigest) throw changed(source, "the header changed while the file was read");
  const after = await store.head(key, { signal });
  if (after?.etag !== source.etag) throw changed(source, describeInfo(after));
  adopted(listTensorFile(name, bytes, header, digests));
}

/** What a listing takes from a safetensors header. */
export type ListedHeader = Pick<SafetensorsHeader, "headerDigest" | "tensors">;

/** The listing of a safetensors file from its header and the digests of its tensors, in the header's order. */
export function listTensorFile(
  name: string,
  bytes: number,
  header: ListedHeader,
  digests: readonly Digest[],
): TensorFile {
  const { headerDigest } = header;
  const tensors = header.tensors.map((tensor, index) => ({
    name: tensor.name,
    dtype: tensor.dtype,
    shape: [...tensor.shape],
    ...placeOf(tensor),
    digest: digests[index] ?? "",
  }));
  return { name, bytes, digest: digestTensorFile(headerDigest, digests), headerDigest, tensors };
}

/** In a safetensors file a tensor is one range. */
export function placeOf({ ranges: [range] }: TensorEntry): { readonly offset: number; readonly bytes: number } {
  return { offset: range?.offset ?? 0, bytes: range?.bytes ?? 0 };
}

function changed(source: StreamSource, found: string): MergeyardError {
  return new MergeyardError("YardSourceChanged", { where: { store: source.store.uri, file: source.key }, found });
}

function describeInfo(info: ObjectInfo | undefined): string {
  return info === undefined ? "no such file any more" : `${info.bytes} bytes written meanwhile`;
}
