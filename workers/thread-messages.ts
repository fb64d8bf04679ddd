// What a pool and its threads say to each other: plain data only.
import type { ErrorRecord } from "../core/error.ts";
import type { RegionJob, RegionOutcome } from "./region-job.ts";

export type ThreadTask = { readonly job: RegionJob; readonly capacityBytes: number };

export type ThreadReply =
  | { readonly type: "progress"; readonly read: number; readonly written: number }
  | { readonly type: "done"; readonly outcome: RegionOutcome }
  /** `record` is undefined for a fault of ours; `text` then is its stack. */
  | { readonly type: "failed"; readonly record: ErrorRecord | undefined; readonly text: string };
