// A small safetensors file with its listing, as an adopt unit would make it, for tests of what lists files.
import { digestBytes, digestTensorFile } from "../../../core/artifact/digest.ts";
import type { PlainFile, TensorFileListing } from "../../../core/artifact/listed-file.ts";
import { encodeSafetensorsHeader, type TensorSpec } from "../../../core/formats/safetensors/safetensors.ts";
import { HF_METADATA } from "../../../core/formats/safetensors/shard-plan.ts";

/** A file whose byte i of data is (seed + i) mod 251, and its listing. */
export function makeTensorFile(
  name: string,
  specs: readonly TensorSpec[],
  seed = 0,
): { bytes: Uint8Array; listing: TensorFileListing } {
  const { header, tensors, fileBytes } = encodeSafetensorsHeader(specs, HF_METADATA);
  const bytes = new Uint8Array(fileBytes);
  bytes.set(header);
  for (let index = header.length; index < fileBytes; index += 1) bytes[index] = (seed + index - header.length) % 251;
  const parts = tensors.map((tensor) => {
    const offset = header.length + tensor.offset;
    const digest = digestBytes(bytes.subarray(offset, offset + tensor.bytes));
    return { ...tensor, shape: [...tensor.shape], offset, digest };
  });
  const headerDigest = digestBytes(header);
  const digest = digestTensorFile(
    headerDigest,
    parts.map((part) => part.digest),
  );
  return { bytes, listing: { name, bytes: fileBytes, digest, headerDigest, tensors: parts } };
}

/** The listing of a plain text file. */
export function listText(name: string, text: string): PlainFile {
  return { name, bytes: new TextEncoder().encode(text).length, digest: digestBytes(text) };
}
