// When a quantized output may not show the merge at all: what quantizing a tensor lost is more than any of its models
// differs from the base. Called where a merge has both its losses and its statistics.
import type { Statistics } from "../artifact/statistics.ts";
import { createNotes } from "./notes.ts";
import type { UnitLoss } from "./receipt.ts";

/**
 * One line for each quantized file with such tensors: those whose ||Q(W) - W|| is beyond the largest ||W_i - W_base||
 * of its models, where any changed something. An average lies no further from the base than the furthest of its
 * models, so it is surely hidden there. Nothing without a base.
 */
export function warnOfLosses(losses: readonly UnitLoss[], statistics: Statistics | undefined): readonly string[] {
  if (statistics?.vectors !== "task") return [];
  const tensors = new Map(statistics.tensors.map((tensor) => [tensor.name, tensor]));
  const notes = createNotes();
  for (const { file, tensor, noise } of losses) {
    const norms = tensors.get(tensor)?.norms ?? [];
    const largest = norms.reduce<number>((most, norm) => Math.max(most, norm ?? 0), 0);
    if (largest === 0 || noise <= largest ** 2) continue;
    notes.add(`${file} loses more by quantizing than any model differs from the base`, tensor);
  }
  return notes.list();
}
