// The safetensors file: 8 bytes of header length, a JSON header, tensor data. Reading gives entries with absolute
// offsets and refuses every malformed header with a code of its own; writing gives the header's bytes and every
// tensor's place, so that a plan knows them before any weight is read.
// Source: the safetensors Rust crate; where we are stricter, docs/format.md says so.
import assert from "node:assert/strict";
import { digestBytes } from "../../artifact/digest.ts";
import type { CheckpointFile, ReadRange, TensorEntry } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { SAFETENSORS_LIMITS } from "../../limits.ts";
import { DTYPE_BITS, type Dtype, dtypeRank, type Shape, tensorBytes } from "../../tensor.ts";
import { compareUtf8 } from "../../utf8-order.ts";
import { recogniseForeign } from "../foreign-content.ts";
import { type Exact, type HeaderEntry, scanHeader } from "./header-scan.ts";

/** Bytes before the JSON: its length as an unsigned 64-bit little-endian integer. */
const LENGTH_BYTES = 8;

/**
 * Bytes of header read together with its length. Nearly every header is smaller, so that one ranged read is enough; a
 * larger one costs a second read. Too high: wasted transfer per file.
 */
const HEADER_GUESS_BYTES = 1 << 20;

const U64_MAX = 2n ** 64n - 1n;

export type SafetensorsHeader = {
  /** Bytes before the tensor data: 8 + the JSON with its padding. */
  readonly headerBytes: number;
  /** Digest of those bytes. */
  readonly headerDigest: string;
  /** In offset order; tensors without bytes at one offset keep the header's order. */
  readonly tensors: readonly TensorEntry[];
  readonly metadata: ReadonlyMap<string, string>;
};

/**
 * The header of one file, in one ranged read, or two when it is larger than 1 MiB.
 * Throws: any Safetensors code. Nothing larger than the file is ever allocated.
 */
export async function readSafetensorsHeader(read: ReadRange, file: CheckpointFile): Promise<SafetensorsHeader> {
  const start = await readHeaderStart(read, file);
  return parseSafetensorsHeader(await completeHeader(read, start), file);
}

/** The first bytes of a file and how long its header says it is (8 bytes of length included). */
export type HeaderStart = { readonly bytes: Uint8Array; readonly headerBytes: number };

/** The first ranged read: the length, checked against the limit and the file's size, and a guess of the header. */
export async function readHeaderStart(read: ReadRange, file: CheckpointFile): Promise<HeaderStart> {
  const bytes = await read(0, Math.min(file.bytes, LENGTH_BYTES + HEADER_GUESS_BYTES));
  return { bytes, headerBytes: readHeaderBytes(bytes, file) };
}

/** The whole header, by a second ranged read when the guess was too small. */
export async function completeHeader(read: ReadRange, start: HeaderStart): Promise<Uint8Array> {
  const { bytes, headerBytes } = start;
  if (bytes.length >= headerBytes) return bytes.subarray(0, headerBytes);
  const header = new Uint8Array(headerBytes);
  header.set(bytes);
  header.set(await read(bytes.length, headerBytes - bytes.length), bytes.length);
  return header;
}

/**
 * Entries and metadata of a header. `header` is the file's start, at least as long as the header; `file.bytes` is the
 * size of the whole file, which the tensors must fill exactly. Throws: any Safetensors code.
 */
export function parseSafetensorsHeader(header: Uint8Array, file: CheckpointFile): SafetensorsHeader {
  const headerBytes = readHeaderBytes(header, file);
  assert.ok(header.length >= headerBytes, "the caller passes the whole header");
  const bytes = header.subarray(0, headerBytes);
  const { entries, metadata } = scanHeader(bytes.subarray(LENGTH_BYTES), file.name);
  const sorted = [...entries].sort((a, b) => compareExact(a.begin, b.begin) || compareExact(a.end, b.end));
  checkPlaces(sorted, headerBytes, file);
  const tensors = sorted.map((entry) => placeEntry(entry, headerBytes, file.name));
  return { headerBytes, headerDigest: digestBytes(bytes), tensors, metadata };
}

/** Checks 1 to 3 of the reference, in its order: too small, too large, past the end. */
function readHeaderBytes(start: Uint8Array, file: CheckpointFile): number {
  const foreign = recogniseForeign(start);
  const refuse = (code: ErrorCode, found: string | number, expected: string) =>
    new MergeyardError(foreign === undefined ? code : "SafetensorsForeignContent", {
      where: { file: file.name },
      found: foreign?.what ?? found,
      expected: foreign === undefined ? expected : "a safetensors file",
      ...(foreign === undefined ? {} : { hint: foreign.hint }),
    });
  if (file.bytes < LENGTH_BYTES || start.length < LENGTH_BYTES) {
    throw refuse("SafetensorsHeaderTooSmall", `${file.bytes} bytes`, "at least 8 bytes");
  }
  const length = new DataView(start.buffer, start.byteOffset, LENGTH_BYTES).getBigUint64(0, true);
  if (length > SAFETENSORS_LIMITS.headerBytes) {
    throw refuse("SafetensorsHeaderTooLarge", `${length} bytes`, `at most ${SAFETENSORS_LIMITS.headerBytes} bytes`);
  }
  const headerBytes = LENGTH_BYTES + Number(length);
  if (headerBytes > file.bytes) {
    throw refuse(
      "SafetensorsHeaderPastEnd",
      `a header to byte ${headerBytes}`,
      `at most the file's ${file.bytes} bytes`,
    );
  }
  return headerBytes;
}

/** Checks 6 to 9 of the reference, in its order: contiguous, no overflow, whole bytes, right size, file filled. */
function checkPlaces(sorted: readonly HeaderEntry[], headerBytes: number, file: CheckpointFile): void {
  let position: Exact = 0;
  for (const { name, dtype, shape, begin, end } of sorted) {
    const refuse = (code: ErrorCode, found: string, expected: string) =>
      new MergeyardError(code, { where: { file: file.name, tensor: name }, found, expected });
    if (begin !== position || end < begin) {
      throw refuse(
        "SafetensorsOffsetsInvalid",
        `data_offsets [${begin}, ${end}]`,
        `a range that begins at ${position}`,
      );
    }
    const bits = countBits(dtype, shape);
    if (bits === undefined) {
      throw refuse("SafetensorsSizeOverflow", `${dtype} [${shape}]`, "a size that 64 bits hold");
    }
    if (bits % 8n !== 0n) {
      throw refuse("SafetensorsSizePartialByte", `${bits} bits (${dtype} [${shape}])`, "whole bytes");
    }
    if (BigInt(end) - BigInt(begin) !== bits / 8n) {
      const found = `${BigInt(end) - BigInt(begin)} bytes`;
      throw refuse("SafetensorsSizeMismatch", found, `${bits / 8n} bytes (${dtype} [${shape}])`);
    }
    if (shape.some((length) => typeof length === "bigint")) {
      throw refuse("SafetensorsSizeOverflow", `${dtype} [${shape}]`, "axes below 2^53");
    }
    position = end;
  }
  checkFilled(BigInt(headerBytes) + BigInt(position), file);
}

function checkFilled(expected: bigint, file: CheckpointFile): void {
  if (BigInt(file.bytes) === expected) return;
  const code = BigInt(file.bytes) < expected ? "SafetensorsDataTruncated" : "SafetensorsDataTrailing";
  throw new MergeyardError(code, {
    where: { file: file.name },
    found: `${file.bytes} bytes`,
    expected: `${expected} bytes by its header`,
  });
}

/** Product of the shape times the dtype's bits; undefined when a step of it does not fit in 64 bits. */
function countBits(dtype: Dtype, shape: readonly Exact[]): bigint | undefined {
  let product = 1n;
  for (const length of shape) {
    product *= BigInt(length);
    if (product > U64_MAX) return undefined;
  }
  product *= BigInt(DTYPE_BITS[dtype]);
  return product > U64_MAX ? undefined : product;
}

/** All checks have passed, so every number is within the file's size. */
function placeEntry(entry: HeaderEntry, headerBytes: number, file: string): TensorEntry {
  const { name, dtype } = entry;
  const offset = headerBytes + Number(entry.begin);
  const bytes = Number(entry.end) - Number(entry.begin);
  return { name, dtype, shape: entry.shape.map(Number), ranges: [{ file, offset, bytes }] };
}

function compareExact(a: Exact, b: Exact): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A tensor to be written. */
export type TensorSpec = { readonly name: string; readonly dtype: Dtype; readonly shape: Shape };

/** A tensor with its place: `offset` counts from the first byte after the header. */
export type PlacedTensor = TensorSpec & { readonly offset: number; readonly bytes: number };

export type EncodedHeader = {
  /** Length, JSON and padding: the file's bytes before the tensor data, a multiple of 8. */
  readonly header: Uint8Array<ArrayBuffer>;
  /** In file order. */
  readonly tensors: readonly PlacedTensor[];
  /** Size of the whole file. */
  readonly fileBytes: number;
};

/**
 * The header of a file with these tensors, byte for byte what the reference writes: compact JSON, metadata first (its
 * names sorted), tensors by dtype descending and name ascending in UTF-8, padded with spaces to a multiple of 8. With
 * the order "given" tensors stay as they come, and the caller sees to it that each begins at a multiple of its element.
 * Throws: SafetensorsNameRepeated, SafetensorsNameInvalid, SafetensorsHeaderTooLarge.
 */
export function encodeSafetensorsHeader(
  specs: readonly TensorSpec[],
  metadata: ReadonlyMap<string, string> = new Map(),
  order: "reference" | "given" = "reference",
): EncodedHeader {
  const sorted = order === "given" ? specs : [...specs].sort(compareSpecs);
  const members: string[] = [];
  if (metadata.size > 0) {
    const pairs = [...metadata].sort(([a], [b]) => compareUtf8(a, b));
    members.push(`"__metadata__":{${pairs.map(([key, value]) => `${quote(key)}:${quote(value)}`).join(",")}}`);
  }
  const tensors: PlacedTensor[] = [];
  const names = new Set<string>();
  let offset = 0;
  for (const { name, dtype, shape } of sorted) {
    checkWritable(name, names);
    const bytes = tensorBytes(dtype, shape);
    const offsets = `[${offset},${offset + bytes}]`;
    members.push(`${quote(name)}:{"dtype":"${dtype}","shape":[${shape.join(",")}],"data_offsets":${offsets}}`);
    tensors.push({ name, dtype, shape, offset, bytes });
    offset += bytes;
  }
  const header = frameHeader(`{${members.join(",")}}`);
  return { header, tensors, fileBytes: header.length + offset };
}

/** A whole file in memory, in the reference's order; `bytesOf` gives a tensor's bytes, all of them. */
export function encodeSafetensorsFile(
  specs: readonly TensorSpec[],
  bytesOf: (tensor: PlacedTensor, index: number) => ArrayBufferView | undefined,
  metadata?: ReadonlyMap<string, string>,
): Uint8Array<ArrayBuffer> {
  const { header, tensors, fileBytes } = encodeSafetensorsHeader(specs, metadata);
  const file = new Uint8Array(fileBytes);
  file.set(header);
  for (const [index, tensor] of tensors.entries()) {
    const data = bytesOf(tensor, index);
    assert.ok(data?.byteLength === tensor.bytes, `${tensor.name} has ${tensor.bytes} bytes`);
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), header.length + tensor.offset);
  }
  return file;
}

/** Order of the reference: by dtype descending, then by name. */
export function compareSpecs(a: TensorSpec, b: TensorSpec): number {
  return dtypeRank(b.dtype) - dtypeRank(a.dtype) || compareUtf8(a.name, b.name);
}

function checkWritable(name: string, names: Set<string>): void {
  const where = { tensor: name };
  if (names.has(name)) throw new MergeyardError("SafetensorsNameRepeated", { where, expected: "every name once" });
  if (name === "__metadata__" || !name.isWellFormed() || name.length > SAFETENSORS_LIMITS.nameCharacters) {
    throw new MergeyardError("SafetensorsNameInvalid", { where, expected: "a name that the format can hold" });
  }
  names.add(name);
}

function frameHeader(json: string): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(json);
  const length = Math.ceil(text.length / LENGTH_BYTES) * LENGTH_BYTES;
  if (length > SAFETENSORS_LIMITS.headerBytes) {
    const expected = `at most ${SAFETENSORS_LIMITS.headerBytes} bytes`;
    throw new MergeyardError("SafetensorsHeaderTooLarge", { found: `${length} bytes`, expected });
  }
  const header = new Uint8Array(LENGTH_BYTES + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(text, LENGTH_BYTES);
  return header;
}

function quote(text: string): string {
  return JSON.stringify(text);
}
