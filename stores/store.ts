// The object store interface: the only way any step touches bytes. It is small on purpose: what S3 (and every S3
// server we support) can honour, and what a folder can honour with fsync and rename. Implementations: directory.ts,
// memory.ts, s3.ts; wrappers: retry.ts, verify.ts, faulty.ts. All pass test/stores/conformance.ts.
//
// Keys are relative paths with `/`, validated by `core/artifact/key.ts`; a store never sees `..` or a leading `/`.
// Conditional writes exist for small objects only (`create`, `replace`): the one form every S3 server honours.
// Large objects are written unconditionally by regions, under a key that only one unit owns.

/** What a store knows of one object. `etag` changes whenever the content may have changed. */
export type ObjectInfo = {
  readonly key: string;
  readonly bytes: number;
  readonly etag: string;
  readonly modifiedMs: number;
};

export type CreateResult = { readonly created: boolean; readonly etag: string };
export type ReplaceResult = { readonly replaced: boolean; readonly etag: string };

/** A contiguous span of a large object that one thread writes from its start to its end. */
export type Region = { readonly offset: number; readonly bytes: number };

/**
 * A large object being written. Plain data: it is handed to worker threads, which attach to it with `openRegion`.
 * Nothing is visible under `key` before `finishWrite`.
 */
export type WriteTicket = {
  readonly key: string;
  readonly bytes: number;
  readonly regions: readonly Region[];
  /** Store-specific: a temporary path, an upload id. */
  readonly token: string;
};

/**
 * What closing a region yields and `finishWrite` needs; plain data (S3 part numbers and ETags; nothing for a folder).
 */
export type RegionReceipt = { readonly index: number; readonly parts: readonly { number: number; etag: string }[] };

export interface RegionWriter {
  /** Append to the region. The bytes may be reused by the caller once the promise resolves. */
  write(bytes: Uint8Array): Promise<void>;
  /** Throws StoreRegionIncomplete unless exactly the region's bytes were written. */
  close(): Promise<RegionReceipt>;
}

export type StoreOptions = { readonly signal?: AbortSignal | undefined };

export type TransferOptions = StoreOptions & {
  /**
   * The calling thread has nothing else to do: a local store may wait for the bytes within the call, which costs less
   * than waking another thread. Who goes on like that gives the event loop a turn now and then.
   */
  readonly mayBlock?: boolean | undefined;
};

export type ConditionalOptions = StoreOptions & {
  /**
   * Names one conditional write over all its attempts (the retry wrapper sets it). A repetition that meets the object
   * which an earlier attempt of the same write put there, its answer lost, says that the write happened. Stores that
   * never fail after taking effect ignore it.
   */
  readonly writeId?: string | undefined;
};

export interface ObjectStore {
  /** `file:///…`, `s3://bucket/prefix` or `memory://name`: opens the same store again in another process. */
  readonly uri: string;

  /** Its bytes lie on this machine, at the other end of a system call and not of a network. */
  readonly isLocal: boolean;

  /** Undefined when there is no such object. */
  head(key: string, options?: StoreOptions): Promise<ObjectInfo | undefined>;

  /**
   * Fills `into` from `offset`. Throws StoreObjectMissing, or StoreShortRead when the object ends before `into` is
   * full: a short read never becomes zeros.
   */
  readInto(key: string, offset: number, into: Uint8Array, options?: TransferOptions): Promise<void>;

  /** A whole small object; undefined when missing; StoreObjectTooLarge beyond `limitBytes` (before it is read). */
  get(key: string, limitBytes: number, options?: StoreOptions): Promise<StoredObject | undefined>;

  /** Objects whose key starts with `prefix`, sorted by key bytes. */
  list(prefix: string, options?: StoreOptions): AsyncIterable<ObjectInfo>;

  /** Create-if-absent of a small object (S3: If-None-Match). `created: false` when something was there before. */
  create(key: string, bytes: Uint8Array, options?: ConditionalOptions): Promise<CreateResult>;

  /**
   * Compare-and-swap of a small object (S3: If-Match). `replaced: false` when the object is not at `etag` any more,
   * with the ETag that it is at ("" when there is none). After a lost answer this may also follow a swap that took
   * effect and was itself overwritten at once; so make updates that may be applied twice.
   */
  replace(key: string, bytes: Uint8Array, etag: string, options?: ConditionalOptions): Promise<ReplaceResult>;

  /**
   * Begin a large object of known size. Regions cover [0, bytes) in order, each at least 5 MiB but the last; at most
   * 1000 of them, none for an empty object.
   */
  beginWrite(key: string, bytes: number, regions: readonly Region[], options?: StoreOptions): Promise<WriteTicket>;
  openRegion(ticket: WriteTicket, index: number, options?: TransferOptions): Promise<RegionWriter>;
  /**
   * Makes the object visible, whole. Overwrites what was there (the caller owns the key). Repeating it after it
   * succeeded gives the same answer, as long as the object has not been overwritten since.
   */
  finishWrite(ticket: WriteTicket, receipts: readonly RegionReceipt[], options?: StoreOptions): Promise<ObjectInfo>;
  /**
   * Receipts of the regions that are whole already, after a crash of whoever wrote them: the others are written again.
   * Throws StoreTicketInvalid for what was finished, discarded or never begun. An object of one small region may be
   * known to the store that began it alone, and has no receipts to recover.
   */
  recoverRegions(ticket: WriteTicket, options?: StoreOptions): Promise<readonly RegionReceipt[]>;
  /** Discards what was written; also after a crash of the writer. Never fails on an unknown ticket. */
  abortWrite(ticket: WriteTicket, options?: StoreOptions): Promise<void>;

  /** Server-side copy (S3) or hard link (folder) within the store. Overwrites the target. */
  copy(sourceKey: string, targetKey: string, options?: StoreOptions): Promise<ObjectInfo>;

  /** Removing what is not there is no error. */
  delete(key: string, options?: StoreOptions): Promise<void>;
}

export type StoredObject = { readonly bytes: Uint8Array; readonly etag: string };

/** An object of a store. */
export type ObjectPlace = { readonly store: ObjectStore; readonly key: string };

/** A folder of a store: what has keys that begin with `prefix`, which is empty or ends in `/`. */
export type FolderPlace = { readonly store: ObjectStore; readonly prefix: string };

/** Opens a store by its URI; edges (cli, workers, functions, local) pass one to the steps. */
export type OpenStore = (uri: string) => ObjectStore;
