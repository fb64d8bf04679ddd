// Writing one file by regions that may be there already: what an earlier process has written whole is not sent again.
// Called by pushes, which read the whole file for its digest, and by pulls, which fetch what is missing.
import { hasCode } from "../core/error.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import type { ObjectStore, Region, RegionReceipt, RegionWriter, WriteTicket } from "../stores/store.ts";

/**
 * Bytes of a region of files up to 8 GiB. What is lost by a kill is a few of these; a store's smallest is 5 MiB.
 * A file of one region is written by one request.
 */
const REGION_BYTES = 8 * 1024 * 1024;

/** Regions of one file that are being closed while the next one is filled; each holds a part or two. */
const CLOSES_IN_FLIGHT = 3;

/** Equal regions but the last, as many as the store takes at most. */
export function cutRegions(bytes: number): readonly Region[] {
  const wanted = Math.ceil(bytes / STORE_LIMITS.regions / REGION_BYTES) * REGION_BYTES;
  const regionBytes = Math.max(REGION_BYTES, wanted);
  return Array.from({ length: Math.ceil(bytes / regionBytes) }, (_, index) => {
    const offset = index * regionBytes;
    return { offset, bytes: Math.min(regionBytes, bytes - offset) };
  });
}

/** A write that an earlier process began, and the receipts of its regions that are whole; undefined when it is gone. */
export async function recoverWrite(store: ObjectStore, ticket: WriteTicket | undefined, signal: AbortSignal) {
  if (ticket === undefined) return undefined;
  try {
    return { ticket, receipts: await store.recoverRegions(ticket, { signal }) };
  } catch (cause) {
    // Removed meanwhile, by a rule of the bucket or by somebody who cleaned up: begun anew.
    if (hasCode(cause, "StoreTicketInvalid")) return undefined;
    throw cause;
  }
}

type Sender = {
  /** Takes the file's next bytes, from the start of the first region on; the number of them that had to be sent. */
  send(piece: Uint8Array): Promise<number>;
  /** Waits for what is on its way; rejects with the first failure, if none was met before. */
  settle(): Promise<void>;
};

/** Sends the regions from `first` on that have no receipt yet, and puts their receipts with the others. */
export function createSender(
  store: ObjectStore,
  ticket: WriteTicket,
  receipts: Map<number, RegionReceipt>,
  signal: AbortSignal,
  first = 0,
): Sender {
  const closing: Promise<void>[] = [];
  let [index, filled] = [first, 0];
  let writer: RegionWriter | undefined;
  const close = async (open: RegionWriter) => {
    const receipt = await open.close();
    receipts.set(receipt.index, receipt);
  };
  const endRegion = async () => {
    if (writer !== undefined) {
      const closed = close(writer);
      closed.catch(() => undefined); // met below, or by `settle`
      closing.push(closed);
    }
    [index, filled, writer] = [index + 1, 0, undefined];
    if (closing.length > CLOSES_IN_FLIGHT) await closing.shift();
  };
  return {
    async send(piece) {
      let sent = 0;
      for (let done = 0; done < piece.length; ) {
        const bytes = Math.min(piece.length - done, (ticket.regions[index]?.bytes ?? 0) - filled);
        if (!receipts.has(index)) {
          writer ??= await store.openRegion(ticket, index, { signal });
          await writer.write(piece.subarray(done, done + bytes));
          sent += bytes;
        }
        done += bytes;
        filled += bytes;
        if (filled === ticket.regions[index]?.bytes) await endRegion();
      }
      return sent;
    },
    async settle() {
      await Promise.all(closing);
    },
  };
}
