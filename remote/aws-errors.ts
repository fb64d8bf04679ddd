// Failures of AWS's APIs as errors of the table: what is refused for good, and what may pass.
import { MergeyardError } from "../core/error.ts";

/** Faults of the network and of the service; the SDK has tried three times already. */
const PASSING =
  /^(Throttling|TooManyRequests|ServiceUnavailable|InternalServer|InternalFailure|RequestTimeout|Timeout)/;
const NETWORK = /^(ECONN|ETIMEDOUT|EPIPE|EAI_AGAIN|ENOTFOUND)/;

/** Runs a request. Throws RemoteUnavailable, RemoteRefused, the signal's reason. */
export async function ask<Answer>(what: string, signal: AbortSignal, request: () => Promise<Answer>): Promise<Answer> {
  try {
    return await request();
  } catch (cause) {
    signal.throwIfAborted();
    const [name, text] = cause instanceof Error ? [cause.name, cause.message] : ["Error", String(cause)];
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
    const isPassing = PASSING.test(name) || NETWORK.test(code) || isServerFault(cause);
    const details = { where: { field: what }, found: `${name}: ${text}`, cause };
    throw new MergeyardError(isPassing ? "RemoteUnavailable" : "RemoteRefused", details);
  }
}

function isServerFault(cause: unknown): boolean {
  if (!(cause instanceof Error) || !("$metadata" in cause)) return false;
  const metadata = cause.$metadata;
  if (typeof metadata !== "object" || metadata === null || !("httpStatusCode" in metadata)) return false;
  return Number(metadata.httpStatusCode) >= 500;
}
