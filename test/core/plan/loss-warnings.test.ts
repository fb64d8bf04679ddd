// Warnings of quantized outputs that lose more than the merge changed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { warnOfLosses } from "../../../core/plan/loss-warnings.ts";
import type { UnitLoss } from "../../../core/plan/receipt.ts";

const loss = (tensor: string, noise: number, delta: number | null, output = "gguf q4_0"): UnitLoss => {
  return { output, tensor, scheme: "q4_0", elements: 4, signal: 100, noise, largest: 1, clipped: 0, delta };
};

test("a tensor that loses more than the merge changed is named, once for each output", () => {
  const losses = [loss("hidden", 4.1, 4), loss("shown", 8.9, 9), loss("same", 1, 0), loss("edge", 4, 4)];
  const [line, other, ...more] = warnOfLosses([...losses, loss("hidden", 5, 4, "gguf q8_0"), loss("too", 2, 1)]);
  assert.match(line ?? "", /^gguf q4_0 loses more .*: hidden, too$/);
  assert.match(other ?? "", /^gguf q8_0 loses more .*: hidden$/);
  assert.deepEqual(more, []);
});

test("without a base nothing is said", () => {
  assert.deepEqual(warnOfLosses([loss("a", 100, null)]), []);
});
