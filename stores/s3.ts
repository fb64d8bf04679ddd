// The object store in an S3 bucket, on AWS's own client. Conditions are used on small PutObject requests alone, which
// every server we support honours; large objects are multipart uploads under keys that one unit owns. The client makes
// one attempt per request: `openStore` puts the retry wrapper around this store. Parts: client and HEAD (s3-client.ts),
// regions (s3-regions.ts), errors (s3-errors.ts), part sizes (s3-parts.ts), servers (s3-dialect.ts).
import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { setFlagsFromString } from "node:v8";
import {
  CopyObjectCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  type ListObjectsV2CommandOutput,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import { checkKey, checkPrefix, RESERVED_SEGMENT } from "../core/artifact/key.ts";
import { hasCode, MergeyardError } from "../core/error.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import { objectMissing, shortRead, tooLarge } from "./errors.ts";
import { DEFAULT_RETRY_POLICY, type RetryPolicy, withRetries } from "./retry.ts";
import {
  type Bucket,
  fullKey,
  headObject,
  headWithId,
  isListedMissing,
  request,
  toSeconds,
  unexpected,
  WRITE_ID,
} from "./s3-client.ts";
import { copyInParts } from "./s3-copy.ts";
import { readETag, type S3Dialect, writeETag } from "./s3-dialect.ts";
import { isConditionFailure, isMissing, toS3Error } from "./s3-errors.ts";
import { recoverUpload } from "./s3-recover.ts";
import { abortUpload, beginUpload, finishUpload, openUploadRegion } from "./s3-regions.ts";
import type {
  ConditionalOptions,
  CreateResult,
  ObjectInfo,
  ObjectStore,
  ReplaceResult,
  StoredObject,
} from "./store.ts";

export type S3StoreOptions = {
  readonly bucket: string;
  /** Keys live under this path; "" is the whole bucket. */
  readonly prefix: string;
  readonly dialect: S3Dialect;
  /** Another server than AWS's: `http://host:port`. */
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
  /** Instead of what the client finds by itself (environment, profile, role). */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string } | undefined;
  readonly policy?: RetryPolicy | undefined;
  /** Milliseconds without a byte after which a connection counts as dead. */
  readonly idleMs?: number | undefined;
};

/** Milliseconds to wait for a connection. Too low: far regions fail; too high: a wrong endpoint is noticed late. */
const CONNECT_MS = 10_000;
/** Milliseconds of silence; completing a large upload is the longest that servers are silent. */
const IDLE_MS = 60_000;
/** Connections of one store. A connection carries about 85 MB/s; 16 threads keep a few each. */
const CONNECTIONS_MAX = 128;

// Memory outside the heap counts as much as memory in it: what arrives and leaves began a collection of the whole heap
// every few megabytes, for half of the processor time of a merge from S3. It begins now when half of the room is used
// that the last one left. For the whole process, which is why it stands here, where only those come that talk to S3.
setFlagsFromString("--incremental-marking-soft-trigger=50");

/** The store under a prefix of a bucket. Makes no request. */
export function createS3Store(options: S3StoreOptions): ObjectStore {
  const prefix = options.prefix.replace(/\/$/, "");
  if (prefix !== "") checkKey(prefix);
  const bucket: Bucket = {
    client: createClient(options),
    name: options.bucket,
    prefix: prefix === "" ? "" : `${prefix}/`,
    uri: `s3://${options.bucket}${prefix === "" ? "" : `/${prefix}`}`,
    dialect: options.dialect,
    policy: options.policy ?? DEFAULT_RETRY_POLICY,
    singles: new Map(),
    isKnown: false,
  };
  return Object.freeze({
    uri: bucket.uri,
    isLocal: false,
    head: async (key, o) => headObject(bucket, key, o?.signal),
    readInto: async (key, offset, into, o) => readRange(bucket, key, offset, into, o?.signal),
    get: async (key, limitBytes, o) => getObject(bucket, key, limitBytes, o?.signal),
    list: (keyPrefix, o) => listObjects(bucket, keyPrefix, o?.signal),
    create: async (key, bytes, o) => createObject(bucket, key, bytes, o),
    replace: async (key, bytes, etag, o) => replaceObject(bucket, key, bytes, etag, o),
    beginWrite: async (key, bytes, regions, o) => beginUpload(bucket, checkKey(key), bytes, regions, o?.signal),
    openRegion: async (ticket, index, o) => openUploadRegion(bucket, ticket, index, o?.signal),
    finishWrite: async (ticket, receipts, o) => finishUpload(bucket, ticket, receipts, o?.signal),
    recoverRegions: async (ticket, o) => recoverUpload(bucket, ticket, o?.signal),
    abortWrite: async (ticket) => abortUpload(bucket, ticket),
    copy: async (sourceKey, targetKey, o) => copyObject(bucket, sourceKey, targetKey, o?.signal),
    async delete(key, o) {
      const input = { Bucket: bucket.name, Key: fullKey(bucket, key) };
      await request(bucket, key, o?.signal, (ro) => bucket.client.send(new DeleteObjectCommand(input), ro));
    },
  } satisfies ObjectStore);
}

function createClient(options: S3StoreOptions): S3Client {
  const agent = { keepAlive: true, maxSockets: CONNECTIONS_MAX };
  const { dialect } = options;
  return new S3Client({
    maxAttempts: 1,
    requestChecksumCalculation: dialect.checksums,
    responseChecksumValidation: dialect.checksums,
    forcePathStyle: dialect.forcePathStyle,
    // A bucket in another region than configured is found by the redirect that S3 answers.
    followRegionRedirects: options.endpoint === undefined,
    requestHandler: {
      connectionTimeout: CONNECT_MS,
      socketTimeout: options.idleMs ?? IDLE_MS,
      httpAgent: agent,
      httpsAgent: agent,
    },
    ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
    ...(options.region === undefined ? {} : { region: options.region }),
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
  });
}

async function readRange(
  bucket: Bucket,
  key: string,
  offset: number,
  into: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<void> {
  assert.ok(Number.isSafeInteger(offset) && offset >= 0, `offset ${offset}`);
  if (into.byteLength === 0) {
    if ((await headObject(bucket, key, signal)) === undefined) throw objectMissing(bucket.uri, key);
    return;
  }
  const Range = `bytes=${offset}-${offset + into.byteLength - 1}`;
  const command = new GetObjectCommand({ Bucket: bucket.name, Key: fullKey(bucket, key), Range });
  const found = await request(bucket, key, signal, (o) => bucket.client.send(command, o)).catch((error: unknown) => {
    throw hasCode(error, "StoreShortRead") ? shortRead(bucket.uri, key, offset, 0, into.byteLength) : error;
  });
  const body = openBody(bucket, key, found.Body);
  const length = found.ContentLength;
  // Without Content-Range the server ignored the range and sends the object from its start.
  const isRange = found.ContentRange?.startsWith(`bytes ${offset}-`) ?? (offset === 0 && length === into.byteLength);
  if (!isRange || length === undefined || length > into.byteLength) {
    body.destroy();
    throw unexpected(bucket, key, `a range ${found.ContentRange ?? "ignored"} for ${Range}`);
  }
  if (length < into.byteLength) {
    body.destroy();
    throw shortRead(bucket.uri, key, offset, length, into.byteLength);
  }
  await fill(bucket, key, body, into, signal);
}

/** Copies a body into memory, exactly. A connection that breaks before the end is StoreUnavailable. */
async function fill(
  bucket: Bucket,
  key: string,
  body: Readable,
  into: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<void> {
  let filled = 0;
  try {
    for await (const chunk of body) {
      assert.ok(chunk instanceof Uint8Array, "a binary stream");
      if (filled + chunk.byteLength > into.byteLength) throw unexpected(bucket, key, "more bytes than announced");
      into.set(chunk, filled);
      filled += chunk.byteLength;
      freeChunk(chunk);
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw toS3Error(error, bucket.uri, key);
  }
  if (filled < into.byteLength) {
    const found = `${filled} of ${into.byteLength} bytes announced`;
    throw new MergeyardError("StoreUnavailable", { where: { store: bucket.uri, file: key }, found });
  }
}

/**
 * Gives the memory of a chunk that was copied back at once, 64 KiB as a rule, instead of waiting for its collection.
 * Only a chunk that is the whole of its memory is nobody else's.
 */
function freeChunk({ buffer, byteLength }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0);
}

function openBody(bucket: Bucket, key: string, body: unknown): Readable {
  if (!(body instanceof Readable)) throw unexpected(bucket, key, "an answer without a body");
  return body;
}

async function getObject(
  bucket: Bucket,
  key: string,
  limitBytes: number,
  signal: AbortSignal | undefined,
): Promise<StoredObject | undefined> {
  const command = new GetObjectCommand({ Bucket: bucket.name, Key: fullKey(bucket, key) });
  const sent = request(bucket, key, signal, (o) => bucket.client.send(command, o));
  const found = await sent.catch(async (error: unknown) => {
    if (isMissing(error)) return undefined;
    if (await isListedMissing(bucket, key, error, signal)) return undefined;
    throw error;
  });
  if (found === undefined) return undefined;
  const body = openBody(bucket, key, found.Body);
  const length = found.ContentLength;
  if (length === undefined || length > limitBytes) {
    body.destroy();
    if (length === undefined) throw unexpected(bucket, key, "an answer without a length");
    throw tooLarge(bucket.uri, key, length, limitBytes);
  }
  const bytes = new Uint8Array(length);
  await fill(bucket, key, body, bytes, signal);
  return { bytes, etag: readETag(found.ETag) };
}

async function* listObjects(
  bucket: Bucket,
  keyPrefix: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<ObjectInfo> {
  checkPrefix(keyPrefix);
  let token: string | undefined;
  let last = Buffer.alloc(0);
  do {
    const page: ListObjectsV2CommandOutput = await withRetries(bucket.policy, signal, () => {
      const input = { Bucket: bucket.name, Prefix: bucket.prefix + keyPrefix, ContinuationToken: token };
      return request(bucket, keyPrefix, signal, (o) => bucket.client.send(new ListObjectsV2Command(input), o));
    });
    for (const item of page.Contents ?? []) {
      const key = (item.Key ?? "").slice(bucket.prefix.length);
      // Consoles make empty objects named like folders.
      if (key.endsWith("/") && item.Size === 0) continue;
      if (bucket.prefix + key === bucket.prefix || key.startsWith(`${RESERVED_SEGMENT}/`)) continue;
      const order = Buffer.from(checkKey(key));
      if (Buffer.compare(order, last) <= 0) throw unexpected(bucket, key, "a listing that is not in the order of keys");
      last = order;
      yield { key, bytes: item.Size ?? 0, etag: readETag(item.ETag), modifiedMs: toSeconds(item.LastModified) };
    }
    token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    if (page.IsTruncated === true && token === undefined)
      throw unexpected(bucket, keyPrefix, "a page without a next one");
  } while (token !== undefined);
}

type Condition = { readonly IfNoneMatch: "*" } | { readonly IfMatch: string };

/** The ETag written; undefined when the condition did not hold. */
async function putConditionally(
  bucket: Bucket,
  key: string,
  bytes: Uint8Array,
  condition: Condition,
  options: ConditionalOptions | undefined,
): Promise<string | undefined> {
  if (bytes.byteLength > STORE_LIMITS.conditionalBytes) {
    throw tooLarge(bucket.uri, key, bytes.byteLength, STORE_LIMITS.conditionalBytes);
  }
  const Metadata = options?.writeId === undefined ? {} : { [WRITE_ID]: options.writeId };
  const input = { Bucket: bucket.name, Key: fullKey(bucket, key), Body: bytes, Metadata, ...condition };
  try {
    const command = new PutObjectCommand(input);
    const { ETag } = await request(bucket, key, options?.signal, (o) => bucket.client.send(command, o));
    return readETag(ETag);
  } catch (error) {
    if (isConditionFailure(error) || isMissing(error)) return undefined;
    throw error;
  }
}

async function createObject(
  bucket: Bucket,
  key: string,
  bytes: Uint8Array,
  options: ConditionalOptions | undefined,
): Promise<CreateResult> {
  const etag = await putConditionally(bucket, key, bytes, { IfNoneMatch: "*" }, options);
  if (etag !== undefined) return { created: true, etag };
  const there = await headWithId(bucket, key, options?.signal);
  // Deleted between the two requests: whether to create it is decided anew.
  if (there === undefined) throw new MergeyardError("StoreConflict", { where: { store: bucket.uri, file: key } });
  return { created: isOwn(there.writeId, options), etag: there.info.etag };
}

async function replaceObject(
  bucket: Bucket,
  key: string,
  bytes: Uint8Array,
  etag: string,
  options: ConditionalOptions | undefined,
): Promise<ReplaceResult> {
  // What could not be an ETag of this server (it would not fit a header) matches nothing.
  const isPossible = /^[\x21\x23-\x7e]+$/.test(etag);
  const condition = { IfMatch: writeETag(bucket.dialect, isPossible ? etag : "none") };
  const written = await putConditionally(bucket, key, bytes, condition, options);
  if (written !== undefined) return { replaced: true, etag: written };
  const there = await headWithId(bucket, key, options?.signal);
  return { replaced: isOwn(there?.writeId, options), etag: there?.info.etag ?? "" };
}

/** True when an earlier attempt of this very write made the object, its answer lost. */
function isOwn(writeId: string | undefined, options: ConditionalOptions | undefined): boolean {
  return writeId !== undefined && writeId === options?.writeId;
}

async function copyObject(
  bucket: Bucket,
  sourceKey: string,
  targetKey: string,
  signal: AbortSignal | undefined,
): Promise<ObjectInfo> {
  const [from, to] = [fullKey(bucket, sourceKey), fullKey(bucket, targetKey)];
  const source = await headObject(bucket, sourceKey, signal);
  if (source === undefined) throw objectMissing(bucket.uri, sourceKey);
  if (from === to) return source;
  const CopySource = `${bucket.name}/${from.split("/").map(encodeURIComponent).join("/")}`;
  if (source.bytes > bucket.dialect.copyBytesMax) {
    await copyInParts(bucket, source, CopySource, targetKey, signal);
  } else {
    const command = new CopyObjectCommand({ Bucket: bucket.name, Key: to, CopySource });
    await request(bucket, sourceKey, signal, (o) => bucket.client.send(command, o));
  }
  const info = await headObject(bucket, targetKey, signal);
  if (info === undefined) throw unexpected(bucket, targetKey, "nothing where an object was copied");
  return info;
}
