// JSON of the product's own making, or text that may be none: JSON.parse is enough there. Documents of other tools are
// read by formats/json-scan.ts, which is strict and bounded; written anew, they keep Python's kinds of numbers.

export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export type JsonObject = { readonly [field: string]: Json };

/** The value of a text, or of its UTF-8; undefined, which no schema takes, when it is not JSON. */
export function parseJson(text: string | Uint8Array): unknown {
  try {
    return JSON.parse(typeof text === "string" ? text : new TextDecoder("utf-8", { fatal: true }).decode(text));
  } catch {
    return undefined;
  }
}

export function isJsonObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The names of an object's numbers that were written as floats: in Python 30.0 is no 30, and transformers refuses a
 * config that has an integer where it wants a float. A symbol, so that copies by spreading have it and JSON does not.
 */
const FLOATS = Symbol("floats");

/** Marks numbers of `object`, or the numbers in lists of it, as floats. */
export function markFloats(object: object, names: ReadonlySet<string>): void {
  if (names.size > 0) Object.defineProperty(object, FLOATS, { value: names, enumerable: true });
}

/** JSON as Python writes it, with an indent of two and a newline: NaN, infinities, and whole floats with a fraction. */
export function stringifyPython(document: Readonly<Record<string, unknown>>): string {
  const mark = "\u0000";
  const spell = (value: unknown, isFloat: boolean): unknown => {
    if (Array.isArray(value) && isFloat) return value.map((item) => spell(item, true));
    if (typeof value !== "number") return value;
    const text = String(value);
    if (!Number.isFinite(value)) return mark + text + mark;
    return isFloat && /^-?\d+$/.test(text) ? `${mark}${text}.0${mark}` : value;
  };
  const text = JSON.stringify(
    document,
    function (this: object, name: string, value: unknown) {
      const floats: unknown = Reflect.get(this, FLOATS);
      return spell(value, floats instanceof Set && floats.has(name));
    },
    2,
  );
  return `${text.replaceAll(/"\\u0000(-?(?:Infinity|\d+\.0)|NaN)\\u0000"/g, "$1")}\n`;
}
