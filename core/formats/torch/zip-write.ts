// The layout of a zip archive of stored entries, as torch.save makes it: payloads at multiples of 64 bytes, sums and
// sizes behind each payload, a zip64 end record in any case. Every offset is known before a byte of the entries is;
// their CRC-32 are put in when they have passed by.
// Source: APPNOTE.TXT 6.3; reference checkpoint-formats.md section 2.1.

/** An entry to write, in the archive's order. */
export type ZipEntrySpec = { readonly name: string; readonly bytes: number };

export type ZipLayout = {
  /** By entry: the bytes before its payload. */
  readonly headers: readonly Uint8Array[];
  /** By entry: where its payload begins, counted from the archive's start. */
  readonly offsets: readonly number[];
  /** Bytes of what follows the payload. */
  descriptorBytes(index: number): number;
  descriptor(index: number, crc32: number): Uint8Array;
  readonly directoryBytes: number;
  /** The end of the archive, with the CRC-32 of every entry. */
  directory(crc32s: readonly number[]): Uint8Array;
  /** Size of the whole archive. */
  readonly bytes: number;
};

const ALIGNMENT = 64;
const LOCAL_BYTES = 30;
const CENTRAL_BYTES = 46;
const END_BYTES = 56 + 20 + 22;
const U32_MAX = 0xffff_ffff;
const U16_MAX = 0xffff;
/** Sums and sizes follow the payload (bit 3); names are UTF-8 (bit 11). */
const FLAGS = 0x0808;
/** 1980-01-01, the first day that the format knows: no time may reach the bytes. */
const DATE = 0x21;
const ZIP64_VERSION = 45;
const PLAIN_VERSION = 20;

/** A little-endian record, written field by field. */
class RecordWriter {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
  }

  u16(...values: readonly number[]): this {
    for (const value of values) {
      this.#view.setUint16(this.#at, value, true);
      this.#at += 2;
    }
    return this;
  }

  u32(...values: readonly number[]): this {
    for (const value of values) {
      this.#view.setUint32(this.#at, value, true);
      this.#at += 4;
    }
    return this;
  }

  u64(...values: readonly number[]): this {
    for (const value of values) {
      this.#view.setBigUint64(this.#at, BigInt(value), true);
      this.#at += 8;
    }
    return this;
  }

  raw(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }

  fill(count: number, value: number): this {
    this.bytes.fill(value, this.#at, this.#at + count);
    this.#at += count;
    return this;
  }
}

/** Where everything lies in an archive of these entries. Names must differ. */
export function planZip(entries: readonly ZipEntrySpec[]): ZipLayout {
  const names = entries.map(({ name }) => new TextEncoder().encode(name));
  const isWide = entries.map(({ bytes }) => bytes >= U32_MAX);
  const [headers, offsets, starts]: [Uint8Array[], number[], number[]] = [[], [], []];
  let position = 0;
  const descriptorBytes = (index: number): number => (isWide[index] === true ? 24 : 16);
  entries.forEach(({ bytes }, index) => {
    starts.push(position);
    const header = encodeLocal(names[index] ?? new Uint8Array(0), position, bytes, isWide[index] === true);
    headers.push(header);
    offsets.push(position + header.length);
    position += header.length + bytes + descriptorBytes(index);
  });
  const directoryStart = position;
  const centrals = entries.map((_, index) => {
    const wideFields = centralWides(entries[index]?.bytes ?? 0, starts[index] ?? 0);
    return CENTRAL_BYTES + (names[index]?.length ?? 0) + (wideFields.length === 0 ? 0 : 4 + 8 * wideFields.length);
  });
  const centralBytes = centrals.reduce((sum, bytes) => sum + bytes, 0);
  return {
    headers,
    offsets,
    descriptorBytes,
    descriptor(index, crc32) {
      const bytes = entries[index]?.bytes ?? 0;
      const record = new RecordWriter(descriptorBytes(index)).u32(0x0807_4b50, crc32);
      return (isWide[index] === true ? record.u64(bytes, bytes) : record.u32(bytes, bytes)).bytes;
    },
    directoryBytes: centralBytes + END_BYTES,
    directory(crc32s) {
      const record = new RecordWriter(centralBytes + END_BYTES);
      entries.forEach(({ bytes }, index) => {
        const central = { name: names[index] ?? new Uint8Array(0), bytes, start: starts[index] ?? 0 };
        encodeCentral(record, central, crc32s[index] ?? 0);
      });
      return encodeEnd(record, entries.length, centralBytes, directoryStart).bytes;
    },
    bytes: directoryStart + centralBytes + END_BYTES,
  };
}

/** Padded by an extra field of its own, so that the payload is aligned. */
function encodeLocal(name: Uint8Array, position: number, bytes: number, isWide: boolean): Uint8Array {
  const wideBytes = isWide ? 20 : 0;
  const bare = LOCAL_BYTES + name.length + wideBytes + 4;
  const padding = (ALIGNMENT - ((position + bare) % ALIGNMENT)) % ALIGNMENT;
  const record = new RecordWriter(bare + padding);
  record.u32(0x0403_4b50).u16(isWide ? ZIP64_VERSION : PLAIN_VERSION, FLAGS, 0, 0, DATE);
  const stated = isWide ? U32_MAX : 0;
  record
    .u32(0, stated, stated)
    .u16(name.length, wideBytes + 4 + padding)
    .raw(name);
  if (isWide) record.u16(1, 16).u64(bytes, bytes);
  return record.u16(0x4246, padding).fill(padding, 0x5a).bytes;
}

/** The 64-bit values of a directory entry that 32 bits cannot hold: both sizes, then the offset. */
function centralWides(bytes: number, start: number): readonly number[] {
  return [...(bytes >= U32_MAX ? [bytes, bytes] : []), ...(start >= U32_MAX ? [start] : [])];
}

type CentralEntry = { readonly name: Uint8Array; readonly bytes: number; readonly start: number };

function encodeCentral(record: RecordWriter, { name, bytes, start }: CentralEntry, crc32: number): void {
  const wides = centralWides(bytes, start);
  const version = wides.length > 0 ? ZIP64_VERSION : PLAIN_VERSION;
  const size = Math.min(bytes, U32_MAX);
  record.u32(0x0201_4b50).u16(version, version, FLAGS, 0, 0, DATE).u32(crc32, size, size);
  record.u16(name.length, wides.length === 0 ? 0 : 4 + 8 * wides.length, 0, 0, 0).u32(0, Math.min(start, U32_MAX));
  record.raw(name);
  if (wides.length > 0) record.u16(1, 8 * wides.length).u64(...wides);
}

function encodeEnd(record: RecordWriter, entries: number, centralBytes: number, start: number): RecordWriter {
  record.u32(0x0606_4b50).u64(44).u16(ZIP64_VERSION, ZIP64_VERSION).u32(0, 0);
  record.u64(entries, entries, centralBytes, start);
  record
    .u32(0x0706_4b50, 0)
    .u64(start + centralBytes)
    .u32(1);
  const count = Math.min(entries, U16_MAX);
  record.u32(0x0605_4b50).u16(0, 0, count, count);
  return record.u32(Math.min(centralBytes, U32_MAX), Math.min(start, U32_MAX)).u16(0);
}
