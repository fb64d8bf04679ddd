// Adopting: reading one safetensors file once, with bounded memory, and digesting its header and every tensor. Nothing
// is written but the receipt; describe.ts makes the universal checkpoint from these.
import { digestTensorFile } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import { readSafetensorsHeader } from "../core/formats/safetensors.ts";
import type { TensorFile } from "../core/plan/receipt.ts";
import type { ObjectInfo } from "../stores/store.ts";
import type { StepProgress } from "./step.ts";
import { createPartHasher, readPieces, type StreamSource } from "./stream.ts";

/**
 * Digests of a safetensors file under the name `name`. The header is checked against every rule of the format.
 * Throws any Safetensors code, YardSourceChanged when the object is replaced meanwhile, and what the store throws.
 * Cost: the file is read once (its header twice); memory 2 pieces and the header.
 */
export async function adoptFile(
  source: StreamSource & { readonly etag: string },
  name: string,
  signal: AbortSignal,
  progress?: (done: StepProgress) => void,
): Promise<TensorFile> {
  const { store, key, bytes } = source;
  const read = async (offset: number, length: number): Promise<Uint8Array> => {
    const into = new Uint8Array(length);
    await store.readInto(key, offset, into, { signal });
    return into;
  };
  const header = await readSafetensorsHeader(read, { name, bytes });
  const places = header.tensors.map((tensor) => ({ tensor, range: tensor.ranges[0] ?? { offset: 0, bytes: 0 } }));
  const hasher = createPartHasher([header.headerBytes, ...places.map(({ range }) => range.bytes)]);
  let bytesRead = 0;
  for await (const piece of readPieces(source, signal)) {
    hasher.update(piece);
    bytesRead += piece.length;
    progress?.({ bytesRead, bytesWritten: 0 });
  }
  const [headerDigest = "", ...digests] = hasher.digests();
  if (headerDigest !== header.headerDigest) throw changed(source, "the header changed while the file was read");
  const after = await store.head(key, { signal });
  if (after?.etag !== source.etag) throw changed(source, describeInfo(after));
  return {
    name,
    bytes,
    digest: digestTensorFile(headerDigest, digests),
    headerDigest,
    tensors: places.map(({ tensor, range }, index) => ({
      name: tensor.name,
      dtype: tensor.dtype,
      shape: [...tensor.shape],
      offset: range.offset,
      bytes: range.bytes,
      digest: digests[index] ?? "",
    })),
  };
}

function changed(source: StreamSource, found: string): MergeyardError {
  return new MergeyardError("YardSourceChanged", { where: { store: source.store.uri, file: source.key }, found });
}

function describeInfo(info: ObjectInfo | undefined): string {
  return info === undefined ? "no such file any more" : `${info.bytes} bytes written meanwhile`;
}
