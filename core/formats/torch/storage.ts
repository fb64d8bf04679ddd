// What both forms of torch files come to, and their persistent ids: each names a storage by key, class and count. One
// key has one class and one count in a file; where its bytes lie is the business of file.ts and legacy.ts.
import type { Digest } from "../../artifact/digest.ts";
import type { ByteRange } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { asKind, describeValue, isCount, itemsOf, type PickleStorage, type PickleValue } from "../pickle/value.ts";
import { TORCH_DTYPES, TORCH_STORAGES } from "./dtype.ts";

/**
 * A file of torch.save as data: `value` as the pickle gave it; `storages` by key. In the zip form also `root`, the name
 * that the file was saved under ("archive" where torch did not know it), and `contents`, which equal files share and
 * others do not: undefined where the writer left the checksums out.
 */
export type TorchFile = {
  readonly value: PickleValue;
  readonly storages: ReadonlyMap<string, ByteRange>;
  readonly root?: string;
  readonly contents?: Digest | undefined;
};

/** Storages that the ids of a pickle named, by key, and the reader of such ids. */
export type StorageClaims = {
  readonly storages: ReadonlyMap<string, PickleStorage>;
  readonly persistent: (id: PickleValue) => PickleStorage;
};

const UNTYPED = { name: "uint8", dtype: "U8", bytes: 1 } as const;

/**
 * Reads ("storage", class, key, location, count) and, in legacy files, a view of another storage behind it.
 * Throws: PicklePersistentIdInvalid, PickleGlobalRefused, TorchStorageSizeMismatch, TorchStorageTypeConflict.
 */
export function createStorageClaims(file: string): StorageClaims {
  const storages = new Map<string, PickleStorage>();
  const persistent = (id: PickleValue): PickleStorage => {
    const storage = readStorage(id, file);
    const before = storages.get(storage.key);
    if (before === undefined) storages.set(storage.key, storage);
    else if (before.type !== storage.type) {
      throw storageError("TorchStorageTypeConflict", file, storage.key, storage.type, before.type);
    } else if (before.count !== storage.count) {
      const found = `${storage.count} elements`;
      throw storageError("TorchStorageSizeMismatch", file, storage.key, found, `${before.count}, as before`);
    }
    return storage;
  };
  return { storages, persistent };
}

function storageError(code: ErrorCode, file: string, key: string, found: string, expected: string): MergeyardError {
  return new MergeyardError(code, { where: { file, field: `storage ${key.slice(0, 200)}` }, found, expected });
}

function readStorage(id: PickleValue, file: string): PickleStorage {
  const [tag, type, key, location, count, view, ...others] = asKind(id, "tuple")?.items ?? [];
  if (tag !== "storage" || typeof key !== "string" || typeof location !== "string" || others.length > 0) {
    const found = asKind(id, "tuple") === undefined ? describeValue(id) : `a tuple of ${describeValue(tag)}`;
    const expected = 'a tuple ("storage", class, key, location, count)';
    throw new MergeyardError("PicklePersistentIdInvalid", { where: { file }, found, expected });
  }
  const element = elementOf(type);
  if (element === undefined) {
    const expected = "a storage class of torch";
    throw new MergeyardError("PickleGlobalRefused", { where: { file }, found: describeValue(type), expected });
  }
  if (!isCount(count)) {
    throw storageError("TorchStorageSizeMismatch", file, key, `${describeValue(count)} elements`, "a count");
  }
  const { name, dtype, bytes } = element;
  return {
    kind: "storage",
    type: name,
    element: { dtype, bytes },
    key,
    count,
    view: view === undefined || view === null ? undefined : readView(view, file),
  };
}

function elementOf(type: PickleValue | undefined) {
  const name = asKind(type, "global")?.name;
  if (name === "torch.storage UntypedStorage") return UNTYPED;
  const dtypeName = name === undefined ? undefined : TORCH_STORAGES.get(name.replace(/^torch /, ""));
  const dtype = dtypeName === undefined ? undefined : TORCH_DTYPES.get(dtypeName);
  return dtypeName === undefined || dtype === undefined ? undefined : { name: dtypeName, ...dtype };
}

/** (key of the view, offset, count) in elements of the storage that it is a part of. */
function readView(view: PickleValue, file: string): PickleStorage["view"] {
  const [key, offset, count, ...others] = itemsOf(view) ?? [];
  if (typeof key === "string" && isCount(offset) && isCount(count) && others.length === 0) return { offset, count };
  const expected = "a view: (key, offset, count)";
  throw new MergeyardError("PicklePersistentIdInvalid", { where: { file }, found: describeValue(view), expected });
}
