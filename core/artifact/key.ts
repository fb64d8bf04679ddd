// Which keys and names exist. Every store calls `checkKey` before anything else, so that what passes here is legal in a
// folder, in S3 and in a URL path, and cannot leave the root it belongs to.
import { MergeyardError } from "../error.ts";
import { KEY_LIMITS } from "../limits.ts";

/** First segment of the area that a folder store keeps for itself; no object may be named so in any store. */
export const RESERVED_SEGMENT = ".mergeyard";

/** Names of models, versions, channels and pipelines. */
export const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
export const NAME_WORDS = "1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit";

/**
 * The key itself, when it is a relative path with `/`: no empty, `.` or `..` segment, no backslash, no control
 * character, at most 1024 bytes, each segment at most 255 bytes, well-formed Unicode, not under `.mergeyard`.
 * Throws StoreKeyInvalid.
 */
export function checkKey(key: string): string {
  return checkSegments(key, key.split("/"));
}

/**
 * The prefix itself, when it begins a legal key: "" or a key that may end in `/` or in the middle of a segment.
 * Throws StoreKeyInvalid.
 */
export function checkPrefix(prefix: string): string {
  if (prefix === "") return prefix;
  const segments = prefix.split("/");
  if (segments.at(-1) === "") segments.pop();
  return checkSegments(prefix, segments);
}

/** The name itself, when it can name a model, a version, a channel or a pipeline. Throws StoreNameInvalid. */
export function checkName(name: string): string {
  if (!NAME.test(name)) {
    throw new MergeyardError("StoreNameInvalid", {
      found: JSON.stringify(name.slice(0, 200)),
      expected: NAME_WORDS,
    });
  }
  return name;
}

function checkSegments(key: string, segments: readonly string[]): string {
  const { keyBytes, segmentBytes } = KEY_LIMITS;
  if (isLonger(key, keyBytes)) throw refusal(key, `${byteLength(key)} bytes`, `at most ${keyBytes} bytes`);
  if (!key.isWellFormed()) throw refusal(key, "half of a surrogate pair", "well-formed Unicode");
  if (segments.length === 0) throw refusal(key, "no segment", "a relative path");
  if (segments[0] === RESERVED_SEGMENT) throw refusal(key, RESERVED_SEGMENT, "a key outside the store's own area");
  for (const segment of segments) {
    if (segment === "" || segment === "." || segment === "..") {
      throw refusal(key, `segment ${JSON.stringify(segment)}`, "segments with a name, joined by single slashes");
    }
    if (hasForbiddenCharacter(segment)) {
      throw refusal(key, "a backslash or control character", "printable characters");
    }
    if (isLonger(segment, segmentBytes)) {
      throw refusal(key, `a segment of ${byteLength(segment)} bytes`, `at most ${segmentBytes} bytes`);
    }
  }
  return key;
}

function hasForbiddenCharacter(segment: string): boolean {
  for (let index = 0; index < segment.length; index++) {
    const code = segment.charCodeAt(index);
    if (code < 0x20 || code === 0x5c || (code >= 0x7f && code <= 0x9f) || code >= 0xfffe) return true;
  }
  return false;
}

/** Keys are checked with every read: only one that may be too long is encoded, at three bytes a UTF-16 unit or less. */
function isLonger(text: string, limitBytes: number): boolean {
  return 3 * text.length > limitBytes && byteLength(text) > limitBytes;
}

function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}

function refusal(key: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("StoreKeyInvalid", { where: { file: key.slice(0, 200) }, found, expected });
}
