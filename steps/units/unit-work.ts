// What an operation says of the unit that it has run, before run-unit.ts makes it a receipt.
import type { Receipt } from "../../core/plan/receipt.ts";

/** The rest of a receipt is the same for all operations. */
export type UnitWork = Omit<
  Receipt,
  "receipt" | "run" | "stage" | "index" | "op" | "cpuMs" | "wallMs" | "startedMs" | "image"
>;

/** Of operations that compute nothing: they move bytes, and make no files beside their own. */
export const PLAIN_WORK = Object.freeze({
  cached: false,
  derived: [],
  losses: [],
  checkpoint: null,
  statistics: null,
  nonFinite: { inputs: {}, output: 0 },
  kernels: "none",
  threads: 1,
} satisfies Partial<UnitWork>);
