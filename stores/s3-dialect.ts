// Every difference between S3 servers that we know of, in one place; the rest of the store reads these properties and
// never asks which server it talks to. See docs/adr/0003-stores.md.
import { MergeyardError } from "../core/error.ts";

export type S3Dialect = {
  /** When the client adds checksums of its own to requests and checks those of answers. */
  readonly checksums: "WHEN_SUPPORTED" | "WHEN_REQUIRED";
  /** Bucket in the path (`http://host/bucket/key`), not in the host's name. */
  readonly forcePathStyle: boolean;
  /** ETags in If-Match carry their quotes. */
  readonly quotesETags: boolean;
  /** Written objects are looked at again, because the server is not known to keep S3's promises. */
  readonly isVerified: boolean;
  /** Bytes of the largest object that one CopyObject takes. */
  readonly copyBytesMax: number;
};

const GIB = 1024 ** 3;

/** Known servers by the name that MERGEYARD_S3_DIALECT takes. */
export const S3_DIALECTS = Object.freeze({
  aws: {
    checksums: "WHEN_SUPPORTED",
    forcePathStyle: false,
    quotesETags: true,
    isVerified: false,
    copyBytesMax: 5 * GIB,
  },
  /**
   * Ceph 16: streams with trailing checksums are refused (411), a quoted If-Match never matches, and the answer of
   * CompleteMultipartUpload has no ETag (which is therefore always taken from HEAD).
   */
  radosgw: {
    checksums: "WHEN_REQUIRED",
    forcePathStyle: true,
    quotesETags: false,
    isVerified: true,
    copyBytesMax: 5 * GIB,
  },
} as const satisfies Record<string, S3Dialect>);

/**
 * The dialect of that name; without a name, that of AWS for its own endpoints and the most careful one for any other.
 * Throws StoreUriInvalid for an unknown name.
 */
export function pickDialect(endpoint: string | undefined, name: string | undefined): S3Dialect {
  if (name !== undefined && name !== "") {
    const found = Object.entries(S3_DIALECTS).find(([known]) => known === name);
    if (found !== undefined) return found[1];
    const expected = `MERGEYARD_S3_DIALECT one of ${Object.keys(S3_DIALECTS).join(", ")}`;
    throw new MergeyardError("StoreUriInvalid", { found: name, expected });
  }
  const host = endpoint === undefined ? "amazonaws.com" : (URL.parse(endpoint)?.hostname ?? "");
  return /(^|\.)amazonaws\.com(\.cn)?$/.test(host) ? S3_DIALECTS.aws : S3_DIALECTS.radosgw;
}

/** An ETag as the interface has it: without quotes. */
export function readETag(etag: string | undefined): string {
  return (etag ?? "").replace(/^"(.*)"$/, "$1");
}

/** An ETag as the server wants it in a condition. */
export function writeETag(dialect: S3Dialect, etag: string): string {
  return dialect.quotesETags ? `"${etag}"` : etag;
}
