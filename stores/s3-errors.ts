// What the S3 client throws, as errors of the table. The client makes one attempt; whether to try again is the retry
// wrapper's business, by the code chosen here.
import { S3ServiceException } from "@aws-sdk/client-s3";
import { type ErrorCode, MergeyardError } from "../core/error.ts";

const CODE_OF_NAME: Readonly<Record<string, ErrorCode>> = Object.freeze({
  NoSuchKey: "StoreObjectMissing",
  NotFound: "StoreObjectMissing",
  NoSuchBucket: "StoreBucketMissing",
  InvalidBucketName: "StoreBucketMissing",
  PermanentRedirect: "StoreBucketMissing",
  AuthorizationHeaderMalformed: "StoreBucketMissing",
  NoSuchUpload: "StoreTicketInvalid",
  InvalidPart: "StoreRegionIncomplete",
  InvalidPartOrder: "StoreRegionIncomplete",
  EntityTooSmall: "StoreRegionIncomplete",
  EntityTooLarge: "StoreObjectTooLarge",
  KeyTooLongError: "StoreKeyInvalid",
  InvalidRange: "StoreShortRead",
  AccessDenied: "StoreAccessDenied",
  AllAccessDisabled: "StoreAccessDenied",
  AccountProblem: "StoreAccessDenied",
  CredentialsProviderError: "StoreCredentialsInvalid",
  ExpiredToken: "StoreCredentialsInvalid",
  ExpiredTokenException: "StoreCredentialsInvalid",
  TokenRefreshRequired: "StoreCredentialsInvalid",
  InvalidToken: "StoreCredentialsInvalid",
  InvalidAccessKeyId: "StoreCredentialsInvalid",
  SignatureDoesNotMatch: "StoreCredentialsInvalid",
  ConditionalRequestConflict: "StoreConflict",
  OperationAborted: "StoreConflict",
  QuotaExceeded: "StoreFull",
  InsufficientCapacity: "StoreFull",
  SlowDown: "StoreUnavailable",
  InternalError: "StoreUnavailable",
  ServiceUnavailable: "StoreUnavailable",
  RequestTimeout: "StoreUnavailable",
  // The client corrects its clock from the answer, so that the next attempt succeeds.
  RequestTimeTooSkewed: "StoreUnavailable",
  TimeoutError: "StoreUnavailable",
  IncompleteBody: "StoreUnavailable",
});

const CODE_OF_STATUS: Readonly<Record<number, ErrorCode>> = Object.freeze({
  401: "StoreCredentialsInvalid",
  403: "StoreAccessDenied",
  404: "StoreObjectMissing",
  408: "StoreUnavailable",
  416: "StoreShortRead",
  429: "StoreUnavailable",
});

/** Failures of the connection, by Node's names. A name that does not resolve may resolve a moment later. */
const CONNECTION_ERRORS = new Set([
  ...["ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN"],
  ...["ENOTFOUND", "EAI_AGAIN", "ERR_STREAM_PREMATURE_CLOSE", "UND_ERR_SOCKET", "HPE_INVALID_CONSTANT", "EPROTO"],
]);

/** The failure of a request on a key of a store; what is ours already, or a bug, unchanged. */
export function toS3Error(error: unknown, store: string, key: string): unknown {
  if (error instanceof MergeyardError || !(error instanceof Error)) return error;
  const place = { where: { store, file: key }, cause: error };
  if (error instanceof S3ServiceException) {
    const status = error.$metadata.httpStatusCode ?? 0;
    const code =
      CODE_OF_NAME[error.name] ?? CODE_OF_STATUS[status] ?? (status >= 500 ? "StoreUnavailable" : "StoreFailed");
    return new MergeyardError(code, { ...place, found: `${error.name}${status === 0 ? "" : ` (${status})`}` });
  }
  const system = systemCodeOf(error);
  if (system !== undefined && CONNECTION_ERRORS.has(system)) {
    return new MergeyardError("StoreUnavailable", { ...place, found: system });
  }
  // The client has no name or code for it.
  if (error.message === "Region is missing") return new MergeyardError("StoreRegionMissing", place);
  const code = CODE_OF_NAME[error.name];
  if (code !== undefined) return new MergeyardError(code, { ...place, found: error.name });
  // The client met an answer that it could not read: a proxy's page, or one cut short.
  if ("$response" in error || "$metadata" in error) {
    return new MergeyardError("StoreUnavailable", { ...place, found: "an unreadable answer" });
  }
  return system === undefined ? error : new MergeyardError("StoreFailed", { ...place, found: system });
}

function systemCodeOf(error: Error): string | undefined {
  return "code" in error && typeof error.code === "string" ? error.code : undefined;
}

/** What the server said, where that is why an error of ours was thrown. */
function answerOf(error: unknown): S3ServiceException | undefined {
  return error instanceof MergeyardError && error.cause instanceof S3ServiceException ? error.cause : undefined;
}

/** True when a request failed because its condition did not hold. */
export function isConditionFailure(error: unknown): boolean {
  return answerOf(error)?.$metadata.httpStatusCode === 412;
}

/** True when there is no such object (or bucket: HEAD does not tell). */
export function isMissing(error: unknown): boolean {
  const name = answerOf(error)?.name;
  return name === "NoSuchKey" || name === "NotFound";
}

/** True when a request was refused by a status alone, as HEAD's are. */
export function isUnexplained(error: unknown): boolean {
  const answer = answerOf(error);
  const status = answer?.$metadata.httpStatusCode;
  return answer !== undefined && (status === 400 || status === 403) && CODE_OF_NAME[answer.name] === undefined;
}
