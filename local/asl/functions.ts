// The functions that expressions may call: those of JSONata, less `$eval`, and the six that the service adds.
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { stateFailure } from "./failure.ts";
import { EXPRESSION_ITEMS_MAX } from "./limits.ts";

/** Functions of the expression language. `eval` is missing on purpose: the service refuses it, and so do we. */
const LANGUAGE_FUNCTIONS = [
  "string length substring substringBefore substringAfter uppercase lowercase trim pad contains split join match",
  "replace base64encode base64decode encodeUrlComponent encodeUrl decodeUrlComponent decodeUrl",
  "number abs floor ceil round power sqrt formatNumber formatBase formatInteger parseInteger",
  "sum max min average boolean not exists",
  "count append sort reverse shuffle distinct zip",
  "keys lookup spread merge sift each error assert type",
  "now millis fromMillis toMillis",
  "map filter single reduce",
].flatMap((line) => line.split(" "));
const SERVICE_FUNCTIONS = ["uuid", "hash", "parse", "range", "partition", "random"];

/** Names, without `$`, that an expression may use as functions. */
export const FUNCTION_NAMES: ReadonlySet<string> = new Set([...LANGUAGE_FUNCTIONS, ...SERVICE_FUNCTIONS]);

/** What is not a function of its arguments. */
export type Entropy = {
  /** In [0, 1). */
  readonly random: () => number;
  readonly uuid: () => string;
};

/** The machine's own random numbers. Nothing that an expression makes of them reaches a digest. */
export const systemEntropy: Entropy = Object.freeze({
  random: () => fraction(randomBytes(4)),
  uuid: () => randomUUID(),
});

const HASHES = new Map([
  ["MD5", "md5"],
  ["SHA-1", "sha1"],
  ["SHA-256", "sha256"],
  ["SHA-384", "sha384"],
  ["SHA-512", "sha512"],
]);

/** The service's functions, by name, ready to be bound in an expression. */
export function serviceFunctions(entropy: Entropy): Readonly<Record<string, unknown>> {
  return {
    uuid: () => entropy.uuid(),
    random: (seed?: unknown) => (seed === undefined ? entropy.random() : seededRandom(seed)),
    hash: hashText,
    parse: parseText,
    range: numberRange,
    partition: partitionItems,
  };
}

/** `$hash(text, algorithm)`: hex digest of the text's UTF-8 bytes. */
function hashText(text: unknown, algorithm: unknown): string | undefined {
  if (text === undefined) return undefined;
  const name = typeof algorithm === "string" ? HASHES.get(algorithm) : undefined;
  if (typeof text !== "string" || name === undefined) {
    throw refuse(`$hash needs a string and one of ${[...HASHES.keys()].join(", ")}`);
  }
  return createHash(name).update(text).digest("hex");
}

/** `$parse(text)`: the JSON value that the text spells. */
function parseText(text: unknown): unknown {
  if (text === undefined) return undefined;
  if (typeof text !== "string") throw refuse("$parse needs a string");
  try {
    return JSON.parse(text);
  } catch (error) {
    throw refuse(`$parse: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** `$range(first, last, step)`: first, first + step, ... up to last and including it. */
function numberRange(first: unknown, last: unknown, step: unknown): number[] {
  if (typeof first !== "number" || typeof last !== "number" || typeof step !== "number" || step === 0) {
    throw refuse("$range needs first, last and a step that is not 0");
  }
  const count = Math.max(0, Math.floor((last - first) / step) + 1);
  if (count > EXPRESSION_ITEMS_MAX) throw refuse(`$range would make ${count} items; ${EXPRESSION_ITEMS_MAX} at most`);
  return Array.from({ length: count }, (_, index) => first + index * step);
}

/** `$partition(items, size)`: consecutive groups of `size` items, the last one shorter. */
function partitionItems(items: unknown, size: unknown): unknown[][] | undefined {
  if (items === undefined) return undefined;
  if (typeof size !== "number" || !Number.isInteger(size) || size < 1) {
    throw refuse("$partition needs an array and a size of at least 1");
  }
  const all: readonly unknown[] = Array.isArray(items) ? items : [items];
  return Array.from({ length: Math.ceil(all.length / size) }, (_, group) =>
    all.slice(group * size, (group + 1) * size),
  );
}

/** In [0, 1), the same for the same seed. The service does not say which sequence it uses; do not compare across. */
function seededRandom(seed: unknown): number {
  if (typeof seed !== "number" || !Number.isInteger(seed)) throw refuse("$random takes an integer seed");
  return fraction(createHash("sha256").update(String(seed)).digest());
}

/** The first four bytes as a number in [0, 1). */
function fraction(bytes: Buffer): number {
  return bytes.readUInt32LE() / 2 ** 32;
}

function refuse(cause: string): Error {
  return stateFailure("States.QueryEvaluationError", cause);
}
