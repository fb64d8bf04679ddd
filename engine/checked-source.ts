// Reading tensors whose digests are known, in any order: a store that digests what is read of them from their start on,
// and in the end reads the rest of those that were read in parts or out of order. So nothing is made of bytes that are
// not what their checkpoint says. Called by the conversion in every format.
import { createHasher } from "../core/artifact/digest.ts";
import type { TensorFileListing } from "../core/artifact/listed-file.ts";
import { MergeyardError } from "../core/error.ts";
import type { ObjectStore, StoreOptions } from "../stores/store.ts";

export type CheckedSource = {
  /** Reads as the source does, and digests. */
  readonly store: ObjectStore;
  /** Ends with YardFileCorrupt, naming the tensor, unless every tensor that was read from is as it is listed. */
  finish(options: StoreOptions): Promise<void>;
};

/** Bytes read at a time of what was not read in order. */
const PIECE_BYTES = 1024 * 1024;

type Tracked = TensorFileListing["tensors"][number] & {
  readonly hasher: ReturnType<typeof createHasher>;
  /** Bytes from its start on that are digested. */
  done: number;
  isRead: boolean;
};

/** A source whose files under `prefix` hold the listed tensors. Memory: one piece at the end. */
export function checkSource(
  source: ObjectStore,
  prefix: string,
  listings: readonly TensorFileListing[],
): CheckedSource {
  const files = new Map(listings.map(({ name, tensors }) => [`${prefix}${name}`, track(tensors)]));
  return {
    store: {
      ...source,
      async readInto(key, offset, into, options) {
        await source.readInto(key, offset, into, options);
        for (const tensor of touched(files.get(key) ?? [], offset, into.length)) take(tensor, offset, into);
      },
    },
    async finish(options) {
      for (const [key, tensors] of files) {
        for (const tensor of tensors) if (tensor.isRead) await finishTensor(source, key, tensor, options);
      }
    },
  };
}

/** Tensors with bytes, by offset; listings have them in that order. */
function track(tensors: TensorFileListing["tensors"]): readonly Tracked[] {
  return tensors
    .filter(({ bytes }) => bytes > 0)
    .map((tensor) => ({ ...tensor, hasher: createHasher(), done: 0, isRead: false }));
}

function touched(tensors: readonly Tracked[], offset: number, bytes: number): readonly Tracked[] {
  let [low, high] = [0, tensors.length];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const tensor = tensors[middle];
    if (tensor !== undefined && tensor.offset + tensor.bytes <= offset) low = middle + 1;
    else high = middle;
  }
  let end = low;
  while ((tensors[end]?.offset ?? Number.POSITIVE_INFINITY) < offset + bytes) end += 1;
  return tensors.slice(low, end);
}

/** Digests the bytes that follow those that are digested; others come later, or are read again in the end. */
function take(tensor: Tracked, offset: number, bytes: Uint8Array): void {
  tensor.isRead = true;
  const from = tensor.offset + tensor.done;
  const to = Math.min(offset + bytes.length, tensor.offset + tensor.bytes);
  if (offset > from || to <= from) return;
  tensor.hasher.update(bytes.subarray(from - offset, to - offset));
  tensor.done += to - from;
}

async function finishTensor(store: ObjectStore, key: string, tensor: Tracked, options: StoreOptions): Promise<void> {
  const piece = new Uint8Array(Math.min(PIECE_BYTES, tensor.bytes - tensor.done));
  while (tensor.done < tensor.bytes) {
    const into = piece.subarray(0, tensor.bytes - tensor.done);
    const offset = tensor.offset + tensor.done;
    await store.readInto(key, offset, into, options);
    take(tensor, offset, into);
  }
  const found = tensor.hasher.digest();
  if (found === tensor.digest) return;
  const where = { store: store.uri, file: key, tensor: tensor.name };
  throw new MergeyardError("YardFileCorrupt", { where, found, expected: tensor.digest });
}
