// The JSON half of a safetensors header: text to entries as written, with every rule about the JSON's form. What the
// numbers mean together (offsets, sizes, the file's length) is checked by its only caller, safetensors.ts.
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { SAFETENSORS_LIMITS } from "../../limits.ts";
import { type Dtype, isDtype } from "../../tensor.ts";
import { decodeUtf8, type JsonFault, JsonScanner } from "../json-scan.ts";

/** An integer as read: a bigint only above 2^53-1. */
export type Exact = number | bigint;

/** One entry as the header states it, nothing yet compared. */
export type HeaderEntry = {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly Exact[];
  readonly begin: Exact;
  readonly end: Exact;
};

export type HeaderText = {
  /** In header order. */
  readonly entries: readonly HeaderEntry[];
  readonly metadata: ReadonlyMap<string, string>;
};

/** Bytes before the JSON: its length. Offsets in errors count from the file's start. */
const LENGTH_BYTES = 8;

/** Characters of a name or field that an error repeats. */
const EXCERPT_CHARACTERS = 200;

const FAULT_CODES: Readonly<Record<JsonFault["kind"], ErrorCode>> = Object.freeze({
  encoding: "SafetensorsHeaderNotUtf8",
  syntax: "SafetensorsHeaderNotJson",
  depth: "SafetensorsHeaderTooDeep",
  "repeated-name": "SafetensorsNameRepeated",
  integer: "SafetensorsIntegerInvalid",
  type: "SafetensorsFieldInvalid",
  "too-long": "SafetensorsFieldInvalid",
});

/** One pass over the JSON; knows the tensor and field it is at, for the place of an error. */
class HeaderReader {
  private readonly file: string;
  private readonly text: string;
  private readonly scanner: JsonScanner;
  private readonly entries = new Map<string, HeaderEntry>();
  private metadata: Map<string, string> | undefined;
  /** Where the scanner is, for the place of an error. */
  private tensor: string | undefined;
  private field: string | undefined;

  constructor(json: Uint8Array, file: string) {
    this.file = file;
    const options = {
      refuse: (fault: JsonFault) => this.error(FAULT_CODES[fault.kind], fault.found, fault.expected, fault.offset),
    };
    this.text = decodeUtf8(json, options);
    this.scanner = new JsonScanner(this.text, options);
  }

  read(): HeaderText {
    if (!this.text.startsWith("{")) {
      const found = this.text === "" ? "an empty header" : JSON.stringify(this.text.slice(0, 8));
      throw this.error("SafetensorsHeaderNotObject", found, "{ as the first byte", 0);
    }
    this.scanner.readObject((name) => {
      this.tensor = name;
      if (name === "__metadata__") this.readMetadata();
      else this.readTensor(name);
      this.tensor = undefined;
      this.field = undefined;
    });
    this.scanner.readEnd();
    return { entries: [...this.entries.values()], metadata: this.metadata ?? new Map() };
  }

  /** An object of strings; null, which the reference takes, counts as empty. */
  private readMetadata(): void {
    if (this.metadata !== undefined) throw this.repeated();
    const metadata = new Map<string, string>();
    this.metadata = metadata;
    if (this.scanner.peek() === "n") {
      this.scanner.skipValue();
      return;
    }
    this.scanner.readObject((key) => {
      this.field = key;
      if (metadata.has(key)) throw this.repeated();
      if (metadata.size >= SAFETENSORS_LIMITS.metadataEntries) {
        throw this.error("SafetensorsFieldInvalid", "more", `at most ${SAFETENSORS_LIMITS.metadataEntries} entries`);
      }
      metadata.set(key, this.scanner.readString());
    });
  }

  private readTensor(name: string): void {
    if (this.entries.has(name)) throw this.repeated();
    if (this.entries.size >= SAFETENSORS_LIMITS.tensors) {
      throw this.error("SafetensorsTooManyTensors", "more", SAFETENSORS_LIMITS.tensors);
    }
    this.checkName(name);
    const read: { dtype?: Dtype; shape?: Exact[]; offsets?: readonly [Exact, Exact] } = {};
    this.scanner.readObject((field) => {
      this.field = field;
      if (field === "dtype") {
        if (read.dtype !== undefined) throw this.repeated();
        read.dtype = this.readDtype();
      } else if (field === "shape") {
        if (read.shape !== undefined) throw this.repeated();
        read.shape = this.readIntegers(SAFETENSORS_LIMITS.rank, "SafetensorsRankTooLarge");
      } else if (field === "data_offsets") {
        if (read.offsets !== undefined) throw this.repeated();
        read.offsets = this.readOffsets();
      } else {
        // The reference skips fields it does not know, so that later versions of the format stay readable.
        this.scanner.skipValue();
      }
    });
    const { dtype, shape, offsets } = read;
    if (dtype === undefined || shape === undefined || offsets === undefined) {
      this.field = dtype === undefined ? "dtype" : shape === undefined ? "shape" : "data_offsets";
      throw this.error("SafetensorsFieldMissing", "no such field", "dtype, shape and data_offsets");
    }
    this.entries.set(name, { name, dtype, shape, begin: offsets[0], end: offsets[1] });
  }

  private checkName(name: string): void {
    const limit = SAFETENSORS_LIMITS.nameCharacters;
    if (name.length > limit) {
      throw this.error("SafetensorsNameInvalid", `${name.length} characters`, `at most ${limit} characters`);
    }
    for (let index = 0; index < name.length; index += 1) {
      const code = name.charCodeAt(index);
      if (code < 0x20 || code === 0x7f) {
        throw this.error("SafetensorsNameInvalid", `control character ${code}`, "no control characters");
      }
    }
  }

  private readDtype(): Dtype {
    const text = this.scanner.readString();
    if (isDtype(text)) return text;
    throw this.error(
      "SafetensorsDtypeUnknown",
      JSON.stringify(text.slice(0, EXCERPT_CHARACTERS)),
      "a safetensors dtype",
    );
  }

  private readOffsets(): readonly [Exact, Exact] {
    const offsets = this.readIntegers(2, "SafetensorsFieldInvalid");
    const [begin, end] = offsets;
    if (begin !== undefined && end !== undefined) return [begin, end];
    throw this.error("SafetensorsFieldInvalid", `${offsets.length} integers`, "2 integers");
  }

  private readIntegers(countMax: number, tooMany: ErrorCode): Exact[] {
    const integers: Exact[] = [];
    this.scanner.readArray((index) => {
      if (index >= countMax) throw this.error(tooMany, "more", `at most ${countMax} integers`);
      integers.push(this.scanner.readUnsigned());
    });
    return integers;
  }

  private repeated(): MergeyardError {
    return this.error("SafetensorsNameRepeated", "the name a second time", "every name once");
  }

  private error(
    code: ErrorCode,
    found: string,
    expected: string | number,
    offset: number = this.scanner.offset,
  ): MergeyardError {
    const where = {
      file: this.file,
      tensor: this.tensor?.slice(0, EXCERPT_CHARACTERS),
      field: this.field?.slice(0, EXCERPT_CHARACTERS),
      offset: offset + LENGTH_BYTES,
    };
    return new MergeyardError(code, { where, found, expected });
  }
}

/**
 * Entries and metadata of a header's JSON.
 * Throws: the Safetensors codes about form (`SafetensorsHeaderNotJson`, `SafetensorsNameRepeated`, …).
 */
export function scanHeader(json: Uint8Array, file: string): HeaderText {
  return new HeaderReader(json, file).read();
}
