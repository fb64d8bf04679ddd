// Waiting between two looks, for steps and edges that look again and again.
import { setTimeout as sleep } from "node:timers/promises";

/** Resolves after so many milliseconds; rejects with the signal's own reason when it is aborted. */
export async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, { signal }).catch((error: unknown) => {
    signal.throwIfAborted();
    throw error;
  });
}
