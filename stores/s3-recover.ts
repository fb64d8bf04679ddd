// Going on with a multipart upload whose writer was killed: which of its regions the server has whole, by the numbers
// and sizes of its parts.
import { ListPartsCommand, type ListPartsCommandOutput, type Part } from "@aws-sdk/client-s3";
import { hasCode, MergeyardError } from "../core/error.ts";
import { withRetries } from "./retry.ts";
import { type Bucket, fullKey, request, unexpected } from "./s3-client.ts";
import { readETag } from "./s3-dialect.ts";
import { planParts } from "./s3-parts.ts";
import { MULTIPART } from "./s3-regions.ts";
import type { RegionReceipt, WriteTicket } from "./store.ts";

/** Receipts of the regions all of whose parts are there, in their sizes. Throws StoreTicketInvalid. */
export async function recoverUpload(
  bucket: Bucket,
  ticket: WriteTicket,
  signal: AbortSignal | undefined,
): Promise<readonly RegionReceipt[]> {
  if (!ticket.token.startsWith(MULTIPART)) return [];
  const found = new Map<number, Part>();
  for await (const part of listParts(bucket, ticket, signal)) found.set(part.PartNumber ?? 0, part);
  const plan = planParts(ticket.bytes, ticket.regions);
  return ticket.regions.flatMap((region, index): RegionReceipt[] => {
    const { firstPart = 1, partCount = 0, partBytes = 0 } = plan[index] ?? {};
    const parts: RegionReceipt["parts"][number][] = [];
    for (let at = 0; at < partCount; at += 1) {
      const part = found.get(firstPart + at);
      const bytes = Math.min(partBytes, region.bytes - at * partBytes);
      if (part?.ETag === undefined || part.Size !== bytes) return [];
      parts.push({ number: firstPart + at, etag: readETag(part.ETag) });
    }
    return [{ index, parts }];
  });
}

async function* listParts(bucket: Bucket, ticket: WriteTicket, signal: AbortSignal | undefined): AsyncGenerator<Part> {
  const { key } = ticket;
  const place = { Bucket: bucket.name, Key: fullKey(bucket, key), UploadId: ticket.token.slice(MULTIPART.length) };
  let after: string | undefined;
  do {
    const page: ListPartsCommandOutput = await withRetries(bucket.policy, signal, () => {
      const command = new ListPartsCommand({ ...place, PartNumberMarker: after });
      return request(bucket, key, signal, (o) => bucket.client.send(command, o));
    }).catch((error: unknown) => {
      // Some servers answer that there is no such key where there is no such upload.
      if (!hasCode(error, "StoreObjectMissing")) throw error;
      throw new MergeyardError("StoreTicketInvalid", { where: { store: bucket.uri, file: key }, cause: error });
    });
    yield* page.Parts ?? [];
    const next = page.IsTruncated === true ? page.NextPartNumberMarker : undefined;
    if (page.IsTruncated === true && (next === undefined || next === after)) {
      throw unexpected(bucket, key, "a page of parts without a next one");
    }
    after = next;
  } while (after !== undefined);
}
