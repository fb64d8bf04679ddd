// Large objects in S3: a multipart upload whose part numbers follow from the ticket, so that any thread or process can
// upload its region. The ticket's token is the upload id. An object of one region of at most 8 MiB is different: while
// it stays in the store that began it, its bytes wait in memory and one PutObject writes it; when another thread writes
// the region, that thread begins the upload and its receipt carries the upload id, as a part numbered 0.
import { createHash, randomUUID } from "node:crypto";
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { hasCode } from "../core/error.ts";
import { tooLarge, unknownTicket } from "./errors.ts";
import { assertRegions, checkReceipts, regionMismatch, regionOf } from "./regions.ts";
import { withRetries } from "./retry.ts";
import { type Bucket, fullKey, headObject, request, unexpected } from "./s3-client.ts";
import { readETag, writeETag } from "./s3-dialect.ts";
import { OBJECT_BYTES_MAX, planParts, SINGLE_PUT_BYTES_MAX } from "./s3-parts.ts";
import type { ObjectInfo, Region, RegionReceipt, RegionWriter, WriteTicket } from "./store.ts";

const SINGLE = "single:";
/** How the token of a multipart upload begins; its id follows. */
export const MULTIPART = "multipart:";

/** A part of an upload: its number from 1 on, and its ETag without quotes. */
export type UploadedPart = RegionReceipt["parts"][number];

export async function beginUpload(
  bucket: Bucket,
  key: string,
  bytes: number,
  regions: readonly Region[],
  signal: AbortSignal | undefined,
): Promise<WriteTicket> {
  assertRegions(bytes, regions);
  if (bytes > OBJECT_BYTES_MAX) throw tooLarge(bucket.uri, key, bytes, OBJECT_BYTES_MAX);
  if (regions.length <= 1 && bytes <= SINGLE_PUT_BYTES_MAX) {
    const token = `${SINGLE}${randomUUID()}`;
    bucket.singles.set(token, new Uint8Array(bytes));
    return { key, bytes, regions, token };
  }
  return { key, bytes, regions, token: MULTIPART + (await createUpload(bucket, key, signal)) };
}

/** Begins a multipart upload; its id. */
export async function createUpload(bucket: Bucket, key: string, signal: AbortSignal | undefined): Promise<string> {
  const command = new CreateMultipartUploadCommand({ Bucket: bucket.name, Key: fullKey(bucket, key) });
  const { UploadId } = await request(bucket, key, signal, (o) => bucket.client.send(command, o));
  if (UploadId === undefined) throw unexpected(bucket, key, "an answer without an upload id");
  return UploadId;
}

export async function openUploadRegion(
  bucket: Bucket,
  ticket: WriteTicket,
  index: number,
  signal: AbortSignal | undefined,
): Promise<RegionWriter> {
  const region = regionOf(ticket, index);
  if (ticket.token.startsWith(MULTIPART)) {
    const parts = planParts(ticket.bytes, ticket.regions)[index];
    if (parts === undefined) throw regionMismatch(ticket, index, 0);
    const upload = ticket.token.slice(MULTIPART.length);
    const put = (number: number, bytes: Uint8Array) => uploadPart(bucket, ticket.key, upload, number, bytes, signal);
    return createPartWriter(ticket, index, parts.firstPart, parts.partBytes, put);
  }
  if (!ticket.token.startsWith(SINGLE)) throw unknownTicket(bucket.uri, ticket);
  const waiting = bucket.singles.get(ticket.token);
  if (waiting === "finished") throw unknownTicket(bucket.uri, ticket);
  if (waiting !== undefined) return createBufferWriter(ticket, index, waiting);
  let upload = "";
  const put = async (number: number, bytes: Uint8Array) => {
    upload = await withRetries(bucket.policy, signal, () => createUpload(bucket, ticket.key, signal));
    return await uploadPart(bucket, ticket.key, upload, number, bytes, signal);
  };
  const writer = createPartWriter(ticket, index, 1, region.bytes, put);
  const close = async () => {
    const { parts } = await writer.close();
    return { index, parts: [{ number: 0, etag: upload }, ...parts] };
  };
  return { write: (bytes) => writer.write(bytes), close };
}

async function uploadPart(
  bucket: Bucket,
  key: string,
  upload: string,
  number: number,
  bytes: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<UploadedPart> {
  const input = { Bucket: bucket.name, Key: fullKey(bucket, key), UploadId: upload, PartNumber: number, Body: bytes };
  const { ETag } = await withRetries(bucket.policy, signal, () => {
    return request(bucket, key, signal, (o) => bucket.client.send(new UploadPartCommand(input), o));
  });
  return { number, etag: readETag(ETag) };
}

function createBufferWriter(ticket: WriteTicket, index: number, buffer: Uint8Array): RegionWriter {
  let written = 0;
  return {
    async write(bytes) {
      if (written + bytes.byteLength > buffer.byteLength) {
        throw regionMismatch(ticket, index, written + bytes.byteLength);
      }
      buffer.set(bytes, written);
      written += bytes.byteLength;
    },
    async close() {
      if (written !== buffer.byteLength) throw regionMismatch(ticket, index, written);
      return { index, parts: [] };
    },
  };
}

/** Collects bytes into parts; one part is uploaded while the next is filled. */
function createPartWriter(
  ticket: WriteTicket,
  index: number,
  firstPart: number,
  partBytes: number,
  put: (number: number, bytes: Uint8Array) => Promise<UploadedPart>,
): RegionWriter {
  const region = regionOf(ticket, index);
  const parts: UploadedPart[] = [];
  let [filling, spare]: [Uint8Array, Uint8Array | undefined] = [new Uint8Array(partBytes), undefined];
  let [filled, written] = [0, 0];
  let inFlight: Promise<UploadedPart> | undefined;
  const settle = async () => {
    const part = await inFlight;
    inFlight = undefined;
    if (part !== undefined) parts.push(part);
  };
  const flush = async () => {
    await settle();
    const body = filling.subarray(0, filled);
    inFlight = put(firstPart + parts.length, body);
    // Its failure is met by `settle`; until then it must not count as unhandled.
    inFlight.catch(() => undefined);
    [filling, spare] = [spare ?? new Uint8Array(Math.min(partBytes, region.bytes - written)), filling];
    filled = 0;
  };
  return {
    async write(bytes) {
      if (written + bytes.byteLength > region.bytes) throw regionMismatch(ticket, index, written + bytes.byteLength);
      for (let done = 0; done < bytes.byteLength; ) {
        const count = Math.min(bytes.byteLength - done, partBytes - filled);
        filling.set(bytes.subarray(done, done + count), filled);
        filled += count;
        done += count;
        written += count;
        if (filled === partBytes && written < region.bytes) await flush();
      }
    },
    async close() {
      if (written !== region.bytes) throw regionMismatch(ticket, index, written);
      await flush();
      await settle();
      return { index, parts };
    },
  };
}

export async function finishUpload(
  bucket: Bucket,
  ticket: WriteTicket,
  receipts: readonly RegionReceipt[],
  signal: AbortSignal | undefined,
): Promise<ObjectInfo> {
  checkReceipts(ticket, receipts);
  const parts = receipts.flatMap((receipt) => receipt.parts).sort((a, b) => a.number - b.number);
  if (ticket.token.startsWith(MULTIPART)) {
    await completeUpload(bucket, ticket, ticket.token.slice(MULTIPART.length), parts, signal);
  } else if (parts[0]?.number === 0) {
    await completeUpload(bucket, ticket, parts[0].etag, parts.slice(1), signal);
  } else {
    await putSingle(bucket, ticket, signal);
  }
  const info = await headObject(bucket, ticket.key, signal);
  if (info === undefined) throw unexpected(bucket, ticket.key, "nothing where an object was written");
  return info;
}

async function putSingle(bucket: Bucket, ticket: WriteTicket, signal: AbortSignal | undefined): Promise<void> {
  const waiting = bucket.singles.get(ticket.token);
  if (waiting === undefined) throw unknownTicket(bucket.uri, ticket);
  if (waiting === "finished") return;
  const input = { Bucket: bucket.name, Key: fullKey(bucket, ticket.key), Body: waiting };
  await request(bucket, ticket.key, signal, (o) => bucket.client.send(new PutObjectCommand(input), o));
  bucket.singles.set(ticket.token, "finished");
}

/** Makes one object of an upload's parts, which come in order. Repeating it after its success does nothing. */
export async function completeUpload(
  bucket: Bucket,
  { key, bytes }: Pick<WriteTicket, "key" | "bytes">,
  upload: string,
  parts: readonly UploadedPart[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const command = new CompleteMultipartUploadCommand({
    Bucket: bucket.name,
    Key: fullKey(bucket, key),
    UploadId: upload,
    MultipartUpload: {
      Parts: parts.map(({ number, etag }) => ({ PartNumber: number, ETag: writeETag(bucket.dialect, etag) })),
    },
  });
  try {
    await request(bucket, key, signal, (o) => bucket.client.send(command, o));
  } catch (error) {
    // The upload is over: perhaps because an earlier attempt completed it and its answer was lost.
    if (!isOver(error)) throw error;
    const info = await headObject(bucket, key, signal);
    if (info?.etag !== etagOfParts(parts) || info.bytes !== bytes) throw error;
  }
}

/** md5(md5 of part 1, md5 of part 2, …)-count: the ETag that S3 gives an object of parts. */
function etagOfParts(parts: readonly UploadedPart[]): string {
  const hash = createHash("md5");
  for (const part of parts) hash.update(Buffer.from(part.etag, "hex"));
  return `${hash.digest("hex")}-${parts.length}`;
}

export async function abortUpload(bucket: Bucket, ticket: WriteTicket): Promise<void> {
  if (ticket.token.startsWith(MULTIPART)) {
    await abortMultipart(bucket, ticket.key, ticket.token.slice(MULTIPART.length));
    return;
  }
  if (!ticket.token.startsWith(SINGLE)) return;
  const waiting = bucket.singles.get(ticket.token);
  if (waiting === "finished") return;
  bucket.singles.delete(ticket.token);
  // Another thread may have begun the upload, whose id only its lost receipt knew. The key is the caller's alone.
  const Prefix = fullKey(bucket, ticket.key);
  const command = new ListMultipartUploadsCommand({ Bucket: bucket.name, Prefix });
  const found = await request(bucket, ticket.key, undefined, (o) => bucket.client.send(command, o));
  for (const { Key, UploadId } of found.Uploads ?? []) {
    if (Key === Prefix && UploadId !== undefined) await abortMultipart(bucket, ticket.key, UploadId);
  }
}

/** Aborts an upload; no error when it is over already. */
export async function abortMultipart(bucket: Bucket, key: string, upload: string): Promise<void> {
  const input = { Bucket: bucket.name, Key: fullKey(bucket, key), UploadId: upload };
  try {
    await request(bucket, key, undefined, (o) => bucket.client.send(new AbortMultipartUploadCommand(input), o));
  } catch (error) {
    if (!isOver(error)) throw error;
  }
}

/** True when an upload is no more: completed, aborted or never begun. */
function isOver(error: unknown): boolean {
  return hasCode(error, "StoreTicketInvalid");
}
