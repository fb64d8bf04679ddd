// Making a file of a version from what the folder holds already: tensors whose digests it knows are read from the files
// beside it, the rest by ranges from the yard. The whole is checked against its listing before it appears.
import type { TensorFile } from "../../core/plan/receipt.ts";
import { writeObject } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { type ListedFile, readRanges, type StreamRange, type StreamSource, verifyPieces } from "../stream.ts";

/** Where tensors of known digests lie in the folder. */
export type LocalTensors = ReadonlyMap<string, StreamRange>;

/** The tensors of the folder's files that were checked, by digest. */
export function locateTensors(folder: ObjectStore, files: readonly TensorFile[]): LocalTensors {
  return new Map(
    files.flatMap(({ name, tensors }) =>
      tensors.map(({ digest, offset, bytes }) => [digest, { store: folder, key: name, offset, bytes }] as const),
    ),
  );
}

/** The file's parts in order; neighbours that are read together are one. Undefined when no tensor is in the folder. */
export function planAssembly(
  file: TensorFile,
  remote: StreamSource,
  local: LocalTensors,
): { readonly ranges: readonly StreamRange[]; readonly fetchedBytes: number } | undefined {
  const headerBytes = file.tensors[0]?.offset ?? file.bytes;
  const ranges: StreamRange[] = [{ ...remote, offset: 0, bytes: headerBytes }];
  for (const { digest, offset, bytes } of file.tensors) {
    if (bytes === 0) continue;
    const found = local.get(digest);
    const next = found?.bytes === bytes ? found : { ...remote, offset, bytes };
    const last = ranges.at(-1);
    const isNeighbour = last?.store === next.store && last.key === next.key && last.offset + last.bytes === next.offset;
    if (isNeighbour) ranges[ranges.length - 1] = { ...last, bytes: last.bytes + bytes };
    else ranges.push(next);
  }
  const fetched = ranges.filter(({ store }) => store === remote.store);
  if (fetched.length === ranges.length) return undefined;
  return { ranges, fetchedBytes: fetched.reduce((sum, { bytes }) => sum + bytes, 0) };
}

/**
 * Writes the file into the folder, over what was there under its name. Throws YardFileCorrupt when a part is not what
 * its digest says, and then leaves the folder as it was; and what the stores throw.
 */
export async function assembleFile(
  folder: ObjectStore,
  file: ListedFile,
  ranges: readonly StreamRange[],
  signal: AbortSignal,
): Promise<void> {
  const where = { store: folder.uri, key: file.name };
  const pieces = verifyPieces(readRanges(ranges, signal), file, where);
  await writeObject(folder, file.name, pieces, file.bytes, { signal });
}
