// What all parts of the S3 store share: one attempt per request, errors of the table, keys under the store's prefix,
// and HEAD.
import { Readable } from "node:stream";
import {
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  type S3Client,
} from "@aws-sdk/client-s3";
import { checkKey } from "../core/artifact/key.ts";
import { hasCode, MergeyardError } from "../core/error.ts";
import type { RetryPolicy } from "./retry.ts";
import { readETag, type S3Dialect } from "./s3-dialect.ts";
import { isMissing, isUnexplained, toS3Error } from "./s3-errors.ts";
import type { ObjectInfo } from "./store.ts";

/** A store's place and the state it shares between calls. */
export type Bucket = {
  readonly client: S3Client;
  readonly name: string;
  /** "" or a path that ends in "/". */
  readonly prefix: string;
  readonly uri: string;
  readonly dialect: S3Dialect;
  /** For what this store repeats itself: parts of a region and pages of a listing. */
  readonly policy: RetryPolicy;
  /** Small objects being written here, by token. */
  readonly singles: Map<string, Uint8Array | "finished">;
  /** True once the bucket is known to exist; HEAD does not tell a missing object from a missing bucket. */
  isKnown: boolean;
};

/** The object's key in the bucket. Throws StoreKeyInvalid. */
export function fullKey(bucket: Bucket, key: string): string {
  checkKey(key);
  return bucket.prefix === "" ? key : checkKey(bucket.prefix + key);
}

type RequestOptions = { abortSignal?: AbortSignal };

/** One request about a key; failures become errors of the table, an abort the caller's own reason. */
export async function request<T>(
  bucket: Bucket,
  key: string,
  signal: AbortSignal | undefined,
  attempt: (options: RequestOptions) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  try {
    return await attempt(signal === undefined ? {} : { abortSignal: signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw toS3Error(error, bucket.uri, key);
  }
}

export type HeadResult = { readonly info: ObjectInfo; readonly writeId: string | undefined };

/** Names the conditional write that made an object: `x-amz-meta-mergeyard-write`. */
export const WRITE_ID = "mergeyard-write";

/** What the server says of an object, and which conditional write made it; undefined when there is none. */
export async function headWithId(
  bucket: Bucket,
  key: string,
  signal: AbortSignal | undefined,
): Promise<HeadResult | undefined> {
  const input = { Bucket: bucket.name, Key: fullKey(bucket, key) };
  try {
    const found = await request(bucket, key, signal, (o) => bucket.client.send(new HeadObjectCommand(input), o));
    bucket.isKnown = true;
    return { info: toInfo(bucket, key, found), writeId: found.Metadata?.[WRITE_ID] };
  } catch (error) {
    if (!isMissing(error)) {
      const reason = await findReason(bucket, key, error, signal);
      if (await isListedMissing(bucket, key, reason, signal)) return undefined;
      throw reason;
    }
    await checkBucket(bucket, key, signal);
    return undefined;
  }
}

/**
 * Why HEAD was refused. Its answer has no body, so 400 and 403 stand for expired credentials as well as for a missing
 * right; asking for one byte is refused for the same reason, and that answer names it.
 */
async function findReason(
  bucket: Bucket,
  key: string,
  error: unknown,
  signal: AbortSignal | undefined,
): Promise<unknown> {
  if (!isUnexplained(error)) return error;
  const input = { Bucket: bucket.name, Key: fullKey(bucket, key), Range: "bytes=0-0" };
  try {
    const { Body } = await request(bucket, key, signal, (o) => bucket.client.send(new GetObjectCommand(input), o));
    if (Body instanceof Readable) Body.destroy();
    return error;
  } catch (reason) {
    return reason;
  }
}

/**
 * True when an object that was denied is one that is not there: to whoever may not list the whole bucket S3 denies what
 * is missing, but a listing of the very key, if they may list there, tells the two apart.
 */
export async function isListedMissing(
  bucket: Bucket,
  key: string,
  denied: unknown,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  if (!hasCode(denied, "StoreAccessDenied")) return false;
  const Prefix = fullKey(bucket, key);
  const command = new ListObjectsV2Command({ Bucket: bucket.name, Prefix, MaxKeys: 1 });
  try {
    const { Contents } = await request(bucket, key, signal, (o) => bucket.client.send(command, o));
    return !Contents?.some(({ Key }) => Key === Prefix);
  } catch (error) {
    if (error instanceof MergeyardError && !error.retryable) return false;
    throw error;
  }
}

/** What the server says of an object; undefined when there is none. */
export async function headObject(
  bucket: Bucket,
  key: string,
  signal: AbortSignal | undefined,
): Promise<ObjectInfo | undefined> {
  return (await headWithId(bucket, key, signal))?.info;
}

type Described = { ContentLength?: number | undefined; ETag?: string | undefined; LastModified?: Date | undefined };

function toInfo(bucket: Bucket, key: string, found: Described): ObjectInfo {
  const bytes = found.ContentLength;
  if (bytes === undefined) throw unexpected(bucket, key, "an answer without a length");
  return { key, bytes, etag: readETag(found.ETag), modifiedMs: toSeconds(found.LastModified) };
}

/** Milliseconds, in whole seconds: HEAD has no finer time, a listing may. */
export function toSeconds(time: Date | undefined): number {
  return time === undefined ? 0 : Math.floor(time.getTime() / 1000) * 1000;
}

/** Once per store: throws StoreBucketMissing when it is the bucket that is missing. */
async function checkBucket(bucket: Bucket, key: string, signal: AbortSignal | undefined): Promise<void> {
  if (bucket.isKnown) return;
  try {
    await request(bucket, key, signal, (o) => bucket.client.send(new HeadBucketCommand({ Bucket: bucket.name }), o));
  } catch (error) {
    if (isMissing(error))
      throw new MergeyardError("StoreBucketMissing", { where: { store: bucket.uri }, cause: error });
    // Whoever may not look at the bucket may still read its objects.
    if (!hasCode(error, "StoreAccessDenied")) throw error;
  }
  bucket.isKnown = true;
}

/** StoreFailed: the server answered what S3 never answers. */
export function unexpected(bucket: Bucket, key: string, found: string): MergeyardError {
  return new MergeyardError("StoreFailed", { where: { store: bucket.uri, file: key }, found });
}
