// Torch files made by hand, byte by byte, for tests of the readers: zip archives with chosen flaws, and pickles written
// as opcodes.
import type { CheckpointFile, ReadRange } from "../../../core/checkpoint.ts";

export type ZipPart = {
  readonly name: string;
  readonly data: Uint8Array;
  readonly flags?: number;
  readonly method?: number;
  /** Name in the local header, when it differs. */
  readonly localName?: string;
};

/** An archive of stored entries, as torch lays it out but without padding. */
export function zipOf(parts: readonly ZipPart[]): Uint8Array {
  const locals: Uint8Array[] = [];
  const centrals: Uint8Array[] = [];
  let offset = 0;
  for (const { name, data, flags = 0, method = 0, localName = name } of parts) {
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(flags, 6);
    local.writeUInt16LE(method, 8);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt32LE(data.length, 22);
    local.writeUInt16LE(Buffer.byteLength(localName), 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(flags, 8);
    central.writeUInt16LE(method, 10);
    central.writeUInt32LE(data.length, 20);
    central.writeUInt32LE(data.length, 24);
    central.writeUInt16LE(Buffer.byteLength(name), 28);
    central.writeUInt32LE(offset, 42);
    const piece = Buffer.concat([local, Buffer.from(localName), data]);
    locals.push(piece);
    centrals.push(Buffer.concat([central, Buffer.from(name)]));
    offset += piece.length;
  }
  const directory = Buffer.concat(centrals);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(parts.length, 8);
  end.writeUInt16LE(parts.length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, directory, end]);
}

/** A reader of bytes in memory. It fails, as a store does, when a range leaves the file. */
export function readerOf(bytes: Uint8Array): ReadRange {
  return async (offset, length) => {
    if (offset < 0 || offset + length > bytes.length) throw new RangeError(`read of ${offset}+${length}`);
    return bytes.slice(offset, offset + length);
  };
}

export function fileOf(bytes: Uint8Array, name = "file.pt"): CheckpointFile {
  return { name, bytes: bytes.length };
}

/** A part of a pickle. */
export type Op = Uint8Array | number | string;

/** Opcodes: a number is a byte, a text its Latin-1 bytes. */
export function ops(...parts: readonly Op[]): Uint8Array {
  const bytes = parts.map((part) =>
    typeof part === "number" ? Buffer.from([part]) : typeof part === "string" ? Buffer.from(part, "latin1") : part,
  );
  return Buffer.concat(bytes);
}

/** A whole pickle of protocol 2: PROTO, the opcodes, STOP. */
export function pickleOf(...parts: readonly Op[]): Uint8Array {
  return ops("\x80\x02", ...parts, ".");
}

/** BINUNICODE. */
export function text(value: string): Uint8Array {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return ops("X", length, bytes);
}

/** BININT. */
export function int(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return ops("J", bytes);
}

/** A tuple of any length. */
export function tuple(...parts: readonly Op[]): Uint8Array {
  return ops("(", ...parts, "t");
}

export type TensorPart = {
  readonly storage?: string;
  readonly key?: string;
  readonly count: number;
  readonly offset?: number;
  readonly size: readonly number[];
  readonly stride: readonly number[];
  /** Behind the hooks; nothing unless given. */
  readonly metadata?: Op;
};

/** _rebuild_tensor_v2 of a storage. */
export function tensor({
  storage = "FloatStorage",
  key = "0",
  count,
  offset = 0,
  size,
  stride,
  metadata = "",
}: TensorPart): Uint8Array {
  const id = tuple(text("storage"), `ctorch\n${storage}\n`, text(key), text("cpu"), int(count));
  const view = [int(offset), tuple(...size.map(int)), tuple(...stride.map(int))];
  return ops(
    "ctorch._utils\n_rebuild_tensor_v2\n",
    "(",
    id,
    "Q",
    ...view,
    "\x89",
    "ccollections\nOrderedDict\n)R",
    metadata,
    "tR",
  );
}

/** A dict of names and values. */
export function dict(...pairs: readonly (readonly [string, Op])[]): Uint8Array {
  return ops("}(", ...pairs.flatMap(([name, value]) => [text(name), value]), "u");
}

/** A zip file of torch with this object and these storages. */
export function torchOf(object: Uint8Array, storages: Readonly<Record<string, Uint8Array>> = {}): Uint8Array {
  return zipOf([
    { name: "archive/data.pkl", data: pickleOf(object) },
    ...Object.entries(storages).map(([key, data]) => ({ name: `archive/data/${key}`, data })),
    { name: "archive/version", data: Buffer.from("3\n") },
  ]);
}
