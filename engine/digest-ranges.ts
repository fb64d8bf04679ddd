// Digests of byte ranges, for what a merge says it was made from and did not read from end to end itself. Runs in a
// worker thread as merging does.
import { setImmediate as nextTurn } from "node:timers/promises";
import { createHasher, type Digest } from "../core/artifact/digest.ts";
import type { RegionDeps } from "./merge-region.ts";
import type { StoredRange } from "./request.ts";

/** Bytes of one read; two are held, and one is read while the other is digested. */
const PIECE_BYTES = 4 * 2 ** 20;

/** Digests of the ranges, in order. Throws what the store throws. */
export async function digestRanges(
  ranges: readonly StoredRange[],
  deps: Omit<RegionDeps, "kernels">,
): Promise<readonly Digest[]> {
  const digests: Digest[] = [];
  const largest = ranges.reduce((most, { bytes }) => Math.max(most, bytes), 0);
  const memory = [0, 1].map(() => new Uint8Array(Math.min(PIECE_BYTES, largest)));
  for (const range of ranges) digests.push(await digestRange(range, memory, deps));
  return digests;
}

async function digestRange(
  { store: uri, key, offset, bytes }: StoredRange,
  memory: readonly Uint8Array[],
  { openStore, signal, progress }: Omit<RegionDeps, "kernels">,
): Promise<Digest> {
  const store = openStore(uri);
  const hasher = createHasher();
  const read = async (done: number, turn: number): Promise<Uint8Array> => {
    const piece = (memory[turn % 2] ?? new Uint8Array(0)).subarray(0, Math.min(PIECE_BYTES, bytes - done));
    await store.readInto(key, offset + done, piece, { signal, mayBlock: store.isLocal });
    return piece;
  };
  let ahead = bytes > 0 ? read(0, 0) : undefined;
  for (let done = 0, turn = 0; ahead !== undefined; turn += 1) {
    signal.throwIfAborted();
    const piece = await ahead;
    done += piece.length;
    ahead = done < bytes ? read(done, turn + 1) : undefined;
    ahead?.catch(() => undefined); // awaited by the next turn
    hasher.update(piece);
    progress(piece.length, 0);
    await nextTurn();
  }
  return hasher.digest();
}
