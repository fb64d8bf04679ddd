// Telling how a run ended: sums up its receipts, keeps the summary as the run's events.jsonl and logs it. It reports
// what others decided and decides nothing.
import { layout } from "../core/artifact/layout.ts";
import type { Receipt } from "../core/plan/receipt.ts";
import { sumOf } from "../core/sum-of.ts";
import { orLog } from "./error-record.ts";
import { readReceipts } from "./runs/receipts.ts";
import { keepRunReport } from "./runs/report.ts";
import { notifyInputSchema, notifyOutputSchema } from "./schemas.ts";
import { defineStep } from "./step.ts";

export const notifyStep = defineStep({
  name: "notify",
  input: notifyInputSchema,
  output: notifyOutputSchema,
  async run({ yard, run, outcome }, deps) {
    const store = deps.openStore(yard);
    const receipts = run === null ? [] : await readReceipts(store, run, deps.signal);
    const summary = {
      yard,
      run,
      outcome,
      units: receipts.length,
      cached: receipts.filter((receipt) => receipt.cached).length,
      bytesRead: sumOf(receipts, (receipt) => receipt.bytesRead),
      bytesWritten: sumOf(receipts, (receipt) => receipt.bytesWritten),
      cpuMs: sumOf(receipts, (receipt) => receipt.cpuMs),
    };
    deps.log({ event: "run-ended", ...summary });
    // A failed run may go on later; its failures have records of their own.
    if (run !== null && outcome !== "failed") {
      const units = receipts.map((receipt) => ({ event: "unit-finished", ...withoutListing(receipt) }));
      const lines = [...units, { event: "run-ended", ...summary }].map((line) => `${JSON.stringify(line)}\n`);
      const bytes = new TextEncoder().encode(lines.join(""));
      await orLog(deps.log, "events-not-kept", () => store.create(layout.events(run), bytes, { signal: deps.signal }));
    }
    // The run has ended, whether its summary and its report can be kept or not.
    if (run !== null) await orLog(deps.log, "report-not-kept", () => keepRunReport(store, run, deps.signal));
    return summary;
  },
});

/** A receipt without its tensors: the receipts themselves keep those. */
function withoutListing({ file, ...receipt }: Receipt) {
  return { ...receipt, file: file === null ? null : { name: file.name, bytes: file.bytes, digest: file.digest } };
}
