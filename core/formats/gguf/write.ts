// Writing the header of a GGUF file, version 3: the bytes before the tensor data, and every tensor's place, so that
// both are known before any weight is read.
import { MergeyardError } from "../../error.ts";
import { GGUF_LIMITS } from "../../limits.ts";
import type { Shape } from "../../tensor.ts";
import { alignUp, GGUF_ALIGNMENT, GGUF_MAGIC, GGUF_VERSION, type GgufTensor } from "./gguf.ts";
import type { GgufConstant } from "./rope.ts";
import {
  GGUF_ARRAY,
  GGUF_SCALARS,
  GGUF_STRING,
  type GgufMetadata,
  type GgufScalarKind,
  type GgufType,
  type GgufValue,
  ggufTypeOf,
} from "./type-codes.ts";

/** A tensor to be written: rows of whole blocks. */
export type GgufTensorSpec = { readonly name: string; readonly shape: Shape; readonly type: GgufType };

export type EncodedGguf = {
  /** The file's bytes before the given tensors, padded to the alignment: with the constants, which come first. */
  readonly header: Uint8Array;
  /** In the order given, with absolute offsets; gaps between them are zeros. */
  readonly tensors: readonly GgufTensor[];
  /** Size of the file: the last tensor is padded too. */
  readonly fileBytes: number;
};

/**
 * The header of a file with these entries and tensors, in the order given, at the default alignment. Constants are
 * float32 tensors that lie before them, in the header's own bytes.
 * Throws GgufTensorInvalid: a name of more than 63 bytes or twice, or rows that are no whole blocks.
 */
export function encodeGgufHeader(
  metadata: GgufMetadata,
  own: readonly GgufTensorSpec[],
  constants: readonly GgufConstant[] = [],
): EncodedGguf {
  const specs = [...constants.map(({ name, values }) => ({ name, shape: [values.length], type: F32 })), ...own];
  const bytes = createWriter();
  bytes.raw(new TextEncoder().encode(GGUF_MAGIC));
  bytes.u32(GGUF_VERSION);
  bytes.u64(BigInt(specs.length));
  bytes.u64(BigInt(metadata.size));
  for (const [key, value] of metadata) {
    bytes.string(key);
    bytes.u32(kindNumber(value.kind));
    writeValue(bytes, value);
  }
  const names = new Set<string>();
  let next = 0;
  const places = specs.map((spec) => {
    const size = checkSpec(spec, names);
    const offset = next;
    next = alignUp(offset + size, GGUF_ALIGNMENT);
    bytes.string(spec.name);
    bytes.u32(spec.shape.length);
    for (const length of spec.shape.toReversed()) bytes.u64(BigInt(length));
    bytes.u32(spec.type.id);
    bytes.u64(BigInt(offset));
    return { ...spec, offset, bytes: size };
  });
  const text = bytes.finish();
  const data = alignUp(text.length, GGUF_ALIGNMENT);
  const header = new Uint8Array(data + (places[constants.length]?.offset ?? next));
  header.set(text);
  const view = new DataView(header.buffer);
  for (const [index, { values }] of constants.entries()) {
    const start = data + (places[index]?.offset ?? 0);
    values.forEach((value, at) => void view.setFloat32(start + 4 * at, value, true));
  }
  const tensors = places.slice(constants.length).map((place) => ({ ...place, offset: data + place.offset }));
  return { header, tensors, fileBytes: data + next };
}

const F32 = ggufTypeOf("f32");

/** Bytes of a tensor that can be written. */
function checkSpec({ name, shape, type }: GgufTensorSpec, names: Set<string>): number {
  const invalid = (found: string, expected: string) =>
    new MergeyardError("GgufTensorInvalid", { where: { tensor: name }, found, expected });
  if (names.has(name)) throw invalid("a name that stands twice", "every name once");
  names.add(name);
  const length = new TextEncoder().encode(name).length;
  if (length > GGUF_LIMITS.nameBytes) throw invalid(`a name of ${length} bytes`, `at most ${GGUF_LIMITS.nameBytes}`);
  if (shape.length > GGUF_LIMITS.rank) throw invalid(`${shape.length} axes`, `at most ${GGUF_LIMITS.rank}`);
  const row = shape.at(-1) ?? 1;
  if (row % type.blockElements !== 0) {
    throw invalid(`rows of ${row}`, `a multiple of ${type.blockElements}, the block of ${type.name}`);
  }
  return (shape.reduce((product, axis) => product * axis, 1) / type.blockElements) * type.blockBytes;
}

function kindNumber(kind: GgufValue["kind"]): number {
  if (kind === "string") return GGUF_STRING;
  if (kind === "array") return GGUF_ARRAY;
  return Number(Object.entries(GGUF_SCALARS).find(([, scalar]) => scalar.kind === kind)?.[0]);
}

function writeValue(bytes: Writer, value: GgufValue): void {
  if (value.kind === "string") bytes.string(value.value);
  else if (value.kind === "array") {
    bytes.u32(kindNumber(value.element));
    bytes.u64(BigInt(value.values.length));
    for (const item of value.values) writeValue(bytes, item);
  } else bytes.scalar(value);
}

type Writer = ReturnType<typeof createWriter>;

/** Bytes that grow as they are written. */
function createWriter() {
  let buffer = new Uint8Array(1 << 16);
  let view = new DataView(buffer.buffer);
  let at = 0;
  const take = (bytes: number): number => {
    if (at + bytes > buffer.length) {
      const larger = new Uint8Array(Math.max(2 * buffer.length, at + bytes));
      larger.set(buffer);
      buffer = larger;
      view = new DataView(buffer.buffer);
    }
    at += bytes;
    return at - bytes;
  };
  // The place is taken first, everywhere: taking it may move the bytes.
  const raw = (bytes: Uint8Array) => {
    const place = take(bytes.length);
    buffer.set(bytes, place);
  };
  const u32 = (value: number) => {
    const place = take(4);
    view.setUint32(place, value, true);
  };
  const u64 = (value: bigint) => {
    const place = take(8);
    view.setBigUint64(place, value, true);
  };
  return {
    raw,
    u32,
    u64,
    string(text: string) {
      const bytes = new TextEncoder().encode(text);
      u64(BigInt(bytes.length));
      raw(bytes);
    },
    scalar(value: Exclude<GgufValue, { kind: "string" } | { kind: "array" }>) {
      if (typeof value.value === "bigint") u64(BigInt.asUintN(64, value.value));
      else if (typeof value.value === "boolean") raw(Uint8Array.of(value.value ? 1 : 0));
      else writeNumber(value.kind, value.value, take, () => view);
    },
    finish: () => buffer.subarray(0, at),
  };
}

function writeNumber(
  kind: Exclude<GgufScalarKind, "bool" | "u64" | "i64">,
  value: number,
  take: (bytes: number) => number,
  view: () => DataView,
): void {
  if (kind === "f32" || kind === "f64") {
    const at = take(kind === "f32" ? 4 : 8);
    if (kind === "f32") view().setFloat32(at, value, true);
    else view().setFloat64(at, value, true);
    return;
  }
  const bytes = kind === "u8" || kind === "i8" ? 1 : kind === "u16" || kind === "i16" ? 2 : 4;
  const at = take(bytes);
  if (bytes === 1) view().setUint8(at, value);
  else if (bytes === 2) view().setUint16(at, value, true);
  else view().setUint32(at, value, true);
}
