// A zip archive of stored entries, read through its central directory and never unpacked: each entry becomes a byte
// range of the file. torch.save writes such archives; anything that it never writes (compression, encryption, two
// entries of one name, overlapping entries, names that leave the archive) is refused. Called by file.ts and
// dcp.ts.
import type { CheckpointFile, ReadRange } from "../../checkpoint.ts";
import { viewOf } from "../../data-view.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { ZIP_LIMITS } from "../../limits.ts";
import { mapBounded } from "../../map-bounded.ts";

/** An entry's bytes in the file, and their CRC-32 as the directory states it. */
export type ZipEntry = { readonly name: string; readonly offset: number; readonly bytes: number; readonly crc: number };

/** First bytes of every archive that has entries. */
export const ZIP_START = "PK\x03\x04";

const END_BYTES = 22;
const END64_LOCATOR_BYTES = 20;
const END64_BYTES = 56;
const CENTRAL_BYTES = 46;
const LOCAL_BYTES = 30;
/** A zip comment is at most this long; torch writes none, but the end record must be found behind one. */
const COMMENT_BYTES_MAX = 65_535;
const U32_MAX = 0xffff_ffff;
const ZIP64_EXTRA = 1;

/** Local headers are read together while they are this close; torch pads each by up to 64 bytes. */
const HEADER_GAP_BYTES = 16 * 1024;
/** Bytes of one read of local headers; 16 of them are in flight. */
const WINDOW_BYTES = 256 * 1024;
/** Bytes read behind the start of a window's last local header: its name and padding nearly always fit. */
const HEADER_GUESS_BYTES = 1024;

type CentralEntry = {
  readonly name: string;
  readonly rawName: Uint8Array;
  readonly bytes: number;
  readonly crc: number;
  readonly header: number;
};

type Directory = { readonly offset: number; readonly bytes: number; readonly entries: number };

/**
 * The entries by name, in directory order. Offsets are absolute: the local headers have been read and compared.
 * Cost: the end of the file, the directory, and the local headers, a few hundred bytes each.
 * Throws: ZipEndMissing, ZipInvalid, ZipTooLarge, ZipEntryCompressed, ZipEntryEncrypted, ZipEntryNameInvalid,
 * ZipEntryRepeated.
 */
export async function readZip(read: ReadRange, file: CheckpointFile): Promise<ReadonlyMap<string, ZipEntry>> {
  const directory = await findDirectory(read, file);
  const records = parseDirectory(await read(directory.offset, directory.bytes), directory, file);
  const sorted = [...records].sort((a, b) => a.header - b.header);
  const starts = await readDataStarts(read, sorted, directory.offset, file);
  let position = 0;
  for (const record of sorted) {
    const start = starts.get(record.header) ?? 0;
    if (record.header < position || start + record.bytes > directory.offset) {
      const found = `bytes ${record.header} to ${start + record.bytes}`;
      throw entryError("ZipInvalid", file, record.name, found, `a range from ${position} to ${directory.offset}`);
    }
    position = start + record.bytes;
  }
  return new Map(
    records.map(
      ({ name, bytes, crc, header }) => [name, { name, bytes, crc, offset: starts.get(header) ?? 0 }] as const,
    ),
  );
}

function zipError(code: ErrorCode, { name }: CheckpointFile, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file: name }, found, expected });
}

function entryError(code: ErrorCode, file: CheckpointFile, entry: string, found: string, expected: string) {
  return new MergeyardError(code, { where: { file: file.name, field: entry.slice(0, 200) }, found, expected });
}

/** Where the directory is, by the end record or, when there is one, by the zip64 end record, which counts. */
async function findDirectory(read: ReadRange, file: CheckpointFile): Promise<Directory> {
  const tailBytes = Math.min(file.bytes, END_BYTES + COMMENT_BYTES_MAX + END64_LOCATOR_BYTES);
  const tailStart = file.bytes - tailBytes;
  const tail = viewOf(await read(tailStart, tailBytes));
  const end = findEnd(tail);
  if (end === undefined) throw zipError("ZipEndMissing", file, "no end record", "an end record");
  const locator = end - END64_LOCATOR_BYTES;
  const isZip64 = locator >= 0 && tail.getUint32(locator, true) === 0x0706_4b50;
  const directory = isZip64
    ? await readEnd64(read, file, tail.getBigUint64(locator + 8, true), tailStart + locator)
    : checkDirectory(file, tailStart + end, {
        disks: tail.getUint16(end + 4, true) + tail.getUint16(end + 6, true),
        entriesHere: tail.getUint16(end + 8, true),
        entries: tail.getUint16(end + 10, true),
        bytes: tail.getUint32(end + 12, true),
        offset: tail.getUint32(end + 16, true),
      });
  if (directory.entries > ZIP_LIMITS.entries || directory.bytes > ZIP_LIMITS.directoryBytes) {
    const expected = `at most ${ZIP_LIMITS.entries} entries in ${ZIP_LIMITS.directoryBytes} bytes`;
    throw zipError("ZipTooLarge", file, `${directory.entries} entries in ${directory.bytes} bytes`, expected);
  }
  return directory;
}

/** The last end record whose comment reaches exactly to the file's end. */
function findEnd(tail: DataView): number | undefined {
  for (let at = tail.byteLength - END_BYTES; at >= 0; at -= 1) {
    if (tail.getUint32(at, true) !== 0x0605_4b50) continue;
    if (at + END_BYTES + tail.getUint16(at + 20, true) === tail.byteLength) return at;
  }
  return undefined;
}

/** Values above 2^53 are rounded, and stay above the sizes of files that they are compared with. */
async function readEnd64(read: ReadRange, file: CheckpointFile, at: bigint, limit: number): Promise<Directory> {
  if (at + BigInt(END64_BYTES) > BigInt(limit)) {
    throw zipError("ZipInvalid", file, `a zip64 end record at ${at}`, `before byte ${limit}`);
  }
  const record = viewOf(await read(Number(at), END64_BYTES));
  if (record.getUint32(0, true) !== 0x0606_4b50) {
    throw zipError("ZipInvalid", file, "no zip64 end record where its locator points", "a zip64 end record");
  }
  return checkDirectory(file, Number(at), {
    disks: record.getUint32(16, true) + record.getUint32(20, true),
    entriesHere: Number(record.getBigUint64(24, true)),
    entries: Number(record.getBigUint64(32, true)),
    bytes: Number(record.getBigUint64(40, true)),
    offset: Number(record.getBigUint64(48, true)),
  });
}

function checkDirectory(
  file: CheckpointFile,
  limit: number,
  { disks, entriesHere, ...directory }: Directory & { readonly disks: number; readonly entriesHere: number },
): Directory {
  if (disks !== 0 || entriesHere !== directory.entries) {
    throw zipError("ZipInvalid", file, "an archive of several files", "one file");
  }
  if (directory.offset + directory.bytes <= limit && directory.entries * CENTRAL_BYTES <= directory.bytes) {
    return directory;
  }
  const found = `${directory.entries} entries in bytes ${directory.offset} to ${directory.offset + directory.bytes}`;
  throw zipError("ZipInvalid", file, found, `a directory before byte ${limit}`);
}

function parseDirectory(bytes: Uint8Array, { entries }: Directory, file: CheckpointFile): readonly CentralEntry[] {
  const view = viewOf(bytes);
  const records: CentralEntry[] = [];
  const names = new Set<string>();
  let at = 0;
  for (let index = 0; index < entries; index += 1) {
    if (at + CENTRAL_BYTES > bytes.length || view.getUint32(at, true) !== 0x0201_4b50) {
      throw zipError("ZipInvalid", file, `no directory entry ${index}`, `${entries} entries`);
    }
    const [nameBytes, extraBytes] = [view.getUint16(at + 28, true), view.getUint16(at + 30, true)];
    const end = at + CENTRAL_BYTES + nameBytes + extraBytes + view.getUint16(at + 32, true);
    if (end > bytes.length) throw zipError("ZipInvalid", file, `entry ${index} past the directory`, "whole entries");
    const rawName = bytes.subarray(at + CENTRAL_BYTES, at + CENTRAL_BYTES + nameBytes);
    const name = readName(rawName, file);
    if (names.has(name)) throw entryError("ZipEntryRepeated", file, name, "the name again", "every name once");
    names.add(name);
    const extra = bytes.subarray(at + CENTRAL_BYTES + nameBytes, at + CENTRAL_BYTES + nameBytes + extraBytes);
    records.push({ name, rawName, ...readSizes(view, at, extra, name, file) });
    at = end;
  }
  if (at !== bytes.length) throw zipError("ZipInvalid", file, `${at} bytes of entries`, `${bytes.length} bytes`);
  return records;
}

function readName(raw: Uint8Array, file: CheckpointFile): string {
  const name = new TextDecoder("utf-8", { ignoreBOM: true }).decode(raw);
  const isClean = name !== "" && name.isWellFormed() && !/[\\\p{Cc}\uFFFD]/u.test(name);
  if (isClean && !name.startsWith("/") && !name.split("/").includes("..")) return name;
  const expected = "a relative path without .. in it";
  throw entryError("ZipEntryNameInvalid", file, name, JSON.stringify(name.slice(0, 200)), expected);
}

/** Size and place of an entry; the zip64 field counts for what does not fit in 32 bits. */
function readSizes(view: DataView, at: number, extra: Uint8Array, name: string, file: CheckpointFile) {
  const [flags, method] = [view.getUint16(at + 8, true), view.getUint16(at + 10, true)];
  if ((flags & 1) !== 0) throw entryError("ZipEntryEncrypted", file, name, "an encrypted entry", "stored bytes");
  if (method !== 0) throw entryError("ZipEntryCompressed", file, name, `method ${method}`, "method 0, stored");
  const wide = readZip64(extra);
  const take = (offset: number): number => {
    const value = view.getUint32(at + offset, true);
    if (value !== U32_MAX) return value;
    const next = wide.shift();
    if (next !== undefined) return Number(next);
    throw entryError("ZipInvalid", file, name, "a size without its zip64 field", "a zip64 field");
  };
  const [bytes, storedBytes, header] = [take(24), take(20), take(42)];
  if (bytes !== storedBytes) {
    throw entryError("ZipEntryCompressed", file, name, `${storedBytes} bytes stored of ${bytes}`, "the same size");
  }
  return { bytes, crc: view.getUint32(at + 16, true), header };
}

/** The 64-bit values of the zip64 extra field, in its order; none when there is no such field. */
function readZip64(extra: Uint8Array): bigint[] {
  const view = viewOf(extra);
  for (let at = 0; at + 4 <= extra.length; at += 4 + view.getUint16(at + 2, true)) {
    const bytes = view.getUint16(at + 2, true);
    if (view.getUint16(at, true) !== ZIP64_EXTRA || at + 4 + bytes > extra.length) continue;
    return Array.from({ length: Math.floor(bytes / 8) }, (_, index) => view.getBigUint64(at + 4 + 8 * index, true));
  }
  return [];
}

/** By local header: where the entry's bytes begin. Each local header is compared with the directory. */
async function readDataStarts(
  read: ReadRange,
  sorted: readonly CentralEntry[],
  limit: number,
  file: CheckpointFile,
): Promise<ReadonlyMap<number, number>> {
  const starts = new Map<number, number>();
  await mapBounded(groupHeaders(sorted), async (group) => {
    const from = group[0]?.header ?? 0;
    const last = group.at(-1)?.header ?? from;
    if (last + LOCAL_BYTES > limit) {
      throw zipError("ZipInvalid", file, `a local header at byte ${last}`, `before the directory at ${limit}`);
    }
    const bytes = await read(from, Math.min(limit, last + HEADER_GUESS_BYTES) - from);
    for (const record of group) starts.set(record.header, checkLocal(bytes, record.header - from, record, file));
  });
  return starts;
}

function groupHeaders(sorted: readonly CentralEntry[]): readonly (readonly CentralEntry[])[] {
  const groups: CentralEntry[][] = [];
  for (const record of sorted) {
    const group = groups.at(-1);
    const [first, last] = [group?.[0], group?.at(-1)];
    const near = first !== undefined && last !== undefined && record.header - last.header < HEADER_GAP_BYTES;
    if (group !== undefined && near && record.header - first.header < WINDOW_BYTES) group.push(record);
    else groups.push([record]);
  }
  return groups;
}

function checkLocal(bytes: Uint8Array, at: number, record: CentralEntry, file: CheckpointFile): number {
  const view = viewOf(bytes);
  const refuse = (found: string, expected: string) => entryError("ZipInvalid", file, record.name, found, expected);
  if (at + LOCAL_BYTES > bytes.length || view.getUint32(at, true) !== 0x0403_4b50) {
    throw refuse("no local header where the directory points", "a local header");
  }
  if ((view.getUint16(at + 6, true) & 1) !== 0 || view.getUint16(at + 8, true) !== 0) {
    throw refuse("a local header of a compressed or encrypted entry", "stored, as the directory says");
  }
  const [nameBytes, extraBytes] = [view.getUint16(at + 26, true), view.getUint16(at + 28, true)];
  const name = bytes.subarray(at + LOCAL_BYTES, at + LOCAL_BYTES + nameBytes);
  if (name.length !== record.rawName.length || name.some((byte, index) => byte !== record.rawName[index])) {
    throw refuse("another name in the local header", JSON.stringify(record.name.slice(0, 200)));
  }
  return record.header + LOCAL_BYTES + nameBytes + extraBytes;
}
