// Warnings of quantized outputs that lose more than the merge changed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { collectStatistics } from "../../../core/artifact/statistics.ts";
import { warnOfLosses } from "../../../core/plan/loss-warnings.ts";
import type { UnitLoss } from "../../../core/plan/receipt.ts";

function statisticsOf(base: string | null, norms: Readonly<Record<string, readonly number[]>>) {
  const measured = Object.entries(norms).map(([name, own]) => ({
    name,
    elements: 4,
    models: ["one", "two"],
    base,
    norms: [...own],
    cosines: [null],
    signConflicts: 0,
    nonFinite: [0, 0],
    kept: null,
  }));
  return collectStatistics("linear", measured);
}

const loss = (tensor: string, noise: number): UnitLoss => {
  return { file: "m-q4_0.gguf", tensor, scheme: "q4_0", signal: 100, noise };
};

test("a tensor that loses more than any of its models changed is named, once for each file", () => {
  const statistics = statisticsOf("base", { hidden: [1, 2], shown: [1, 3], same: [0, 0], edge: [2, 0] });
  // Squares: 4.1 > 2 * 2, 8.9 < 3 * 3, and what no model changed hides nothing.
  const losses = [loss("hidden", 4.1), loss("shown", 8.9), loss("same", 1), loss("edge", 4), loss("other", 1)];
  const [line, ...more] = warnOfLosses(losses, statistics);
  assert.match(line ?? "", /^m-q4_0\.gguf loses more .*: hidden$/);
  assert.deepEqual(more, []);
});

test("without a base, or without statistics, nothing is said", () => {
  assert.deepEqual(warnOfLosses([loss("a", 100)], statisticsOf(null, { a: [1, 2] })), []);
  assert.deepEqual(warnOfLosses([loss("a", 100)], undefined), []);
});
