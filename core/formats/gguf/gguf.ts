// The GGUF file, version 3: reading its header, metadata and where tensors lie. Every count and length is compared with
// the bytes that are left before anything is allocated, so that a forged header costs nothing.
// Source: ggml docs/gguf.md; quantization reference section 2.
import type { CheckpointFile, ReadRange } from "../../checkpoint.ts";
import { viewOf } from "../../data-view.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { GGUF_LIMITS } from "../../limits.ts";
import type { Shape } from "../../tensor.ts";
import {
  GGUF_ARRAY,
  GGUF_SCALARS,
  GGUF_STRING,
  GGUF_TYPES,
  type GgufMetadata,
  type GgufScalarKind,
  type GgufType,
  type GgufValue,
} from "./type-codes.ts";

/** The first bytes of a file. */
export const GGUF_MAGIC = "GGUF";
/** The only version that is read and written. */
export const GGUF_VERSION = 3;
const SCALARS = new Map(Object.entries(GGUF_SCALARS).map(([id, scalar]) => [Number(id), scalar]));
const ALIGNMENT_KEY = "general.alignment";
/** Of a file that states none. */
export const GGUF_ALIGNMENT = 32;

/** Bytes of the first read; a header with a vocabulary takes several reads, each twice as large as the one before. */
const FIRST_READ_BYTES = 1 << 20;

export type GgufTensor = {
  readonly name: string;
  /** Outermost axis first, as everywhere here; the file has them the other way round. */
  readonly shape: Shape;
  readonly type: GgufType;
  /** Of the tensor's first byte in the file. */
  readonly offset: number;
  readonly bytes: number;
};

export type GgufHeader = {
  readonly metadata: GgufMetadata;
  readonly alignment: number;
  /** In file order. */
  readonly tensors: readonly GgufTensor[];
  /** Where tensor data begins. */
  readonly dataOffset: number;
};

/**
 * The header of a GGUF file. Throws GgufNotRecognised, GgufVersionUnsupported, GgufTruncated, GgufTooLarge,
 * GgufMetadataInvalid, GgufTensorInvalid.
 */
export async function readGgufHeader(read: ReadRange, file: CheckpointFile): Promise<GgufHeader> {
  let wanted = Math.min(file.bytes, FIRST_READ_BYTES);
  for (;;) {
    const header = parseHeader(await read(0, wanted), file);
    if (header !== undefined) return header;
    if (wanted === file.bytes) throw refusal("GgufTruncated", file, `${file.bytes} bytes`, "the whole header");
    if (wanted >= GGUF_LIMITS.headerBytes) {
      throw refusal("GgufTooLarge", file, "a longer header", `at most ${GGUF_LIMITS.headerBytes} bytes of header`);
    }
    wanted = Math.min(2 * wanted, file.bytes, GGUF_LIMITS.headerBytes);
  }
}

/** Reads forward through the bytes at hand; each method gives undefined where they end too soon. */
type Cursor = {
  readonly view: DataView;
  readonly file: CheckpointFile;
  at: number;
};

function parseHeader(bytes: Uint8Array, file: CheckpointFile): GgufHeader | undefined {
  const view = viewOf(bytes);
  const start = new TextDecoder("latin1").decode(bytes.subarray(0, 4));
  if (start !== GGUF_MAGIC)
    throw refusal("GgufNotRecognised", file, JSON.stringify(start), `a file that begins with ${GGUF_MAGIC}`);
  if (bytes.length < 24) return undefined;
  const version = view.getUint32(4, true);
  if (version !== GGUF_VERSION) {
    throw refusal("GgufVersionUnsupported", file, version, `${GGUF_VERSION}, little-endian`);
  }
  const cursor: Cursor = { view, file, at: 24 };
  const tensorCount = checkCount(cursor, view.getBigUint64(8, true), GGUF_LIMITS.tensors, "tensors", 24);
  const entryCount = checkCount(cursor, view.getBigUint64(16, true), GGUF_LIMITS.entries, "metadata entries", 13);
  const metadata = readMetadata(cursor, entryCount);
  if (metadata === undefined) return undefined;
  const alignment = alignmentOf(metadata, file);
  const infos: TensorInfo[] = [];
  for (let index = 0; index < tensorCount; index++) {
    const info = readTensorInfo(cursor);
    if (info === undefined) return undefined;
    infos.push(info);
  }
  const dataOffset = alignUp(cursor.at, alignment);
  return { metadata, alignment, tensors: placeTensors(infos, dataOffset, alignment, file), dataOffset };
}

function readMetadata(cursor: Cursor, count: number): GgufMetadata | undefined {
  const metadata = new Map<string, GgufValue>();
  for (let index = 0; index < count; index++) {
    const key = readString(cursor);
    const kind = key === undefined ? undefined : readU32(cursor);
    if (key === undefined || kind === undefined) return undefined;
    const invalid = (found: string, expected: string) =>
      refusal("GgufMetadataInvalid", cursor.file, `${key.slice(0, 200)}: ${found}`, expected);
    if (metadata.has(key)) throw invalid("a key that stands twice", "every key once");
    const value = readValue(cursor, kind, invalid, 0);
    if (value === undefined) return undefined;
    metadata.set(key, value);
  }
  return metadata;
}

type Invalid = (found: string, expected: string) => MergeyardError;

function readValue(cursor: Cursor, kind: number, invalid: Invalid, depth: number): GgufValue | undefined {
  if (kind === GGUF_STRING) {
    const value = readString(cursor);
    return value === undefined ? undefined : { kind: "string", value };
  }
  if (kind === GGUF_ARRAY) return readArray(cursor, invalid, depth);
  const scalar = SCALARS.get(kind);
  if (scalar === undefined) throw invalid(`a value of kind ${kind}`, "a kind of the format");
  if (cursor.at + scalar.bytes > cursor.view.byteLength) return undefined;
  const value = readScalar(cursor.view, cursor.at, scalar.kind);
  if (value === undefined) throw invalid("a boolean that is neither 0 nor 1", "0 or 1");
  cursor.at += scalar.bytes;
  return value;
}

function readArray(cursor: Cursor, invalid: Invalid, depth: number): GgufValue | undefined {
  if (depth >= GGUF_LIMITS.depth) throw invalid("arrays of arrays", `at most ${GGUF_LIMITS.depth} levels`);
  const kind = readU32(cursor);
  const stated = readU64(cursor);
  if (kind === undefined || stated === undefined) return undefined;
  const scalar = SCALARS.get(kind);
  const least = scalar?.bytes ?? (kind === GGUF_STRING ? 8 : 12);
  const count = checkCount(cursor, stated, GGUF_LIMITS.arrayItems, "items of an array", least);
  const values: GgufValue[] = [];
  for (let index = 0; index < count; index++) {
    const value = readValue(cursor, kind, invalid, depth + 1);
    if (value === undefined) return undefined;
    values.push(value);
  }
  const element = scalar?.kind ?? (kind === GGUF_STRING ? "string" : kind === GGUF_ARRAY ? "array" : undefined);
  if (element === undefined) throw invalid(`an array of kind ${kind}`, "a kind of the format");
  return { kind: "array", element, values };
}

function readScalar(view: DataView, at: number, kind: GgufScalarKind): GgufValue | undefined {
  switch (kind) {
    case "u8":
      return { kind, value: view.getUint8(at) };
    case "i8":
      return { kind, value: view.getInt8(at) };
    case "u16":
      return { kind, value: view.getUint16(at, true) };
    case "i16":
      return { kind, value: view.getInt16(at, true) };
    case "u32":
      return { kind, value: view.getUint32(at, true) };
    case "i32":
      return { kind, value: view.getInt32(at, true) };
    case "f32":
      return { kind, value: view.getFloat32(at, true) };
    case "f64":
      return { kind, value: view.getFloat64(at, true) };
    case "u64":
      return { kind, value: view.getBigUint64(at, true) };
    case "i64":
      return { kind, value: view.getBigInt64(at, true) };
    case "bool":
      return view.getUint8(at) > 1 ? undefined : { kind, value: view.getUint8(at) === 1 };
  }
}

function readU32(cursor: Cursor): number | undefined {
  if (cursor.at + 4 > cursor.view.byteLength) return undefined;
  cursor.at += 4;
  return cursor.view.getUint32(cursor.at - 4, true);
}

function readU64(cursor: Cursor): bigint | undefined {
  if (cursor.at + 8 > cursor.view.byteLength) return undefined;
  cursor.at += 8;
  return cursor.view.getBigUint64(cursor.at - 8, true);
}

function readString(cursor: Cursor): string | undefined {
  const stated = readU64(cursor);
  if (stated === undefined) return undefined;
  const length = checkCount(cursor, stated, GGUF_LIMITS.stringBytes, "bytes of a string", 1);
  if (cursor.at + length > cursor.view.byteLength) return undefined;
  const bytes = new Uint8Array(cursor.view.buffer, cursor.view.byteOffset + cursor.at, length);
  cursor.at += length;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw refusal("GgufMetadataInvalid", cursor.file, "a string that is not UTF-8", "UTF-8");
  }
}

/** A count that the limit allows and that the rest of the file can hold, at `least` bytes each. */
function checkCount({ at, file }: Cursor, stated: bigint, limit: number, what: string, least: number): number {
  if (stated > BigInt(limit)) throw refusal("GgufTooLarge", file, `${stated} ${what}`, `at most ${limit}`);
  if (Number(stated) * least > file.bytes - at) {
    throw refusal("GgufTruncated", file, `${stated} ${what} and ${file.bytes - at} bytes for them`, "a whole file");
  }
  return Number(stated);
}

function alignmentOf(metadata: GgufMetadata, file: CheckpointFile): number {
  const stated = metadata.get(ALIGNMENT_KEY);
  if (stated === undefined) return GGUF_ALIGNMENT;
  if (stated.kind === "u32" && stated.value > 0 && stated.value % 8 === 0 && stated.value <= GGUF_LIMITS.alignment) {
    return stated.value;
  }
  const found = `${ALIGNMENT_KEY} ${"value" in stated ? stated.value : stated.kind}`;
  throw refusal("GgufMetadataInvalid", file, found, `a u32, a multiple of 8, at most ${GGUF_LIMITS.alignment}`);
}

type TensorInfo = {
  readonly name: string;
  readonly axes: readonly bigint[];
  readonly type: number;
  readonly offset: bigint;
};

function readTensorInfo(cursor: Cursor): TensorInfo | undefined {
  const name = readString(cursor);
  const rank = name === undefined ? undefined : readU32(cursor);
  if (name === undefined || rank === undefined) return undefined;
  if (rank > GGUF_LIMITS.rank) {
    throw refusal("GgufTensorInvalid", cursor.file, `${rank} axes`, `at most ${GGUF_LIMITS.rank}`, name);
  }
  const axes: bigint[] = [];
  for (let axis = 0; axis < rank; axis++) {
    const length = readU64(cursor);
    if (length === undefined) return undefined;
    axes.push(length);
  }
  const type = readU32(cursor);
  const offset = readU64(cursor);
  return type === undefined || offset === undefined ? undefined : { name, axes, type, offset };
}

/** Tensors with absolute places: known types, whole blocks, aligned, inside the file, none over another. */
function placeTensors(
  infos: readonly TensorInfo[],
  dataOffset: number,
  alignment: number,
  file: CheckpointFile,
): readonly GgufTensor[] {
  const names = new Set<string>();
  const tensors = infos.map((info): GgufTensor => {
    const invalid = (found: string, expected: string) =>
      refusal("GgufTensorInvalid", file, found, expected, info.name.slice(0, 200));
    if (names.has(info.name)) throw invalid("a name that stands twice", "every name once");
    names.add(info.name);
    const type = GGUF_TYPES.get(info.type);
    if (type === undefined) throw invalid(`type ${info.type}`, "a type that is known");
    const row = info.axes[0] ?? 1n;
    if (row % BigInt(type.blockElements) !== 0n) {
      throw invalid(`rows of ${row}`, `a multiple of ${type.blockElements}, the block of ${type.name}`);
    }
    if (info.axes.some((length) => length > BigInt(Number.MAX_SAFE_INTEGER))) {
      throw invalid(`axes [${info.axes}]`, "axes below 2^53");
    }
    const elements = info.axes.reduce((product, length) => product * length, 1n);
    const bytes = (elements / BigInt(type.blockElements)) * BigInt(type.blockBytes);
    if (info.offset % BigInt(alignment) !== 0n) throw invalid(`offset ${info.offset}`, `a multiple of ${alignment}`);
    const end = BigInt(dataOffset) + info.offset + bytes;
    if (end > BigInt(file.bytes)) {
      throw refusal("GgufTruncated", file, `${file.bytes} bytes`, `at least ${end}`, info.name.slice(0, 200));
    }
    const shape = info.axes.map(Number).reverse();
    return { name: info.name, shape, type, offset: dataOffset + Number(info.offset), bytes: Number(bytes) };
  });
  const sorted = tensors.filter(({ bytes }) => bytes > 0).sort((a, b) => a.offset - b.offset);
  const over = sorted.find((tensor, index) => {
    const next = sorted[index + 1];
    return next !== undefined && tensor.offset + tensor.bytes > next.offset;
  });
  if (over !== undefined) {
    throw refusal("GgufTensorInvalid", file, "bytes of the next tensor too", "tensors that do not overlap", over.name);
  }
  return tensors;
}

/** The next multiple of an alignment. */
export function alignUp(offset: number, alignment: number): number {
  return Math.ceil(offset / alignment) * alignment;
}

function refusal(
  code: ErrorCode,
  file: CheckpointFile,
  found: string | number,
  expected: string,
  tensor?: string,
): MergeyardError {
  return new MergeyardError(code, { where: { file: file.name, tensor }, found, expected });
}
