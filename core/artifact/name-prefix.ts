// Names by their beginnings: versions and runs are called by digests, which nobody wants to write in full.
import { MergeyardError } from "../error.ts";

/** Of a beginning; a shorter one is too likely to mean something else tomorrow. */
const CHARACTERS_MIN = 4;
/** Names that an error lists. */
const LISTED_MAX = 8;

/**
 * The one of `names` that is `text` or else begins with it; undefined: none does, or `text` is too short to tell.
 * Throws YardNameAmbiguous, with the names.
 */
export function matchName(text: string, names: Iterable<string>, store?: string): string | undefined {
  const all = new Set(names);
  if (all.has(text)) return text;
  if (text.length < CHARACTERS_MIN) return undefined;
  const [first, ...others] = [...all].filter((name) => name.startsWith(text)).sort();
  if (first === undefined || others.length === 0) return first;
  const more = others.length < LISTED_MAX ? "" : `, and ${1 + others.length - LISTED_MAX} more`;
  const found = `${[first, ...others].slice(0, LISTED_MAX).join(", ")}${more}`;
  throw new MergeyardError("YardNameAmbiguous", { where: { store }, found, expected: text });
}
