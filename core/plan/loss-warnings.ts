// When a quantized output may not show the merge at all: what quantizing a tensor lost is more than the merge changed.
// Called where all losses of a merge are known.
import { createNotes } from "./notes.ts";
import type { UnitLoss } from "./receipt.ts";

/**
 * One line for each quantized output with such tensors: those whose ||Q(W) - W|| is beyond ||W - W_base||, where the
 * merge changed anything. Nothing without a base.
 */
export function warnOfLosses(losses: readonly UnitLoss[]): readonly string[] {
  const notes = createNotes();
  for (const { output, tensor, noise, delta } of losses) {
    if (delta === null || delta === 0 || noise <= delta) continue;
    notes.add(`${output} loses more by quantizing than the merge changed`, tensor);
  }
  return notes.list();
}
