// Fetching one file of a version. A large one is written by regions, and a record beside it says of which write: when a
// pull is killed, the next one fetches only the regions that are not there. Called by pull.ts.
import * as z from "zod";
import { digestBytes } from "../../core/artifact/digest.ts";
import type { ManifestFile } from "../../core/artifact/manifest.ts";
import { ticketSchema } from "../../core/artifact/upload.ts";
import { hasCode } from "../../core/error.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore, RegionReceipt, WriteTicket } from "../../stores/store.ts";
import { encodeRecord, readRecord } from "../records.ts";
import { createSender, cutRegions, recoverWrite } from "../region-sender.ts";
import { copyVerified, createFileVerifier, fileIsWhole, readPieces, type StreamSource } from "../stream.ts";

/** How the keys of records begin; they are there while their files are fetched. */
const RECORD = ".mergeyard-fetch-";
const recordSchema = z.strictObject({ fetch: z.literal(1), ticket: ticketSchema });

/**
 * The file at its name in the folder, its bytes as listed; returns those that an earlier pull had fetched, while `took`
 * learns of the others. A file that was gone on with is checked as a whole, once it is there.
 * Throws YardFileCorrupt, and what the stores throw; then what was fetched waits for the next pull, unless it is wrong.
 */
export async function fetchFile(
  source: StreamSource,
  target: ObjectStore,
  file: ManifestFile,
  signal: AbortSignal,
  took: (bytes: number) => void,
): Promise<number> {
  const regions = cutRegions(file.bytes);
  const whole = () => copyVerified(source, { store: target, key: file.name }, file, signal, took);
  if (regions.length < 2) {
    await whole();
    return 0;
  }
  const record = recordKey(file);
  const earlier = (await readRecord(target, record, recordSchema, signal))?.value.ticket;
  const found = await recoverWrite(target, earlier?.bytes === file.bytes ? earlier : undefined, signal);
  const ticket = found?.ticket ?? (await target.beginWrite(file.name, file.bytes, regions, { signal }));
  if (found === undefined) {
    const bytes = encodeRecord({ fetch: 1, ticket });
    await writeBytes(target, record, bytes, { signal });
  }
  const receipts = new Map((found?.receipts ?? []).map((receipt) => [receipt.index, receipt]));
  const known = [...receipts.keys()].reduce((sum, index) => sum + (ticket.regions[index]?.bytes ?? 0), 0);
  const fetched = { source, target, file, ticket, receipts, signal, took };
  const isRight = await (known === 0 ? fetchAll(fetched) : fetchRest(fetched)).catch(async (error: unknown) => {
    if (hasCode(error, "YardFileCorrupt")) await dropFetch(target, record, ticket);
    throw error;
  });
  await target.delete(record, { signal });
  if (isRight) return known;
  await target.delete(file.name, { signal });
  await whole();
  return 0;
}

/** Ends the writes that were begun for files that are not wanted any more. */
export async function dropFetches(target: ObjectStore, signal: AbortSignal): Promise<void> {
  for await (const { key } of target.list(RECORD, { signal })) {
    const record = await readRecord(target, key, recordSchema, signal);
    if (record !== undefined) await dropFetch(target, key, record.value.ticket);
  }
}

async function dropFetch(target: ObjectStore, record: string, ticket: WriteTicket): Promise<void> {
  await target.abortWrite(ticket);
  await target.delete(record);
}

/** Another file, or another content of it, has another record. */
function recordKey({ name, digest }: ManifestFile): string {
  return `${RECORD}${digestBytes(JSON.stringify([name, digest])).slice("sha256:".length, "sha256:".length + 16)}.json`;
}

type Fetch = {
  readonly source: StreamSource;
  readonly target: ObjectStore;
  readonly file: ManifestFile;
  readonly ticket: WriteTicket;
  readonly receipts: Map<number, RegionReceipt>;
  readonly signal: AbortSignal;
  readonly took: (bytes: number) => void;
};

/** Nothing is there: the bytes are checked on their way, before the file appears. */
async function fetchAll(fetch: Fetch): Promise<true> {
  const { source, target, file, ticket, receipts, signal } = fetch;
  const verifier = createFileVerifier(file, { store: source.store.uri, key: source.key });
  await fetchSpan(fetch, 0, file.bytes, (piece) => verifier.update(piece));
  verifier.finish();
  await target.finishWrite(ticket, [...receipts.values()], { signal });
  return true;
}

/** Fetches what is missing; false when the file is then not what it should be, by what was there or what came. */
async function fetchRest(fetch: Fetch): Promise<boolean> {
  const { target, file, ticket, receipts, signal } = fetch;
  const missing = ticket.regions.map((_, index) => !receipts.has(index));
  for (let first = missing.indexOf(true); first >= 0; ) {
    const end = missing.indexOf(false, first);
    const last = end < 0 ? missing.length : end;
    await fetchSpan(fetch, first, ticket.regions[last]?.offset ?? file.bytes, () => {});
    first = missing.indexOf(true, last);
  }
  await target.finishWrite(ticket, [...receipts.values()], { signal });
  return await fileIsWhole(target, file.name, file, signal);
}

/** The bytes from the start of a region up to `endByte`. */
async function fetchSpan(
  { source, target, ticket, receipts, signal, took }: Fetch,
  first: number,
  endByte: number,
  observe: (piece: Uint8Array) => void,
): Promise<void> {
  const sender = createSender(target, ticket, receipts, signal, first);
  const start = ticket.regions[first]?.offset ?? 0;
  try {
    for await (const piece of readPieces({ ...source, bytes: endByte }, signal, start)) {
      observe(piece);
      took(await sender.send(piece));
    }
  } finally {
    await sender.settle();
  }
}
