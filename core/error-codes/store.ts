// Error codes: what object stores answer, and what they are asked wrongly.
import type { ErrorKind } from "./kind.ts";

export const STORE_CODES = {
  StoreKeyInvalid: {
    meaning: "the key cannot name an object",
    retryable: false,
    remedy: "rename the file or fix the path",
  },
  StoreNameInvalid: {
    meaning: "the name cannot be used for a model, version, channel or pipeline",
    retryable: false,
    remedy: "choose another name",
  },
  StoreUriInvalid: {
    meaning: "the place is not one that a store can open",
    retryable: false,
    remedy: "give a folder, file:///folder or s3://bucket/prefix",
  },
  StoreObjectMissing: {
    meaning: "there is no such object",
    retryable: false,
    remedy: "check the name, and that what should have written it has finished",
  },
  StoreObjectTooLarge: {
    meaning: "the object is larger than what may be read or written in one piece",
    retryable: false,
    remedy: "check that it is the file you mean",
  },
  StoreObjectChanged: {
    meaning: "the object changed while it was being read",
    retryable: false,
    remedy: "wait until its writer has finished, then run again",
  },
  StoreShortRead: {
    meaning: "the object ends before the requested range does",
    retryable: false,
    remedy: "the object was cut short; write or fetch it again",
  },
  StoreContentMismatch: {
    meaning: "the store does not hold what was written",
    retryable: false,
    remedy: "do not trust this server or disk with checkpoints before the reason is known",
  },
  StoreConditionIgnored: {
    meaning: "the server ignores conditional writes, so two runs could overwrite each other",
    retryable: false,
    remedy: "use a server that honours If-None-Match and If-Match on PutObject",
  },
  StoreJsonInvalid: {
    meaning: "the object is not the JSON document that belongs there",
    retryable: false,
    remedy: "see whether a tool other than Mergeyard wrote it; restore or delete it",
  },
  StoreRegionIncomplete: {
    meaning: "a region of a large object did not get exactly its bytes",
    retryable: false,
    remedy: "write the object again from its start",
  },
  StoreTicketInvalid: {
    meaning: "the large object being written is unknown to this store or was discarded",
    retryable: false,
    remedy: "write the object again from its start",
  },
  StoreConflict: {
    meaning: "another writer holds the object",
    retryable: true,
    remedy: "try again in a moment",
  },
  StoreUnavailable: {
    meaning: "the store did not answer, or asked to slow down",
    retryable: true,
    remedy: "try again; see whether the endpoint is right and the server is up",
  },
  StoreFull: {
    meaning: "the store has no room for the object",
    retryable: false,
    remedy: "free space or raise the quota, then run again",
  },
  StoreAccessDenied: {
    meaning: "the store refused access",
    retryable: false,
    remedy: "check file permissions, or the credentials and the bucket's policy",
  },
  StoreCredentialsInvalid: {
    meaning: "the credentials for the store are missing, unknown or expired",
    retryable: false,
    remedy: "renew the credentials (AWS_ACCESS_KEY_ID and so on, or the profile)",
  },
  StoreRegionMissing: {
    meaning: "it is not said in which AWS region the bucket lies",
    retryable: false,
    remedy: "set AWS_REGION, or the region of the profile; for another server than AWS, MERGEYARD_S3_ENDPOINT",
  },
  StoreBucketMissing: {
    meaning: "there is no such bucket",
    retryable: false,
    remedy: "create the bucket, or check its name, region and the endpoint",
  },
  StoreLinkRefused: {
    meaning: "a symbolic link leads out of the folder or in a circle",
    retryable: false,
    remedy: "replace the link by the file itself, or name the folder where the file lives",
  },
  StorePathOccupied: {
    meaning: "a file stands where a folder is needed, or a folder where a file is needed",
    retryable: false,
    remedy: "move it away, then run again",
  },
  StoreFailed: {
    meaning: "the store failed in a way that has no code of its own",
    retryable: false,
    remedy: "see the cause",
  },
} as const satisfies Record<string, ErrorKind>;
