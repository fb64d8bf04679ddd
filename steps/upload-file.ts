// Uploading one file by regions: read once, in order, and digested; several regions are on their way at a time, each in
// its own bounded buffer. What an earlier push has put in the yard already is read for the digest and not sent again.
import { createHasher } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import { writeObject } from "../stores/objects.ts";
import type { ObjectStore, Region, RegionReceipt, RegionWriter, WriteTicket } from "../stores/store.ts";
import { readPieces, type StreamSource } from "./stream.ts";
import { sourceChanged } from "./upload-snapshot.ts";

/**
 * Bytes of a region of files up to 8 GiB. What is lost by a kill is a few of these; a store's smallest is 5 MiB.
 * A file of one region is written by one request.
 */
const REGION_BYTES = 8 * 1024 * 1024;

/** Regions of one file that are being closed while the next one is filled; each holds a part or two. */
const CLOSES_IN_FLIGHT = 3;

export type FileUpload = {
  readonly source: StreamSource;
  /** At which the source was found. */
  readonly etag: string;
  readonly target: { readonly store: ObjectStore; readonly key: string };
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
  const found = await recover(upload);
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
    if (!(cause instanceof MergeyardError)) throw cause;
    if (cause.code === "StoreObjectMissing") throw sourceChanged(source.store, source.key, "no such file any more");
    throw cause.code === "StoreShortRead" ? sourceChanged(source.store, source.key, "fewer bytes") : cause;
  }
}

async function checkSource({ source, etag, signal }: Pick<FileUpload, "source" | "etag" | "signal">): Promise<void> {
  const after = await source.store.head(source.key, { signal });
  if (after?.etag === etag) return;
  throw sourceChanged(source.store, source.key, after === undefined ? "no such file any more" : "other content");
}

/** Equal regions but the last, as many as the store takes at most. */
function cutRegions(bytes: number): readonly Region[] {
  const wanted = Math.ceil(bytes / STORE_LIMITS.regions / REGION_BYTES) * REGION_BYTES;
  const regionBytes = Math.max(REGION_BYTES, wanted);
  return Array.from({ length: Math.ceil(bytes / regionBytes) }, (_, index) => {
    const offset = index * regionBytes;
    return { offset, bytes: Math.min(regionBytes, bytes - offset) };
  });
}

async function recover({ ticket, target, signal }: FileUpload) {
  if (ticket === undefined) return undefined;
  try {
    return { ticket, receipts: await target.store.recoverRegions(ticket, { signal }) };
  } catch (cause) {
    // Removed meanwhile, by a rule of the bucket or by somebody who cleaned up: begun anew.
    if (cause instanceof MergeyardError && cause.code === "StoreTicketInvalid") return undefined;
    throw cause;
  }
}

type Sender = {
  /** Takes the file's next bytes; the number of them that had to be sent. */
  send(piece: Uint8Array): Promise<number>;
  /** Waits for what is on its way; rejects with the first failure, if none was met before. */
  settle(): Promise<void>;
};

/** Sends the regions that have no receipt yet, and puts their receipts with the others. */
function createSender(
  store: ObjectStore,
  ticket: WriteTicket,
  receipts: Map<number, RegionReceipt>,
  signal: AbortSignal,
): Sender {
  const closing: Promise<void>[] = [];
  let [index, filled] = [0, 0];
  let writer: RegionWriter | undefined;
  const close = async (open: RegionWriter) => {
    const receipt = await open.close();
    receipts.set(receipt.index, receipt);
  };
  const endRegion = async () => {
    if (writer !== undefined) {
      const closed = close(writer);
      closed.catch(() => undefined); // met below, or by `settle`
      closing.push(closed);
    }
    [index, filled, writer] = [index + 1, 0, undefined];
    if (closing.length > CLOSES_IN_FLIGHT) await closing.shift();
  };
  return {
    async send(piece) {
      let sent = 0;
      for (let done = 0; done < piece.length; ) {
        const bytes = Math.min(piece.length - done, (ticket.regions[index]?.bytes ?? 0) - filled);
        if (!receipts.has(index)) {
          writer ??= await store.openRegion(ticket, index, { signal });
          await writer.write(piece.subarray(done, done + bytes));
          sent += bytes;
        }
        done += bytes;
        filled += bytes;
        if (filled === ticket.regions[index]?.bytes) await endRegion();
      }
      return sent;
    },
    async settle() {
      await Promise.all(closing);
    },
  };
}
