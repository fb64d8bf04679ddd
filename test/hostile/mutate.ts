// Seeded damage to bytes, for fuzzing parsers: what transfers, disks and forgers do. One seed always gives the same
// bytes.
import { createRandom } from "../../stores/faulty.ts";

/** Uniform integers in [0, bound) from a seed. */
export function createPicker(seed: number): (bound: number) => number {
  const random = createRandom(seed);
  return (bound) => Math.floor(random() * bound);
}

/** Bytes that counts, sizes and signs turn over at. */
const TELLING = [0, 0x7f, 0x80, 0xff];

/** Pieces of JSON that break what only looks at form: numbers at the edges, names that are special, nesting. */
const TOKENS = [
  "0",
  "-1",
  "1e3",
  "0.5",
  "9007199254740993",
  "18446744073709551615",
  "18446744073709551616",
  "null",
  "true",
  '"__proto__"',
  '"__metadata__":{},',
  '"\\u0000"',
  '"\\ud800"',
  "{}",
  "[]",
  ",",
  ":",
  '"',
  "[[[[[[[[",
  '{"a":'.repeat(200),
  "\ufeff",
  " ",
].map((text) => new TextEncoder().encode(text));

/**
 * `bytes` with one to four damages: bits, spans cut, doubled, moved or replaced, tokens put in, the end
 * cut off.
 */
export function mutate(bytes: Uint8Array, pick: (bound: number) => number): Uint8Array {
  let result = bytes;
  for (let count = 1 + pick(4); count > 0; count -= 1) result = damage(result, pick);
  return result;
}

function damage(bytes: Uint8Array, pick: (bound: number) => number): Uint8Array {
  const at = pick(bytes.length + 1);
  const end = Math.min(bytes.length, at + 1 + pick(pick(4) === 0 ? bytes.length + 1 : 8));
  const before = bytes.subarray(0, at);
  const span = bytes.subarray(at, end);
  const after = bytes.subarray(end);
  switch (pick(8)) {
    case 0:
      return join(
        before,
        span.map((byte) => byte ^ (1 << pick(7))),
        after,
      );
    case 1:
      return join(
        before,
        span.map(() => (pick(8) === 0 ? pick(256) : 32 + pick(95))),
        after,
      );
    case 2:
      return join(before, after);
    case 3:
      return join(before, span, span, after);
    case 4:
      return before.slice();
    case 5:
      return join(before, TOKENS[pick(TOKENS.length)] ?? span, pick(2) === 0 ? span : new Uint8Array(), after);
    case 6:
      return join(before, new Uint8Array(span.length).fill(TELLING[pick(TELLING.length)] ?? 0), after);
    default:
      return join(before, after, span);
  }
}

function join(...parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}
