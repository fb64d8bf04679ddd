// Server-side copies of objects beyond what one CopyObject takes: a multipart upload whose parts are ranges of the
// source.
import { UploadPartCopyCommand } from "@aws-sdk/client-s3";
import { MergeyardError } from "../core/error.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import { withRetries } from "./retry.ts";
import { type Bucket, fullKey, request } from "./s3-client.ts";
import { readETag, writeETag } from "./s3-dialect.ts";
import { isConditionFailure } from "./s3-errors.ts";
import { abortMultipart, completeUpload, createUpload, type UploadedPart } from "./s3-regions.ts";
import type { ObjectInfo } from "./store.ts";

/** Parts copied at a time: the server does the work, so more only meets its limits. */
const CONCURRENT_PARTS = 8;

/**
 * Copies in equal parts. Throws StoreObjectChanged when the source is overwritten meanwhile; after any failure the
 * target is as it was and the upload is aborted.
 */
export async function copyInParts(
  bucket: Bucket,
  source: ObjectInfo,
  copySource: string,
  targetKey: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const upload = await createUpload(bucket, targetKey, signal);
  try {
    const place = { Bucket: bucket.name, Key: fullKey(bucket, targetKey), UploadId: upload };
    const parts = await copyParts(bucket, source, copySource, place, signal);
    await completeUpload(bucket, { key: targetKey, bytes: source.bytes }, upload, parts, signal);
  } catch (error) {
    await abortMultipart(bucket, targetKey, upload).catch(() => undefined);
    throw error;
  }
}

async function copyParts(
  bucket: Bucket,
  source: ObjectInfo,
  copySource: string,
  place: { Bucket: string; Key: string; UploadId: string },
  signal: AbortSignal | undefined,
): Promise<readonly UploadedPart[]> {
  // A tenth of what one request may copy keeps every part well under S3's 5 GiB, and an object under 10,000 parts.
  const wanted = Math.max(STORE_LIMITS.regionBytesMin, Math.floor(bucket.dialect.copyBytesMax / 10));
  const count = Math.max(1, Math.floor(source.bytes / wanted));
  const partBytes = Math.ceil(source.bytes / count);
  const parts: UploadedPart[] = [];
  let next = 0;
  const copyNext = async () => {
    while (next < count) {
      const index = next++;
      const end = Math.min(source.bytes, (index + 1) * partBytes) - 1;
      const command = new UploadPartCopyCommand({
        ...place,
        PartNumber: index + 1,
        CopySource: copySource,
        CopySourceRange: `bytes=${index * partBytes}-${end}`,
        CopySourceIfMatch: writeETag(bucket.dialect, source.etag),
      });
      const send = () => request(bucket, source.key, signal, (o) => bucket.client.send(command, o));
      const { CopyPartResult } = await withRetries(bucket.policy, signal, send).catch((error: unknown) => {
        throw isConditionFailure(error) ? changed(bucket, source) : error;
      });
      parts.push({ number: index + 1, etag: readETag(CopyPartResult?.ETag) });
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT_PARTS }, copyNext));
  return parts.sort((a, b) => a.number - b.number);
}

function changed(bucket: Bucket, source: ObjectInfo): MergeyardError {
  return new MergeyardError("StoreObjectChanged", {
    where: { store: bucket.uri, file: source.key },
    expected: source.etag,
  });
}
