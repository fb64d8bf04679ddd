// Streaming one object with bounded memory: reads ahead by one piece while the piece before is digested or copied.
// Adopting, pulling, verifying and converting go through here; merging has the engine.
import { createHasher, createPartHasher, digestTensorFile } from "../core/artifact/digest.ts";
import { hasCode, MergeyardError } from "../core/error.ts";
import type { BlockFile, TensorFile } from "../core/plan/receipt.ts";
import { writeObject } from "../stores/objects.ts";
import type { ObjectPlace, ObjectStore } from "../stores/store.ts";

/**
 * Bytes of one piece. Two are held at a time. Large enough that a ranged read of an object store is mostly transfer,
 * small enough that many workers fit in one machine; it never changes a digest.
 */
const PIECE_BYTES = 8 * 1024 * 1024;

/** Files that are streamed side by side by one process; each holds a few pieces. */
export const STREAMS_IN_FLIGHT = 4;

/** An object as the streaming functions see it. */
export type StreamSource = ObjectPlace & { readonly bytes: number };

/** Bytes [offset, offset + bytes) of an object. */
export type StreamRange = StreamSource & { readonly offset: number };

/** The bytes of [start, source.bytes) in order, as `readRanges` gives them. */
export function readPieces(source: StreamSource, signal: AbortSignal, start = 0): AsyncGenerator<Uint8Array> {
  return readRanges([{ ...source, offset: start, bytes: source.bytes - start }], signal);
}

/**
 * The bytes of the ranges in order, piece by piece; a piece is only valid until the next is asked for.
 * Throws what the stores throw (StoreObjectMissing, StoreShortRead) and the signal's reason. Memory: 2 pieces.
 */
export async function* readRanges(ranges: readonly StreamRange[], signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const pieces = ranges.flatMap(cutPieces);
  const largest = pieces.reduce((most, { bytes }) => Math.max(most, bytes), 0);
  const buffers = [new Uint8Array(largest), new Uint8Array(pieces.length > 1 ? largest : 0)] as const;
  const read = async (turn: number): Promise<Uint8Array | undefined> => {
    const piece = pieces[turn];
    if (piece === undefined) return undefined;
    const into = buffers[turn % 2 === 0 ? 0 : 1].subarray(0, piece.bytes);
    await piece.store.readInto(piece.key, piece.offset, into, { signal });
    return into;
  };
  let ahead = read(0);
  for (let turn = 1; ; turn += 1) {
    const bytes = await ahead;
    if (bytes === undefined) return;
    signal.throwIfAborted();
    ahead = read(turn);
    ahead.catch(() => undefined); // awaited by the next turn, or dropped when the reader stops before
    yield bytes;
  }
}

function cutPieces({ store, key, offset, bytes }: StreamRange): readonly StreamRange[] {
  return Array.from({ length: Math.ceil(bytes / PIECE_BYTES) }, (_, index) => {
    const done = index * PIECE_BYTES;
    return { store, key, offset: offset + done, bytes: Math.min(PIECE_BYTES, bytes - done) };
  });
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
  for await (const _ of verifyPieces(readPieces(source, signal), file, where, took));
}

/** The pieces of a file; ends with YardFileCorrupt instead of silently when they are not what the listing says. */
export async function* verifyPieces(
  pieces: AsyncIterable<Uint8Array>,
  file: ListedFile,
  where: { readonly store: string; readonly key: string },
  took?: (bytes: number) => void,
): AsyncGenerator<Uint8Array> {
  const verifier = createFileVerifier(file, where);
  for await (const piece of pieces) {
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
  target: ObjectPlace,
  file: ListedFile,
  signal: AbortSignal,
  took?: (bytes: number) => void,
): Promise<void> {
  const where = { store: source.store.uri, key: source.key };
  const pieces = verifyPieces(readPieces(source, signal), file, where, took);
  await writeObject(target.store, target.key, pieces, file.bytes, { signal });
}

/**
 * Puts a file under another key: by the store itself within one store, else as a stream that is checked on the way.
 * Returns the bytes that went through this process.
 */
export async function putFile(
  source: StreamSource,
  target: ObjectPlace,
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
    if (hasCode(cause, "YardFileCorrupt")) return false;
    throw cause;
  }
}
