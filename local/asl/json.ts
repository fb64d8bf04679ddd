// JSON values as the interpreter carries them, and the limit on their size.
import type { Json } from "../../core/json.ts";
import { stateFailure } from "./failure.ts";
import { PAYLOAD_BYTES_MAX, VALUE_DEPTH_MAX } from "./limits.ts";

/** Bytes of a value as JSON in UTF-8: what the service counts. */
export function jsonBytes(value: Json): number {
  return Buffer.byteLength(JSON.stringify(value));
}

/** Returns the value; fails with States.DataLimitExceeded when it is larger than a state may carry. */
export function limited<Value extends Json>(value: Value, what: string): Value {
  const bytes = jsonBytes(value);
  if (bytes <= PAYLOAD_BYTES_MAX) return value;
  throw stateFailure("States.DataLimitExceeded", `${what} is ${bytes} bytes; the limit is ${PAYLOAD_BYTES_MAX}`);
}

/**
 * A plain JSON copy of what an expression or a task returned. Fails with `error` when it holds what JSON cannot:
 * nothing at all, a function, a number that is not finite, or nesting beyond the limit.
 */
export function toJson(value: unknown, error: string, what: string, depth = 0): Json {
  if (value === null || typeof value === "boolean" || typeof value === "string") return value;
  if (typeof value === "number" && Number.isFinite(value)) return value;
  if (depth > VALUE_DEPTH_MAX) throw stateFailure(error, `${what} is nested deeper than ${VALUE_DEPTH_MAX}`);
  if (Array.isArray(value)) return value.map((item: unknown) => toJson(item, error, what, depth + 1));
  if (typeof value === "object" && !isFunctionObject(value)) {
    return Object.fromEntries(
      Object.entries(value)
        .filter(([, item]) => item !== undefined)
        .map(([name, item]) => [name, toJson(item, error, what, depth + 1)]),
    );
  }
  const found = value === undefined ? "nothing" : typeof value === "object" ? "function" : typeof value;
  throw stateFailure(error, `${what} gave ${found}, which is not a JSON value`);
}

/** A function of the expression language as a value. */
function isFunctionObject(value: object): boolean {
  return "_jsonata_function" in value || "_jsonata_lambda" in value;
}
