// Errors that every store gives in the same words. `store` is its URI, or the path of a folder.
import { MergeyardError } from "../core/error.ts";
import type { WriteTicket } from "./store.ts";

/** StoreObjectMissing. */
export function objectMissing(store: string, key: string): MergeyardError {
  return new MergeyardError("StoreObjectMissing", { where: { store, file: key } });
}

/** StoreShortRead: of `wanted` bytes from `offset` on, the object has `found`. */
export function shortRead(store: string, key: string, offset: number, found: number, wanted: number): MergeyardError {
  return new MergeyardError("StoreShortRead", {
    where: { store, file: key, offset, bytes: wanted },
    found: `${found} bytes`,
    expected: `${wanted} bytes`,
  });
}

/** StoreObjectTooLarge. */
export function tooLarge(store: string, key: string, bytes: number, limitBytes: number): MergeyardError {
  const [found, expected] = [`${bytes} bytes`, `at most ${limitBytes} bytes`];
  return new MergeyardError("StoreObjectTooLarge", { where: { store, file: key }, found, expected });
}

/** StoreTicketInvalid: the store knows of no such write. */
export function unknownTicket(store: string, { key, token }: WriteTicket): MergeyardError {
  return new MergeyardError("StoreTicketInvalid", { where: { store, file: key }, found: token.slice(0, 100) });
}
