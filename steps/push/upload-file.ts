// Uploading one file by regions: read once, in order, and digested; several regions are on their way at a time, each in
// its own bounded buffer. What an earlier push has put in the yard already is read for the digest and not sent again.
import { createHasher } from "../../core/artifact/digest.ts";
import { hasCode } from "../../core/error.ts";
import { writeObject } from "../../stores/objects.ts";
import type { ObjectPlace, WriteTicket } from "../../stores/store.ts";
import { createSender, cutRegions, recoverWrite } from "../region-sender.ts";
import { readPieces, type StreamSource } from "../stream.ts";
import { sourceChanged } from "./upload-snapshot.ts";

export type FileUpload = {
  readonly source: StreamSource;
  /** At which the source was found. */
  readonly etag: string;
  readonly target: ObjectPlace;
  /** The large object that an earlier push began. */
  readonly ticket: WriteTicket | undefined;
  /** Called before any byte of a file of several regions is sent: whoever goes on later needs the ticket. */
  readonly begun: (ticket: WriteTicket) => Promise<void>;
  readonly signal: AbortSignal;
  /** Told of bytes that were read, and of those that were sent. */
  readonly took: (bytesRead: number, bytesSent: number) => void;
};

/**
 * Digest of the file's bytes, all of which are in the yard. Throws StoreObjectChanged when the source is not what it
 * was, before the object appears; and what the stores throw. After a failure the large object waits to be gone on with.
 */
export async function uploadFile(upload: FileUpload): Promise<string> {
  const { source, target, signal } = upload;
  const regions = cutRegions(source.bytes);
  if (regions.length < 2) return uploadWhole(upload);
  const found = await recoverWrite(target.store, upload.ticket, signal);
  const ticket = found?.ticket ?? (await target.store.beginWrite(target.key, source.bytes, regions, { signal }));
  if (found === undefined) await upload.begun(ticket);
  const receipts = new Map((found?.receipts ?? []).map((receipt) => [receipt.index, receipt]));
  const hasher = createHasher();
  const sender = createSender(target.store, ticket, receipts, signal);
  try {
    for await (const piece of sourcePieces(upload)) {
      hasher.update(piece);
      upload.took(piece.length, await sender.send(piece));
    }
  } finally {
    await sender.settle();
  }
  await checkSource(upload);
  await target.store.finishWrite(ticket, [...receipts.values()], { signal });
  return hasher.digest();
}

/** Digest of a file that is in the yard already, and was not changed since. */
export async function digestSource(upload: Pick<FileUpload, "source" | "etag" | "signal" | "took">): Promise<string> {
  const hasher = createHasher();
  for await (const piece of sourcePieces(upload)) {
    hasher.update(piece);
    upload.took(piece.length, 0);
  }
  await checkSource(upload);
  return hasher.digest();
}

async function uploadWhole(upload: FileUpload): Promise<string> {
  const { source, target, signal } = upload;
  const hasher = createHasher();
  const pieces = async function* () {
    for await (const piece of sourcePieces(upload)) {
      hasher.update(piece);
      yield piece;
      upload.took(piece.length, piece.length);
    }
    await checkSource(upload);
  };
  await writeObject(target.store, target.key, pieces(), source.bytes, { signal });
  return hasher.digest();
}

/** The source's pieces; that it is gone or shorter now means that it changed. */
async function* sourcePieces({ source, signal }: Pick<FileUpload, "source" | "signal">): AsyncGenerator<Uint8Array> {
  try {
    yield* readPieces(source, signal);
  } catch (cause) {
    if (hasCode(cause, "StoreObjectMissing")) throw sourceChanged(source.store, source.key, "no such file any more");
    throw hasCode(cause, "StoreShortRead") ? sourceChanged(source.store, source.key, "fewer bytes") : cause;
  }
}

async function checkSource({ source, etag, signal }: Pick<FileUpload, "source" | "etag" | "signal">): Promise<void> {
  const after = await source.store.head(source.key, { signal });
  if (after?.etag === etag) return;
  throw sourceChanged(source.store, source.key, after === undefined ? "no such file any more" : "other content");
}
