// The printed table of a suite: scores by task, their mean, the mean that the models' own README states, and what the
// row says about the merge: better or worse than the base it started from, or a tie within the noise.
import type { Scores } from "./score.ts";
import type { Row, Suite } from "./suites.ts";

export type Measured = { readonly row: Row; readonly note?: string | undefined; readonly scores: Scores };

/** Tables of the README of the models: label to scores, with the mean under `mean` or `mean4`. */
export type Stated = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** Means closer than this many standard errors are called a tie. */
const TIE_ERRORS = 2;

/** Accuracy in percent or bits per byte, by task. */
export function meansOf(scores: Scores): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(scores).map(([task, samples]) => [task, mean(samples)]));
}

/** Mean over tasks, all of the same weight. */
export function meanOf(scores: Scores): number {
  return mean(Object.values(meansOf(scores)));
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/**
 * How `scores` stand to those of `other` on the same samples: the standard error of the mean difference is taken from
 * the differences sample by sample, so what both find hard does not count as noise.
 */
export function judge(better: Suite["better"], scores: Scores, other: Scores): "better" | "worse" | "tie" {
  const tasks = Object.entries(scores).map(([task, samples]) => {
    const gains = samples.map((score, index) => {
      const gain = score - (other[task]?.[index] ?? 0);
      return better === "higher" ? gain : -gain;
    });
    const gain = mean(gains);
    return { gain, variance: mean(gains.map((each) => (each - gain) ** 2)) / gains.length };
  });
  const gain = mean(tasks.map((task) => task.gain));
  const error = Math.sqrt(tasks.reduce((sum, { variance }) => sum + variance, 0)) / tasks.length;
  if (Math.abs(gain) <= TIE_ERRORS * error) return "tie";
  return gain > 0 ? "better" : "worse";
}

/** Lines of the table. */
export function renderTable(suite: Suite, measured: readonly Measured[], stated: Stated): readonly string[] {
  const base = measured.find(({ row }) => row.label === suite.base);
  const titles = measured.map(({ row, note }) => (note === undefined ? row.label : `${row.label} (${note})`));
  const widest = Math.max(...titles.map((title) => title.length));
  const cell = (value: number | undefined): string => (value?.toFixed(suite.digits) ?? "-").padStart(8);
  const head = [...suite.tasks.map((task) => task.slice(0, 8).padStart(8)), "    mean", "  stated"].join(" ");
  const lines = measured.map(({ row, scores }, index) => {
    const [means, own] = [meansOf(scores), stated[row.label]];
    const verdict = base === undefined || row === base.row ? "" : judge(suite.better, scores, base.scores);
    const cells = [
      ...suite.tasks.map((task) => cell(means[task])),
      cell(meanOf(scores)),
      cell(own?.mean ?? own?.mean4),
    ];
    return `${(titles[index] ?? "").padEnd(widest)} ${cells.join(" ")}  ${verdict}`.trimEnd();
  });
  return [`${"".padEnd(widest)} ${head}  against ${suite.base}`, ...lines];
}
