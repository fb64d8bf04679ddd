// A strict, bounded JSON scanner that a caller pulls values from. JSON.parse is not used on outside bytes because it
// hides names given twice, rounds integers above 2^53 and bounds nothing. Used for safetensors headers (field by
// field, without building values) and, through `parseJsonDocument`, for indexes, configs and manifests.
import { isJsonObject, markFloats } from "../json.ts";
import { JSON_LIMITS } from "../limits.ts";

/** What is wrong with a text and where; the caller makes the typed error of it. */
export type JsonFault = {
  readonly kind: "encoding" | "syntax" | "depth" | "repeated-name" | "integer" | "type" | "too-long";
  /** Byte offset in the UTF-8 text; 0 when the text is not UTF-8. */
  readonly offset: number;
  readonly found: string;
  readonly expected: string;
};

export type JsonOptions = {
  /** Makes the error that is thrown. */
  readonly refuse: (fault: JsonFault) => Error;
  /**
   * Accept NaN, Infinity and -Infinity, which Python's json module writes and reads, and remember which numbers are
   * floats to it (`stringifyPython`).
   */
  readonly pythonNumbers?: boolean;
};

const U64_MAX = 2n ** 64n - 1n;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const PYTHON_NUMBER = /NaN|-?Infinity/y;
const WORDS = [
  ["true", true],
  ["false", false],
  ["null", null],
] as const;
const ESCAPES: Readonly<Record<string, string>> = Object.freeze({
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
});

/** A cursor over one JSON text. Every read skips white space first and throws the caller's error at a fault. */
export class JsonScanner {
  private readonly text: string;
  private readonly options: JsonOptions;
  private index = 0;
  private depth = 0;
  /** A number with a fraction or an exponent was read since it was last asked. */
  private sawFloat = false;

  constructor(text: string, options: JsonOptions) {
    this.text = text;
    this.options = options;
  }

  /** Bytes of UTF-8 before the cursor. */
  get offset(): number {
    return utf8Length(this.text, this.index);
  }

  /** Reads an object; `each` is called after every name and must read its value. Names given twice are not refused. */
  readObject(each: (name: string) => void): void {
    this.enter("{", "an object");
    if (!this.skip("}")) {
      do {
        if (this.peek() !== '"') throw this.fault("syntax", "a name in quotes");
        const name = this.readString();
        if (!this.skip(":")) throw this.fault("syntax", '":"');
        each(name);
      } while (this.skip(","));
      if (!this.skip("}")) throw this.fault("syntax", '"," or "}"');
    }
    this.depth -= 1;
  }

  /** Reads an array; `each` is called for every item and must read it. */
  readArray(each: (index: number) => void): void {
    this.enter("[", "an array");
    if (!this.skip("]")) {
      let index = 0;
      do {
        each(index);
        index += 1;
      } while (this.skip(","));
      if (!this.skip("]")) throw this.fault("syntax", '"," or "]"');
    }
    this.depth -= 1;
  }

  /** Reads a string; control characters must be escaped, and surrogates must come in pairs. */
  readString(): string {
    this.skipSpace();
    const { text } = this;
    if (text.charCodeAt(this.index) !== 0x22) throw this.mismatch("type", "a string");
    const start = this.index + 1;
    for (let index = start; index < text.length; index += 1) {
      const code = text.charCodeAt(index);
      if (code === 0x22) {
        this.index = index + 1;
        return this.bounded(text.slice(start, index));
      }
      if (code === 0x5c) return this.readEscapedString(start, index);
      if (code < 0x20) break;
    }
    throw this.fault("syntax", "a string that ends, without bare control characters");
  }

  /**
   * Reads an integer from 0 to 2^64-1 without sign, fraction or exponent, exactly: a number up to 2^53-1, a bigint
   * above. The two never hold equal values, so `===` and `<` are exact between results.
   */
  readUnsigned(): number | bigint {
    this.skipSpace();
    const { text, index: start } = this;
    let index = start;
    let value = 0;
    for (; index < text.length; index += 1) {
      const digit = text.charCodeAt(index) - 0x30;
      if (!(digit >= 0 && digit <= 9)) break;
      value = value * 10 + digit;
    }
    const count = index - start;
    const next = text.charAt(index);
    const leadingZero = count > 1 && text.charAt(start) === "0";
    if (count === 0 || leadingZero || next === "." || next === "e" || next === "E") {
      throw this.mismatch("integer", "an integer from 0 to 18446744073709551615");
    }
    if (Number.isSafeInteger(value)) {
      this.index = index;
      return value;
    }
    if (count > 20 || BigInt(text.slice(start, index)) > U64_MAX)
      throw this.fault("integer", "at most 18446744073709551615");
    this.index = index;
    return BigInt(text.slice(start, index));
  }

  /** Reads any value. Throws at a name given twice in one object. */
  readValue(): unknown {
    const next = this.peek();
    if (next === "{") return this.readPlainObject();
    if (next === "[") {
      const items: unknown[] = [];
      this.readArray(() => void items.push(this.readValue()));
      return items;
    }
    return next === '"' ? this.readString() : this.readScalar();
  }

  /** Reads any value and forgets it; names given twice in it are not looked for. */
  skipValue(): void {
    const next = this.peek();
    if (next === "{") this.readObject(() => this.skipValue());
    else if (next === "[") this.readArray(() => this.skipValue());
    else if (next === '"') this.readString();
    else this.readScalar();
  }

  /** The next character that is not white space; "" at the end. */
  peek(): string {
    this.skipSpace();
    return this.text.charAt(this.index);
  }

  /** Only white space may remain. */
  readEnd(): void {
    if (this.peek() !== "") throw this.fault("syntax", "nothing but spaces after the document");
  }

  private readPlainObject(): Record<string, unknown> {
    const entries = new Map<string, unknown>();
    const floats = new Set<string>();
    this.readObject((name) => {
      if (entries.has(name)) throw this.fault("repeated-name", "every name once", JSON.stringify(name.slice(0, 200)));
      this.sawFloat = false;
      entries.set(name, this.readValue());
      if (this.sawFloat) floats.add(name);
    });
    this.sawFloat = false;
    const object = Object.fromEntries(entries);
    markFloats(object, floats);
    return object;
  }

  private readScalar(): number | boolean | null {
    const { text, index } = this;
    for (const [word, value] of WORDS) {
      if (text.startsWith(word, index)) {
        this.index += word.length;
        return value;
      }
    }
    const literal =
      matchAt(NUMBER, text, index) ?? (this.options.pythonNumbers ? matchAt(PYTHON_NUMBER, text, index) : undefined);
    if (literal === undefined) throw this.fault("syntax", "a JSON value");
    this.index += literal.length;
    const value = Number(literal);
    // Others are floats however they are written.
    if (this.options.pythonNumbers && /[.eE]/.test(literal) && Number.isInteger(value)) this.sawFloat = true;
    return value;
  }

  private readEscapedString(start: number, firstEscape: number): string {
    const { text } = this;
    let result = text.slice(start, firstEscape);
    for (let index = firstEscape; index < text.length; ) {
      const character = text.charAt(index);
      if (character === '"') {
        this.index = index + 1;
        if (!result.isWellFormed()) throw this.fault("syntax", "surrogates in pairs", "a lone surrogate");
        return this.bounded(result);
      }
      if (character < " ") break;
      if (character !== "\\") {
        result += character;
        index += 1;
        continue;
      }
      const letter = text.charAt(index + 1);
      const hex = text.slice(index + 2, index + 6);
      const plain = ESCAPES[letter];
      if (plain === undefined && !(letter === "u" && /^[0-9a-fA-F]{4}$/.test(hex))) {
        this.index = index;
        throw this.fault("syntax", "a JSON escape");
      }
      result += plain ?? String.fromCharCode(Number.parseInt(hex, 16));
      index += plain === undefined ? 6 : 2;
    }
    throw this.fault("syntax", "a string that ends, without bare control characters");
  }

  private fault(kind: JsonFault["kind"], expected: string, found = this.excerpt()): Error {
    return this.options.refuse({ kind, offset: this.offset, found, expected });
  }

  /** `kind` when another JSON value stands here, a syntax fault when none does. */
  private mismatch(kind: "type" | "integer", expected: string): Error {
    return this.fault(/^["{[\-0-9tfn]/.test(this.peek()) ? kind : "syntax", expected);
  }

  private bounded(value: string): string {
    if (value.length <= JSON_LIMITS.stringCharacters) return value;
    throw this.fault("too-long", `at most ${JSON_LIMITS.stringCharacters} characters`, `${value.length} characters`);
  }

  private enter(bracket: string, what: string): void {
    if (!this.skip(bracket)) throw this.mismatch("type", what);
    this.depth += 1;
    if (this.depth > JSON_LIMITS.depth) {
      throw this.fault("depth", `at most ${JSON_LIMITS.depth} levels`, `${this.depth} levels of nesting`);
    }
  }

  private skip(character: string): boolean {
    if (this.peek() !== character) return false;
    this.index += 1;
    return true;
  }

  private skipSpace(): void {
    for (;;) {
      const code = this.text.charCodeAt(this.index);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.index += 1;
    }
  }

  private excerpt(): string {
    const rest = this.text.slice(this.index, this.index + 24);
    return rest === "" ? "the end of the text" : JSON.stringify(rest);
  }
}

/** Text of UTF-8 bytes; a byte order mark stays in it, so that the scanner sees and refuses it. */
export function decodeUtf8(bytes: Uint8Array, options: JsonOptions): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw options.refuse({ kind: "encoding", offset: 0, found: "bytes that are not UTF-8", expected: "UTF-8" });
  }
}

/**
 * The value of a whole JSON document; objects are plain, and `__proto__` is an ordinary name in them. Numbers are as
 * JSON.parse gives them. A name given twice in one object is refused.
 */
export function parseJsonDocument(bytes: Uint8Array, options: JsonOptions): unknown {
  const scanner = new JsonScanner(decodeUtf8(bytes, options), options);
  const value = scanner.readValue();
  scanner.readEnd();
  return value;
}

/** The same for a document that has to be one object. */
export function parseJsonObject(bytes: Uint8Array, options: JsonOptions): Readonly<Record<string, unknown>> {
  const value = parseJsonDocument(bytes, options);
  if (isJsonObject(value)) return value;
  const found = Array.isArray(value) ? "an array" : String(value);
  throw options.refuse({ kind: "type", offset: 0, found, expected: "a JSON object" });
}

function matchAt(pattern: RegExp, text: string, index: number): string | undefined {
  pattern.lastIndex = index;
  return pattern.exec(text)?.[0];
}

/** Bytes that the first `end` UTF-16 units of `text` take in UTF-8. */
function utf8Length(text: string, end: number): number {
  let bytes = 0;
  for (let index = 0; index < end; index += 1) {
    const code = text.charCodeAt(index);
    // Each half of a surrogate pair counts for two of the pair's four bytes.
    bytes += code < 0x80 ? 1 : code < 0x800 || (code >= 0xd800 && code < 0xe000) ? 2 : 3;
  }
  return bytes;
}
