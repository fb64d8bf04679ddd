// One region of a converted file: gathers its tensors and digests each window while it is written. Runs in a worker
// thread; everything that crosses the thread's border is plain data. Between folders of this machine the thread reads
// and writes by itself; else a window is read ahead while the one before is digested.
import { setImmediate as nextTurn } from "node:timers/promises";
import { createPartHasher, type Digest } from "../core/artifact/digest.ts";
import { tensorBytes } from "../core/tensor.ts";
import { gatherBytes } from "../core/universal/box.ts";
import type { RegionReceipt, WriteTicket } from "../stores/store.ts";
import { checkSource } from "./checked-source.ts";
import type { ConvertRequest } from "./convert-request.ts";
import { type GatherTensor, gatherPieces } from "./gather.ts";
import type { RegionDeps } from "./merge-region.ts";

/** Bytes after which signals, timers and messages get a turn of the event loop: a few milliseconds. */
const TURN_BYTES = 4 * 1024 * 1024;

export type ConvertRegionTask = {
  readonly index: number;
  readonly ticket: WriteTicket;
  readonly source: ConvertRequest["source"];
  readonly targetStore: string;
  /** Bytes that go before the first tensor: the file's header, in the first region. */
  readonly prologue: Uint8Array;
  readonly tensors: readonly GatherTensor[];
};

export type ConvertRegionResult = { readonly receipt: RegionReceipt; readonly digests: readonly Digest[] };

/** Writes the region's tensors and closes its part of the write. Throws UniversalReplicasDisagree, YardFileCorrupt. */
export async function convertRegion(
  { index, ticket, source, targetStore, prologue, tensors }: ConvertRegionTask,
  { openStore, signal, progress }: Omit<RegionDeps, "kernels">,
): Promise<ConvertRegionResult> {
  const [store, target] = [openStore(source.store), openStore(targetStore)];
  const mayBlock = store.isLocal && target.isLocal;
  const writer = await target.openRegion(ticket, index, { signal, mayBlock });
  if (prologue.byteLength > 0) await writer.write(prologue);
  const sizes = tensors.map(({ dtype, shape }) => tensorBytes(dtype, shape));
  const hasher = createPartHasher(sizes);
  const [from, to] = [
    tensors.reduce((sum, { gather, dtype }) => sum + gatherBytes(gather, dtype), 0),
    sizes.reduce((sum, bytes) => sum + bytes, 0),
  ];
  let sinceTurn = 0;
  const checked = checkSource(store, source.prefix, source.listings ?? []);
  for await (const piece of gatherPieces({ ...source, store: checked.store, mayBlock }, tensors, signal)) {
    const written = writer.write(piece);
    hasher.update(piece);
    await written;
    progress((from / to) * piece.length, piece.length);
    sinceTurn += piece.length;
    if (sinceTurn < TURN_BYTES) continue;
    await nextTurn();
    sinceTurn = 0;
  }
  await checked.finish({ signal });
  return { receipt: await writer.close(), digests: hasher.digests() };
}
