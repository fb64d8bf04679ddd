// What every store checks about a large object written by regions. The layout of regions is made by our own planner, so
// a bad one is a bug (an assertion); an incomplete set of receipts is a failed writer (an error).
import assert from "node:assert/strict";
import { MergeyardError } from "../core/error.ts";
import { STORE_LIMITS } from "../core/limits.ts";
import type { Region, RegionReceipt, WriteTicket } from "./store.ts";

/** Asserts that the regions cover [0, bytes) in order and that each but the last has the smallest size S3 takes. */
export function assertRegions(bytes: number, regions: readonly Region[]): void {
  assert.ok(Number.isSafeInteger(bytes) && bytes >= 0, `an object of ${bytes} bytes`);
  assert.ok(regions.length <= STORE_LIMITS.regions, `${regions.length} regions`);
  let end = 0;
  for (const [index, region] of regions.entries()) {
    assert.equal(region.offset, end, `region ${index} begins where the one before ends`);
    assert.ok(Number.isSafeInteger(region.bytes) && region.bytes > 0, `region ${index} has bytes`);
    const isLast = index === regions.length - 1;
    assert.ok(isLast || region.bytes >= STORE_LIMITS.regionBytesMin, `region ${index} of ${region.bytes} bytes`);
    end += region.bytes;
  }
  assert.equal(end, bytes, "the regions cover the object");
}

/** The region at an index of a ticket. Throws StoreTicketInvalid when the ticket has no such region. */
export function regionOf(ticket: WriteTicket, index: number): Region {
  const region = ticket.regions[index];
  if (region === undefined) {
    throw new MergeyardError("StoreTicketInvalid", {
      where: { file: ticket.key },
      found: `region ${index}`,
      expected: `one of ${ticket.regions.length} regions`,
    });
  }
  return region;
}

/** Throws StoreRegionIncomplete unless there is exactly one receipt for each region of the ticket. */
export function checkReceipts(ticket: WriteTicket, receipts: readonly RegionReceipt[]): void {
  const seen = new Set(receipts.map((receipt) => receipt.index));
  const missing = ticket.regions.findIndex((_region, index) => !seen.has(index));
  if (missing >= 0 || receipts.length !== ticket.regions.length) {
    throw new MergeyardError("StoreRegionIncomplete", {
      where: { file: ticket.key },
      found: missing >= 0 ? `no receipt for region ${missing}` : `${receipts.length} receipts`,
      expected: `one receipt for each of ${ticket.regions.length} regions`,
    });
  }
}

/** StoreRegionIncomplete: a writer was closed early or given too much. */
export function regionMismatch(ticket: WriteTicket, index: number, written: number): MergeyardError {
  return new MergeyardError("StoreRegionIncomplete", {
    where: { file: ticket.key, offset: regionOf(ticket, index).offset },
    found: `${written} bytes in region ${index}`,
    expected: `${regionOf(ticket, index).bytes} bytes`,
  });
}
