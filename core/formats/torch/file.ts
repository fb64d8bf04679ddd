// One file of torch.save, in the zip form or the legacy form: its object as data, and every storage as a byte range.
// No byte of a storage is read. Called by the readers of torch, DeepSpeed and DCP.
// Source: reference checkpoint-formats.md sections 2.1 to 2.3.
import assert from "node:assert/strict";
import { type Digest, digestBytes } from "../../artifact/digest.ts";
import type { ByteRange, CheckpointFile, ReadRange } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { PICKLE_LIMITS } from "../../limits.ts";
import { isSafetensorsStart, recogniseForeign } from "../foreign-content.ts";
import { unpickle } from "../pickle/pickle.ts";
import type { PickleStorage, PickleTensor } from "../pickle/value.ts";
import { isLegacyStart, readLegacyTorch } from "./legacy.ts";
import { createStorageClaims, type TorchFile } from "./storage.ts";
import { type PlacedTorchTensor, placeTensor } from "./tensor.ts";
import { readZip, ZIP_START, type ZipEntry } from "./zip.ts";

/** Enough to tell what a file is: a tar says so at byte 257. */
const START_BYTES = 512;

/**
 * The object of a torch file and the ranges of its storages. Cost: the zip directory, the pickle, and a few hundred
 * bytes for each storage. Throws: Torch, Zip and Pickle codes.
 */
export async function readTorchFile(read: ReadRange, file: CheckpointFile): Promise<TorchFile> {
  const start = await read(0, Math.min(file.bytes, START_BYTES));
  if (startsWith(start, ZIP_START)) return readZipTorch(read, file);
  if (isLegacyStart(start)) return readLegacyTorch(read, file);
  throw refuseStart(start, file);
}

function refuseStart(start: Uint8Array, file: CheckpointFile): MergeyardError {
  const foreign = recogniseForeign(start);
  const expected = "a file of torch.save";
  const where = { file: file.name };
  if (foreign !== undefined) {
    return new MergeyardError("TorchForeignContent", { where, found: foreign.what, expected, hint: foreign.hint });
  }
  if (isSafetensorsStart(start)) {
    const hint = "name it *.safetensors";
    return new MergeyardError("TorchForeignContent", { where, found: "a safetensors file", expected, hint });
  }
  const isTar = startsWith(start.subarray(257), "ustar");
  const found = file.bytes === 0 ? "an empty file" : isTar ? "a tar, as torch 0.1 wrote" : "unknown first bytes";
  return new MergeyardError("TorchNotRecognised", { where, found, expected });
}

function startsWith(bytes: Uint8Array, text: string): boolean {
  return bytes.length >= text.length && [...text].every((character, index) => bytes[index] === character.charCodeAt(0));
}

async function readZipTorch(read: ReadRange, file: CheckpointFile): Promise<TorchFile> {
  const entries = await readZip(read, file);
  const root = findRoot(entries, file);
  await checkByteOrder(read, entries.get(`${root}byteorder`), file);
  const pickle = needEntry(entries, `${root}data.pkl`, file);
  if (pickle.bytes > PICKLE_LIMITS.bytes) {
    const found = `${pickle.bytes} bytes of pickle`;
    throw torchError("PickleTooLarge", file, found, `at most ${PICKLE_LIMITS.bytes}`);
  }
  const bytes = await read(pickle.offset, pickle.bytes);
  const claims = createStorageClaims(file.name);
  const { value, end } = unpickle(bytes, { file: file.name, persistent: claims.persistent });
  if (end !== bytes.length) throw torchError("PickleTrailing", file, `${bytes.length - end} bytes`, "none after STOP");
  const storages = new Map<string, ByteRange>();
  for (const [key, storage] of claims.storages) {
    const entry = needEntry(entries, `${root}data/${key}`, file);
    storages.set(key, checkStorage(storage, entry, file));
  }
  return { value, storages, root: root.slice(0, -1), contents: contentsOf(entries) };
}

/** By sizes and checksums of all entries. torch writes zeros for checksums when it is told to leave them out. */
function contentsOf(entries: ReadonlyMap<string, ZipEntry>): Digest | undefined {
  const sums = [...entries.values()].map(({ bytes, crc }) => `${bytes} ${crc}`);
  return [...entries.values()].some(({ crc }) => crc !== 0) ? digestBytes(sums.join()) : undefined;
}

function torchError(code: ErrorCode, file: CheckpointFile, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file: file.name }, found, expected });
}

/** The folder of `data.pkl`, with its slash. */
function findRoot(entries: ReadonlyMap<string, ZipEntry>, file: CheckpointFile): string {
  const roots = [...entries.keys()].filter((name) => /^[^/]*\/data\.pkl$/.test(name)).map((name) => name.slice(0, -8));
  const [root, ...others] = roots;
  if (root === undefined) throw torchError("TorchRecordMissing", file, "no data.pkl", "a file of torch.save");
  if (others.length > 0) {
    throw torchError("TorchRootAmbiguous", file, `data.pkl in ${roots.join(" and ").slice(0, 200)}`, "one data.pkl");
  }
  const isScript = [...entries.keys()].some(
    (name) => name.startsWith(`${root}code/`) || name === `${root}constants.pkl`,
  );
  if (isScript) throw torchError("TorchScriptUnsupported", file, "a TorchScript module", "a file of torch.save");
  return root;
}

async function checkByteOrder(read: ReadRange, entry: ZipEntry | undefined, file: CheckpointFile): Promise<void> {
  if (entry === undefined) return;
  const text = new TextDecoder().decode(await read(entry.offset, Math.min(16, entry.bytes))).trim();
  if (text !== "little") throw torchError("TorchByteOrderUnsupported", file, JSON.stringify(text), '"little"');
}

function needEntry(entries: ReadonlyMap<string, ZipEntry>, name: string, file: CheckpointFile): ZipEntry {
  const entry = entries.get(name);
  if (entry !== undefined) return entry;
  const where = { file: file.name, field: name.slice(0, 200) };
  throw new MergeyardError("TorchRecordMissing", { where, found: "no such entry", expected: "the entry" });
}

function checkStorage(storage: PickleStorage, entry: ZipEntry, file: CheckpointFile): ByteRange {
  const bytes = storage.count * storage.element.bytes;
  if (bytes === entry.bytes) return { file: file.name, offset: entry.offset, bytes };
  const where = { file: file.name, field: entry.name };
  const expected = `${bytes} bytes (${storage.count} of ${storage.type})`;
  throw new MergeyardError("TorchStorageSizeMismatch", { where, found: `${entry.bytes} bytes`, expected });
}

/** The ranges of a tensor of the file. Throws what placeTensor throws. */
export function placeTorchTensor(file: TorchFile, tensor: PickleTensor, name: string): PlacedTorchTensor {
  const storage = file.storages.get(tensor.storage.key);
  assert.ok(storage !== undefined, "every storage of a pickle has been placed");
  return placeTensor(tensor, storage, name);
}
