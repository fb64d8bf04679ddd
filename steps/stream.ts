// Streaming one object with bounded memory: reads ahead by one piece while the piece before is digested or copied.
// Adopting, pulling, verifying and converting go through here; merging has the engine.
import { createHasher, createPartHasher, digestTensorFile } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import type { BlockFile, TensorFile } from "../core/plan/receipt.ts";
import { writeObject } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";

/**
 * Bytes of one piece. Two are held at a time. Large enough that a ranged read of an object store is mostly transfer,
 * small enough that many workers fit in one machine; it never changes a digest.
 */
const PIECE_BYTES = 8 * 1024 * 1024;

/** Files that are streamed side by side by one process; each holds a few pieces. */
export const STREAMS_IN_FLIGHT = 4;

/** An object as the streaming functions see it. */
export type StreamSource = { readonly store: ObjectStore; readonly key: string; readonly bytes: number };

/**
 * The bytes of [start, source.bytes) in order, piece by piece; a piece is only valid until the next is asked for.
 * Throws what the store throws (StoreObjectMissing, StoreShortRead) and the signal's reason. Memory: 2 pieces.
 */
export async function* readPieces(source: StreamSource, signal: AbortSignal, start = 0): AsyncGenerator<Uint8Array> {
  const pieceBytes = Math.min(PIECE_BYTES, source.bytes - start);
  const buffers = [new Uint8Array(pieceBytes), new Uint8Array(source.bytes - start > pieceBytes ? pieceBytes : 0)];
  const read = async (offset: number, turn: number): Promise<Uint8Array> => {
    const piece = (buffers[turn % 2] ?? new Uint8Array(0)).subarray(0, Math.min(pieceBytes, source.bytes - offset));
    await source.store.readInto(source.key, offset, piece, { signal });
    return piece;
  };
  if (source.bytes === start) return;
  let ahead = read(start, 0);
  for (let offset = start, turn = 0; offset < source.bytes; offset += pieceBytes, turn += 1) {
    const piece = await ahead;
    signal.throwIfAborted();
    if (offset + pieceBytes < source.bytes) {
      ahead = read(offset + pieceBytes, turn + 1);
      ahead.catch(() => undefined); // awaited by the next turn, or dropped when the reader stops before
    }
    yield piece;
  }
}

/** A file as a manifest, a receipt or a universal checkpoint lists it: with parts when it holds tensors. */
export type ListedFile = { readonly name: string; readonly bytes: number; readonly digest: string } & Partial<
  Pick<TensorFile, "headerDigest" | "tensors"> & Pick<BlockFile, "blocks">
>;

/** What follows the header: tensors, or quantized ones with the zeros behind each. */
function partsOf({ tensors, blocks }: ListedFile) {
  return tensors ?? blocks;
}

/** Sizes of the parts that the file's digest is made of: the header and each tensor, or the whole file. */
function partSizes(file: ListedFile): readonly number[] {
  const parts = partsOf(file);
  if (parts === undefined) return [file.bytes];
  const tensorBytes = parts.map((tensor) => tensor.bytes);
  return [file.bytes - tensorBytes.reduce((sum, bytes) => sum + bytes, 0), ...tensorBytes];
}

/** Checks the bytes of a listed file as they pass. */
type FileVerifier = { update(piece: Uint8Array): void; finish(): void };

/**
 * A verifier of a listed file: feed it every byte in order, then `finish`.
 * Throws YardFileCorrupt naming the first tensor whose bytes differ (or the header, or the file).
 */
export function createFileVerifier(
  file: ListedFile,
  where: { readonly store: string; readonly key: string },
): FileVerifier {
  const hasher = createPartHasher(partSizes(file));
  return {
    update: (piece) => hasher.update(piece),
    finish() {
      const [first = "", ...others] = hasher.digests();
      const place = { store: where.store, file: where.key };
      const refuse = (found: string, expected: string, tensor?: string): never => {
        throw new MergeyardError("YardFileCorrupt", { where: { ...place, tensor }, found, expected });
      };
      const parts = partsOf(file);
      if (parts === undefined || file.headerDigest === undefined) {
        if (first !== file.digest) refuse(first, file.digest);
        return;
      }
      if (first !== file.headerDigest) refuse(`header ${first}`, `header ${file.headerDigest}`);
      parts.forEach((tensor, index) => {
        if (others[index] !== tensor.digest) refuse(others[index] ?? "nothing", tensor.digest, tensor.name);
      });
      const whole = digestTensorFile(first, others);
      if (whole !== file.digest) refuse(whole, file.digest);
    },
  };
}

/** Reads a file and checks it against its listing. Throws YardFileCorrupt, or what the store throws. */
export async function verifyFile(
  source: StreamSource,
  file: ListedFile,
  signal: AbortSignal,
  took?: (bytes: number) => void,
): Promise<void> {
  const where = { store: source.store.uri, key: source.key };
  if (source.bytes !== file.bytes) {
    throw new MergeyardError("YardFileCorrupt", {
      where: { store: where.store, file: where.key },
      found: `${source.bytes} bytes`,
      expected: `${file.bytes} bytes`,
    });
  }
  for await (const _ of verifiedPieces(source, file, signal, took));
}

/** The file's pieces; ends with YardFileCorrupt instead of silently when they are not what the listing says. */
async function* verifiedPieces(
  source: StreamSource,
  file: ListedFile,
  signal: AbortSignal,
  took?: (bytes: number) => void,
): AsyncGenerator<Uint8Array> {
  const verifier = createFileVerifier(file, { store: source.store.uri, key: source.key });
  for await (const piece of readPieces(source, signal)) {
    verifier.update(piece);
    yield piece;
    took?.(piece.length);
  }
  verifier.finish();
}

/**
 * Copies a file to another store, checking it against its listing on the way; whole and right at the target, or not
 * there. Throws YardFileCorrupt, or what the stores throw.
 */
export async function copyVerified(
  source: StreamSource,
  target: { readonly store: ObjectStore; readonly key: string },
  file: ListedFile,
  signal: AbortSignal,
  took?: (bytes: number) => void,
): Promise<void> {
  const pieces = verifiedPieces(source, file, signal, took);
  await writeObject(target.store, target.key, pieces, file.bytes, { signal });
}

/**
 * Puts a file under another key: by the store itself within one store, else as a stream that is checked on the way.
 * Returns the bytes that went through this process.
 */
export async function putFile(
  source: StreamSource,
  target: { readonly store: ObjectStore; readonly key: string },
  file: ListedFile,
  signal: AbortSignal,
): Promise<number> {
  if (source.store.uri === target.store.uri) {
    await target.store.copy(source.key, target.key, { signal });
    return 0;
  }
  await copyVerified(source, target, file, signal);
  return file.bytes;
}

/** Digest of a plain file's bytes. */
export async function digestFile(source: StreamSource, signal: AbortSignal): Promise<string> {
  const hasher = createHasher();
  for await (const piece of readPieces(source, signal)) hasher.update(piece);
  return hasher.digest();
}

/** True when the object under a key is there and is the listed file; false when it is missing or damaged. */
export async function fileIsWhole(
  store: ObjectStore,
  key: string,
  file: ListedFile,
  signal: AbortSignal,
): Promise<boolean> {
  const info = await store.head(key, { signal });
  if (info === undefined) return false;
  try {
    await verifyFile({ store, key, bytes: info.bytes }, file, signal);
    return true;
  } catch (cause) {
    if (cause instanceof MergeyardError && cause.code === "YardFileCorrupt") return false;
    throw cause;
  }
}
