// What every object store must do for a writer that was killed in the middle of a large object; a part of the
// conformance suite.
import assert from "node:assert/strict";
import type { ObjectStore, Region } from "../../stores/store.ts";
import { patterned } from "./patterned.ts";

export type Check = (sentence: string, body: (store: ObjectStore) => Promise<void>) => void;

const MIB = 1024 * 1024;

export function checkRecovery(check: Check): void {
  const regions: Region[] = [
    { offset: 0, bytes: 5 * MIB },
    { offset: 5 * MIB, bytes: 6 * MIB + 3 },
    { offset: 11 * MIB + 3, bytes: 1234 },
  ];
  const bytes = 11 * MIB + 3 + 1234;

  check("goes on with a large object whose writer was lost", async (store) => {
    const content = patterned(bytes);
    const ticket = structuredClone(await store.beginWrite("large", bytes, regions));
    const write = async (index: number, wanted = regions[index]?.bytes ?? 0) => {
      const writer = await store.openRegion(ticket, index);
      const { offset = 0 } = regions[index] ?? {};
      await writer.write(content.slice(offset, offset + wanted));
      return writer;
    };
    assert.deepEqual(await store.recoverRegions(ticket), []);
    await (await write(1)).close();
    await write(0, 1000); // never closed
    const found = await store.recoverRegions(ticket);
    assert.deepEqual(
      found.map(({ index }) => index),
      [1],
    );
    const again = [await (await write(0)).close(), await (await write(2)).close()];
    assert.equal((await store.recoverRegions(ticket)).length, 3);
    const info = await store.finishWrite(ticket, [...found, ...again]);
    const into = new Uint8Array(bytes);
    await store.readInto("large", 0, into);
    assert.equal(Buffer.compare(into, content), 0);
    assert.equal(info.bytes, bytes);
    await assert.rejects(store.recoverRegions(ticket), { code: "StoreTicketInvalid" });
    const dropped = await store.beginWrite("large", bytes, regions);
    await store.abortWrite(dropped);
    await assert.rejects(store.recoverRegions(dropped), { code: "StoreTicketInvalid" });
  });
}
