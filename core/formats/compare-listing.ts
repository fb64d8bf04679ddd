// Comparing what a folder of ours says of its files (universal.json, manifest.json) with the files that are there.
import { digestBytes } from "../artifact/digest.ts";
import type { PlainFile, TensorFileListing } from "../artifact/listed-file.ts";
import type { CheckpointFile, FolderReader, TensorEntry } from "../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../error.ts";
import { sameShape } from "../tensor.ts";
import type { FileHeader } from "./format.ts";

/** Throws `code` unless every listed file is there at its size. */
export function checkFilesPresent(
  listed: readonly PlainFile[],
  present: readonly CheckpointFile[],
  code: ErrorCode,
): void {
  const sizes = new Map(present.map(({ name, bytes }) => [name, bytes]));
  for (const { name, bytes } of listed) {
    const found = sizes.get(name);
    if (found === bytes) continue;
    const words = found === undefined ? "no such file" : `${found} bytes`;
    throw new MergeyardError(code, { where: { file: name }, found: words, expected: `${bytes} bytes` });
  }
}

/** Throws `code` unless a file's header is the listed one and its entries are the listed tensors. */
export function checkHeader(
  listing: TensorFileListing,
  header: FileHeader | undefined,
  entries: readonly TensorEntry[],
  code: ErrorCode,
): void {
  const where = { file: listing.name };
  if (header?.digest !== listing.headerDigest) {
    const expected = `header ${listing.headerDigest}`;
    throw new MergeyardError(code, { where, found: `header ${header?.digest ?? "missing"}`, expected });
  }
  if (entries.length !== listing.tensors.length) {
    const expected = `${listing.tensors.length} tensors`;
    throw new MergeyardError(code, { where, found: `${entries.length} tensors`, expected });
  }
  for (const [index, tensor] of listing.tensors.entries()) {
    const entry = entries[index];
    const range = entry?.ranges[0];
    const same =
      entry?.name === tensor.name &&
      entry.dtype === tensor.dtype &&
      sameShape(entry.shape, tensor.shape) &&
      range?.offset === tensor.offset;
    if (!same) {
      const found = `${entry?.name} ${entry?.dtype} [${entry?.shape.join(", ")}] at ${range?.offset}`;
      const expected = `${tensor.dtype} [${tensor.shape.join(", ")}] at ${tensor.offset}`;
      throw new MergeyardError(code, { where: { ...where, tensor: tensor.name }, found, expected });
    }
  }
}

/** Throws `code` unless the bytes of the listed config.json are the listed ones: no other side file is used. */
export async function checkConfig(folder: FolderReader, listed: readonly PlainFile[], code: ErrorCode): Promise<void> {
  const config = listed.find(({ name }) => name === "config.json");
  if (config === undefined) return;
  const digest = digestBytes(await folder.read(config.name, 0, config.bytes));
  if (digest === config.digest) return;
  throw new MergeyardError(code, { where: { file: config.name }, found: digest, expected: config.digest });
}

/** The entries with the digests that the listings state for them, by file and name. */
export function attachDigests(
  entries: readonly TensorEntry[],
  listings: readonly TensorFileListing[],
): readonly TensorEntry[] {
  const digests = new Map(
    listings.flatMap((file) => file.tensors.map((tensor) => [`${file.name}/${tensor.name}`, tensor.digest] as const)),
  );
  return entries.map((entry) => {
    const digest = digests.get(`${entry.ranges[0]?.file}/${entry.name}`);
    return digest === undefined ? entry : { ...entry, digest };
  });
}
