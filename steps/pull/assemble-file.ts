// Making a file of a version from what the folder holds already: tensors whose digests it knows are read from the files
// beside it, the rest by ranges from the yard. The whole is checked against its listing before it appears.
import type { TensorFile } from "../../core/plan/receipt.ts";
import { writeObject } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createFileVerifier } from "../stream.ts";

/** Bytes of one read; two are held at a time. */
const PIECE_BYTES = 8 * 1024 * 1024;

type Place = { readonly key: string; readonly offset: number; readonly bytes: number };

/** Where tensors of known digests lie in the folder. */
export type LocalTensors = ReadonlyMap<string, Place>;

/** The tensors of files that were checked, by digest. */
export function locateTensors(files: readonly TensorFile[]): LocalTensors {
  return new Map(
    files.flatMap(({ name, tensors }) =>
      tensors.map(({ digest, offset, bytes }) => [digest, { key: name, offset, bytes }] as const),
    ),
  );
}

type Segment = Place & { readonly isLocal: boolean };

/** The file's parts in order; neighbours that are read together are one. Undefined when no tensor is in the folder. */
export function planAssembly(
  file: TensorFile,
  remoteKey: string,
  local: LocalTensors,
): { readonly segments: readonly Segment[]; readonly fetchedBytes: number } | undefined {
  const headerBytes = file.tensors[0]?.offset ?? file.bytes;
  const segments: Segment[] = [{ key: remoteKey, offset: 0, bytes: headerBytes, isLocal: false }];
  for (const { digest, offset, bytes } of file.tensors) {
    if (bytes === 0) continue;
    const found = local.get(digest);
    const next =
      found?.bytes === bytes ? { ...found, isLocal: true } : { key: remoteKey, offset, bytes, isLocal: false };
    const last = segments.at(-1);
    const isNeighbour =
      last?.key === next.key && last.isLocal === next.isLocal && last.offset + last.bytes === next.offset;
    if (isNeighbour && last !== undefined) segments[segments.length - 1] = { ...last, bytes: last.bytes + bytes };
    else segments.push(next);
  }
  const fetched = segments.filter(({ isLocal }) => !isLocal).reduce((sum, { bytes }) => sum + bytes, 0);
  return segments.some(({ isLocal }) => isLocal) ? { segments, fetchedBytes: fetched } : undefined;
}

/**
 * Writes the file into the folder, over what was there under its name. Throws YardFileCorrupt when a part is not what
 * its digest says, and then leaves the folder as it was; and what the stores throw.
 */
export async function assembleFile(
  yard: ObjectStore,
  folder: ObjectStore,
  file: TensorFile,
  segments: readonly Segment[],
  signal: AbortSignal,
  took: (bytes: number) => void,
): Promise<void> {
  const verifier = createFileVerifier(file, { store: folder.uri, key: file.name });
  const pieces = async function* () {
    for await (const piece of readSegments(yard, folder, segments, signal)) {
      verifier.update(piece);
      yield piece;
      took(piece.length);
    }
    verifier.finish();
  };
  await writeObject(folder, file.name, pieces(), file.bytes, { signal });
}

/** Bytes of the segments in order; one read is under way while the piece before is used. */
async function* readSegments(
  yard: ObjectStore,
  folder: ObjectStore,
  segments: readonly Segment[],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const reads = segments.flatMap(({ bytes, offset, ...place }) =>
    Array.from({ length: Math.ceil(bytes / PIECE_BYTES) }, (_, index) => {
      const done = index * PIECE_BYTES;
      return { ...place, offset: offset + done, bytes: Math.min(PIECE_BYTES, bytes - done) };
    }),
  );
  const largest = Math.max(0, ...reads.map(({ bytes }) => bytes));
  const buffers = [new Uint8Array(largest), new Uint8Array(largest)];
  const read = async (turn: number): Promise<Uint8Array> => {
    const { key, offset, bytes, isLocal } = reads[turn] ?? { key: "", offset: 0, bytes: 0, isLocal: true };
    const into = (buffers[turn % 2] ?? new Uint8Array(bytes)).subarray(0, bytes);
    await (isLocal ? folder : yard).readInto(key, offset, into, { signal });
    return into;
  };
  let ahead = read(0);
  for (let turn = 0; turn < reads.length; turn += 1) {
    const piece = await ahead;
    signal.throwIfAborted();
    if (turn + 1 < reads.length) {
      ahead = read(turn + 1);
      ahead.catch(() => undefined); // awaited by the next turn, or dropped when the reader stops before
    }
    yield piece;
  }
}
