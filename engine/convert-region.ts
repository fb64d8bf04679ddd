// One region of a converted file: gathers its tensors, one window ahead, and digests each window while it is written.
// Runs in a worker thread; everything that crosses the thread's border is plain data.
import { createPartHasher, type Digest } from "../core/artifact/digest.ts";
import { tensorBytes } from "../core/tensor.ts";
import { gatherBytes } from "../core/universal/convert-plan.ts";
import type { RegionReceipt, WriteTicket } from "../stores/store.ts";
import type { ConvertRequest } from "./convert-request.ts";
import { type GatherTensor, gatherPieces } from "./gather.ts";
import type { RegionDeps } from "./merge-region.ts";

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

/** Writes the region's tensors and closes its part of the write. Throws UniversalReplicasDisagree. */
export async function convertRegion(
  { index, ticket, source, targetStore, prologue, tensors }: ConvertRegionTask,
  { openStore, signal, progress }: Omit<RegionDeps, "kernels">,
): Promise<ConvertRegionResult> {
  const writer = await openStore(targetStore).openRegion(ticket, index, { signal });
  if (prologue.byteLength > 0) await writer.write(prologue);
  const sizes = tensors.map(({ dtype, shape }) => tensorBytes(dtype, shape));
  const hasher = createPartHasher(sizes);
  const [from, to] = [
    tensors.reduce((sum, { gather, dtype }) => sum + gatherBytes(gather, dtype), 0),
    sizes.reduce((sum, bytes) => sum + bytes, 0),
  ];
  const [store, { prefix, model }] = [openStore(source.store), source];
  for await (const piece of gatherPieces({ store, prefix, model }, tensors, signal)) {
    const written = writer.write(piece);
    hasher.update(piece);
    await written;
    progress((from / to) * piece.length, piece.length);
  }
  return { receipt: await writer.close(), digests: hasher.digests() };
}
