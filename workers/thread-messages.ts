// What the merge executor and its threads say to each other: plain data only.
import type { ErrorRecord } from "../core/error.ts";
import type { RegionResult, RegionTask } from "../engine/merge-region.ts";

export type ThreadTask = { readonly region: RegionTask; readonly capacityBytes: number };

export type ThreadReply =
  | { readonly type: "progress"; readonly read: number; readonly written: number }
  | { readonly type: "done"; readonly index: number; readonly result: RegionResult }
  /** `record` is undefined for a fault of ours; `text` then is its stack. */
  | { readonly type: "failed"; readonly record: ErrorRecord | undefined; readonly text: string };
