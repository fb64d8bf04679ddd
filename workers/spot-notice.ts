// Asks the machine's metadata, every few seconds, whether Spot is about to take the machine. A worker that knows stops
// as for SIGTERM, which is not sure to come. Only where the job says that there is metadata to ask.
import { setTimeout as pause } from "node:timers/promises";
import { askMachine } from "./machine-metadata.ts";

/** Milliseconds between questions. The notice comes two minutes ahead; more often tells nothing more. */
const INTERVAL_MS = 5000;
/** Questions in a row without an answer after which nobody is asked any more: this is no machine with metadata. */
const SILENCE_MAX = 12;
const TOKEN_SECONDS = 60;

export type SpotWatch = {
  /** `http://169.254.169.254` on EC2. */
  readonly endpoint: string;
  readonly signal: AbortSignal;
  readonly intervalMs?: number | undefined;
};

/**
 * Resolves with true when the machine is to be taken; with false when the signal is aborted, or when the service does
 * not answer for a minute. Never rejects, and keeps no process alive.
 */
export async function awaitSpotNotice({ endpoint, signal, intervalMs = INTERVAL_MS }: SpotWatch): Promise<boolean> {
  for (let silent = 0; silent < SILENCE_MAX && !signal.aborted; ) {
    try {
      // A token is asked for each time: one request more every five seconds, and none that can expire.
      const token = await askMachine(new URL("/latest/api/token", endpoint), "PUT", {
        "x-aws-ec2-metadata-token-ttl-seconds": String(TOKEN_SECONDS),
      });
      const headers = { "x-aws-ec2-metadata-token": token.text };
      const notice = new URL("/latest/meta-data/spot/instance-action", endpoint);
      const { status } = await askMachine(notice, "GET", headers);
      if (status === 200) return true;
      silent = 0;
    } catch {
      silent += 1;
    }
    await pause(intervalMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
  return false;
}
