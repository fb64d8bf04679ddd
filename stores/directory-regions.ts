// Large objects of a folder store: one temporary file of the final size, written at known offsets by several threads or
// processes, renamed to its key when all regions are closed. The ticket's token is the temporary path, relative to the
// root, and the file's inode number, by which a repeated `finishWrite` recognizes its own success. Of several regions,
// each that was closed leaves an empty file beside the temporary one, by which a writer that was killed goes on.
import { close, fdatasync, open, write, writeSync } from "node:fs";
import { lstat, stat, statfs, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { RESERVED_SEGMENT } from "../core/artifact/key.ts";
import { MergeyardError } from "../core/error.ts";
import { errnoOf, prepareTarget, undefinedWhenAbsent } from "./directory-paths.ts";
import { type Area, createTemporary, discardTemporary, publishOver, syncFile, tidyArea } from "./directory-temp.ts";
import { unknownTicket } from "./errors.ts";
import { assertRegions, checkReceipts, regionMismatch, regionOf } from "./regions.ts";
import type { Region, RegionReceipt, RegionWriter, WriteTicket } from "./store.ts";

const TOKEN = new RegExp(`^(${RESERVED_SEGMENT}/tmp/[0-9a-f-]{36})#([0-9]{1,20})$`);

const openFile = promisify(open);
const closeFile = promisify(close);
const syncData = promisify(fdatasync);

/** Reserves the temporary file. Throws StoreFull when the file system has no room for it. */
export async function beginFileWrite(
  area: Area,
  key: string,
  bytes: number,
  regions: readonly Region[],
): Promise<WriteTicket> {
  assertRegions(bytes, regions);
  await prepareTarget(area.root, key, area.durable);
  const { name, path, handle } = await createTemporary(area);
  try {
    const room = await statfs(path, { bigint: true });
    const free = room.bavail * room.bsize;
    if (room.blocks > 0n && free < BigInt(bytes)) {
      const where = { store: area.root.path, file: key };
      throw new MergeyardError("StoreFull", { where, found: `${free} bytes free`, expected: `${bytes} bytes free` });
    }
    await handle.truncate(bytes);
    const inode = (await handle.stat({ bigint: true })).ino;
    await handle.close();
    return { key, bytes, regions, token: `${RESERVED_SEGMENT}/tmp/${name}#${inode}` };
  } catch (error) {
    await handle.close().catch(() => undefined);
    await discardTemporary(area, path);
    throw error;
  }
}

/** Opens a region of a reserved file for writing from its start to its end. */
export async function openFileRegion(
  area: Area,
  ticket: WriteTicket,
  index: number,
  mayBlock = false,
): Promise<RegionWriter> {
  const region = regionOf(ticket, index);
  const { path } = parseToken(area, ticket);
  const isOneOfMany = ticket.regions.length > 1;
  const fd = await openFile(path, "r+").catch((error: unknown) => {
    throw errnoOf(error) === "ENOENT" ? unknownTicket(area.root.path, ticket) : error;
  });
  let written = 0;
  let isOpen = true;
  const shut = async () => {
    if (!isOpen) return;
    isOpen = false;
    LEFT_OPEN.unregister(writer);
    await closeFile(fd);
  };
  const writer: RegionWriter = {
    async write(bytes) {
      if (!isOpen || written + bytes.byteLength > region.bytes) {
        await shut();
        throw regionMismatch(ticket, index, written + bytes.byteLength);
      }
      try {
        if (mayBlock) writeHere(fd, bytes, region.offset + written);
        else await writeFully(fd, bytes, region.offset + written);
        written += bytes.byteLength;
      } catch (error) {
        await shut();
        throw error;
      }
    },
    async close() {
      const isWhole = isOpen && written === region.bytes;
      try {
        if (isWhole && area.durable) await syncData(fd);
      } finally {
        await shut();
      }
      if (!isWhole) throw regionMismatch(ticket, index, written);
      if (isOneOfMany) await writeFile(closedMark(path, index), "");
      return { index, parts: [] };
    },
  };
  LEFT_OPEN.register(writer, fd, writer);
  return writer;
}

/** There when the region of a temporary file was closed whole. */
function closedMark(path: string, index: number): string {
  return `${path}.${index}`;
}

/** Receipts of the regions that were closed whole. Throws StoreTicketInvalid. */
export async function recoverFileRegions(area: Area, ticket: WriteTicket): Promise<readonly RegionReceipt[]> {
  const { path, inode } = parseToken(area, ticket);
  const there = await stat(path, { bigint: true }).catch(undefinedWhenAbsent);
  if (there?.ino !== inode || there.size !== BigInt(ticket.bytes)) throw unknownTicket(area.root.path, ticket);
  const receipts: RegionReceipt[] = [];
  for (const index of ticket.regions.keys()) {
    const isClosed = await lstat(closedMark(path, index)).then(() => true, undefinedWhenAbsent);
    if (isClosed === true) receipts.push({ index, parts: [] });
  }
  return receipts;
}

async function removeClosedMarks(path: string, { regions }: WriteTicket): Promise<void> {
  if (regions.length < 2) return;
  for (const index of regions.keys()) await unlink(closedMark(path, index)).catch(undefinedWhenAbsent);
}

/** Closes the descriptors of writers that were dropped without `close`, as after an error elsewhere. */
const LEFT_OPEN = new FinalizationRegistry((fd: number) => close(fd));

/** Bytes given to one system call: beyond it Linux caches new files in pages so large that making them costs thrice. */
const CALL_BYTES_MAX = 1 << 20;

function writeHere(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.byteLength; ) {
    done += writeSync(fd, bytes, done, Math.min(bytes.byteLength - done, CALL_BYTES_MAX), position + done);
  }
}

function writeFully(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (done: number) => {
      if (done === bytes.byteLength) return resolve();
      write(fd, bytes, done, Math.min(bytes.byteLength - done, CALL_BYTES_MAX), position + done, (error, count) => {
        if (error !== null) reject(error);
        else step(done + count);
      });
    };
    step(0);
  });
}

/** Publishes the reserved file. Repeating it after its success does nothing. */
export async function finishFileWrite(
  area: Area,
  ticket: WriteTicket,
  receipts: readonly RegionReceipt[],
): Promise<void> {
  checkReceipts(ticket, receipts);
  const { path, inode } = parseToken(area, ticket);
  const size = await lstat(path).then((stats) => stats.size, undefinedWhenAbsent);
  if (size === undefined) {
    const target = await stat(join(area.root.path, ticket.key), { bigint: true }).catch(undefinedWhenAbsent);
    if (target?.ino === inode && target.size === BigInt(ticket.bytes)) return;
    throw unknownTicket(area.root.path, ticket);
  }
  if (size !== ticket.bytes) {
    const where = { store: area.root.path, file: ticket.key };
    throw new MergeyardError("StoreContentMismatch", { where, found: size, expected: ticket.bytes });
  }
  if (area.durable) await syncFile(path);
  await publishOver(area, path, ticket.key);
  await removeClosedMarks(path, ticket);
  await tidyArea(area);
}

/** Removes the reserved file; no error when it is gone. */
export async function abortFileWrite(area: Area, ticket: WriteTicket): Promise<void> {
  if (!TOKEN.test(ticket.token)) return;
  const { path } = parseToken(area, ticket);
  await removeClosedMarks(path, ticket);
  await discardTemporary(area, path);
}

function parseToken(area: Area, ticket: WriteTicket): { path: string; inode: bigint } {
  const match = TOKEN.exec(ticket.token);
  if (match?.[1] === undefined || match[2] === undefined) throw unknownTicket(area.root.path, ticket);
  return { path: join(area.root.path, match[1]), inode: BigInt(match[2]) };
}
