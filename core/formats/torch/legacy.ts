// The form that torch.save wrote before 1.6: five pickles one after the other, then every storage behind its count. The
// pickles' length is not stated, so a growing window is read until they end.
// Source: reference checkpoint-formats.md section 2.3.
import assert from "node:assert/strict";
import type { ByteRange, CheckpointFile, ReadRange } from "../../checkpoint.ts";
import { type ErrorCode, hasCode, MergeyardError } from "../../error.ts";
import { PICKLE_LIMITS, TORCH_LIMITS } from "../../limits.ts";
import { mapBounded } from "../../map-bounded.ts";
import { unpickle } from "../pickle/pickle.ts";
import { fieldOf, itemsOf, type PickleStorage, type PickleValue } from "../pickle/value.ts";
import { createStorageClaims, type TorchFile } from "./storage.ts";

const MAGIC = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;
/** LONG1 of 10 bytes, the number, STOP: the pickle of the magic number behind PROTO and, from protocol 4 on, FRAME. */
const NUMBER = Uint8Array.from([0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e]);
const PROTO_BYTES = 2;
const FRAME_BYTES = 9;
const COUNT_BYTES = 8;

/** True when a file begins with the pickle of the magic number. Another pickle is no torch file and is not read. */
export function isLegacyStart(start: Uint8Array): boolean {
  if (start[0] !== 0x80) return false;
  const at = PROTO_BYTES + (start[PROTO_BYTES] === 0x95 ? FRAME_BYTES : 0);
  return NUMBER.every((byte, index) => start[at + index] === byte);
}

type Pickles = {
  readonly value: PickleValue;
  readonly keys: readonly string[];
  readonly storages: ReadonlyMap<string, PickleStorage>;
  readonly end: number;
};

/**
 * Throws: Pickle codes, TorchByteOrderUnsupported, TorchRecordMissing, TorchStorageTruncated, TorchStorageSizeMismatch.
 */
export async function readLegacyTorch(read: ReadRange, file: CheckpointFile): Promise<TorchFile> {
  const { value, keys, storages, end } = await readPickles(read, file);
  const places: { readonly storage: PickleStorage; readonly range: ByteRange }[] = [];
  let position = end;
  for (const key of keys) {
    const storage = storages.get(key);
    if (storage === undefined) throw legacyError("TorchRecordMissing", file, `storage ${key} without use`, "its use");
    const bytes = storage.count * storage.element.bytes;
    const offset = position + COUNT_BYTES;
    position = offset + bytes;
    if (position > file.bytes) {
      throw legacyError("TorchStorageTruncated", file, `${file.bytes} bytes`, `storage ${key} to byte ${position}`);
    }
    places.push({ storage, range: { file: file.name, offset, bytes } });
  }
  if (position !== file.bytes) {
    throw legacyError("TorchStorageSizeMismatch", file, `${file.bytes} bytes`, `${position} by its storages`);
  }
  await checkCounts(read, places, file);
  return { value, storages: new Map(places.map(({ storage, range }) => [storage.key, range])) };
}

function legacyError(code: ErrorCode, file: CheckpointFile, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file: file.name }, found, expected });
}

/** Reads the pickles from a window that grows fourfold while they reach past it. */
async function readPickles(read: ReadRange, file: CheckpointFile): Promise<Pickles> {
  const limit = Math.min(file.bytes, PICKLE_LIMITS.bytes);
  for (let window = Math.min(limit, TORCH_LIMITS.legacyWindowBytes); ; window = Math.min(limit, window * 4)) {
    try {
      return parsePickles(await read(0, window), file);
    } catch (error) {
      if (!hasCode(error, "PickleTruncated") || window >= limit) throw error;
    }
  }
}

function parsePickles(bytes: Uint8Array, file: CheckpointFile): Pickles {
  const claims = createStorageClaims(file.name);
  let start = 0;
  const next = (persistent?: (id: PickleValue) => PickleValue): PickleValue => {
    const { value, end } = unpickle(bytes, {
      file: file.name,
      start,
      ...(persistent === undefined ? {} : { persistent }),
    });
    start = end;
    return value;
  };
  assert.equal(next(), MAGIC, "the caller has seen the magic number");
  const protocol = next();
  if (protocol !== PROTOCOL) throw legacyError("PickleInvalid", file, `protocol ${protocol}`, `${PROTOCOL}`);
  if (fieldOf(next(), "little_endian") !== true) {
    throw legacyError("TorchByteOrderUnsupported", file, "big-endian storages", "little-endian storages");
  }
  const value = next(claims.persistent);
  const keys = itemsOf(next());
  if (keys === undefined || !keys.every((key) => typeof key === "string")) {
    throw legacyError("PickleInvalid", file, "no list of storage keys", "a list of storage keys");
  }
  const listed = new Set(keys);
  const missing = [...claims.storages.keys()].find((key) => !listed.has(key));
  if (missing !== undefined || listed.size !== keys.length) {
    throw legacyError("TorchRecordMissing", file, `storage ${missing ?? "listed twice"}`, "every storage once");
  }
  return { value, keys, storages: claims.storages, end: start };
}

/** Before each storage its count stands again. */
async function checkCounts(
  read: ReadRange,
  places: readonly { readonly storage: PickleStorage; readonly range: ByteRange }[],
  file: CheckpointFile,
): Promise<void> {
  await mapBounded(places, async ({ storage, range }) => {
    const bytes = await read(range.offset - COUNT_BYTES, COUNT_BYTES);
    const count = new DataView(bytes.buffer, bytes.byteOffset, COUNT_BYTES).getBigInt64(0, true);
    if (count === BigInt(storage.count)) return;
    const found = `${count} elements`;
    throw legacyError("TorchStorageSizeMismatch", file, found, `${storage.count}, as storage ${storage.key} says`);
  });
}
