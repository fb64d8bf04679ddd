// The printed table of a suite: scores by task and their mean, below them what the models' own README states, and what
// the row says about the merge: better or worse than the base it started from, or a tie within the noise.
import type { Scores } from "./score.ts";
import type { Row, Suite } from "./suites.ts";

export type Measured = { readonly row: Row; readonly note?: string | undefined; readonly scores: Scores };

/** Tables of the README of the models: label to scores, with the mean under `mean` or `mean4`. */
export type Stated = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** Means closer than this many standard errors are called a tie, and are within the noise. */
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

/** Squared standard error of the mean of `values`. */
function errorOf(values: readonly number[]): number {
  const middle = mean(values);
  return mean(values.map((value) => (value - middle) ** 2)) / values.length;
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
    return { gain: mean(gains), error: errorOf(gains) };
  });
  const gain = mean(tasks.map((task) => task.gain));
  const noise = Math.sqrt(tasks.reduce((sum, { error }) => sum + error, 0)) / tasks.length;
  if (Math.abs(gain) <= TIE_ERRORS * noise) return "tie";
  return gain > 0 ? "better" : "worse";
}

/** The numbers of a README for a row, the mean under `mean`. */
function statedOf(row: Row, stated: Stated): Readonly<Record<string, number>> | undefined {
  const own = stated[row.stated ?? row.label];
  return own === undefined ? undefined : { ...own, mean: own.mean ?? own.mean4 ?? Number.NaN };
}

/** Tasks, and perhaps `mean`, whose stated number lies further from the measured one than the samples' noise. */
export function beyondNoise(scores: Scores, stated: Readonly<Record<string, number>>): readonly string[] {
  const tasks = Object.entries(scores).map(([task, samples]) => ({ task, at: mean(samples), error: errorOf(samples) }));
  const error = tasks.reduce((sum, own) => sum + own.error, 0) / tasks.length ** 2;
  return [...tasks, { task: "mean", at: meanOf(scores), error }]
    .filter(({ task, at, error: own }) => Math.abs(at - (stated[task] ?? at)) > TIE_ERRORS * Math.sqrt(own))
    .map(({ task }) => task);
}

/** All numbers and verdicts of the rows, for a program to read. */
export function describeRows(suite: Suite, measured: readonly Measured[], stated: Stated) {
  const base = measured.find(({ row }) => row.label === suite.base);
  return measured.map(({ row, note, scores }) => {
    const own = statedOf(row, stated);
    return {
      label: note === undefined ? row.label : `${row.label} (${note})`,
      scores: { ...meansOf(scores), mean: meanOf(scores) },
      stated: own,
      beyondNoise: own === undefined ? [] : beyondNoise(scores, own),
      verdict: base === undefined || base.row === row ? "" : judge(suite.better, scores, base.scores),
    };
  });
}

/** Lines of the table. */
export function renderTable(suite: Suite, measured: readonly Measured[], stated: Stated): readonly string[] {
  const rows = describeRows(suite, measured, stated);
  const widest = Math.max(...rows.map(({ label }) => label.length));
  const columns = [...suite.tasks, "mean"];
  const line = (title: string, cells: readonly string[], last: string): string =>
    `${title.padEnd(widest)} ${cells.map((cell) => cell.slice(0, 8).padStart(8)).join(" ")}  ${last}`.trimEnd();
  const numbers = (values: Readonly<Record<string, number>>) =>
    columns.map((column) => values[column]?.toFixed(suite.digits) ?? "-");
  const lines = rows.flatMap(({ label, scores, stated: own, beyondNoise: beyond, verdict }) => {
    const first = line(label, numbers(scores), verdict);
    if (own === undefined) return [first];
    return [
      first,
      line("  stated", numbers(own), beyond.length === 0 ? "within noise" : `beyond noise: ${beyond.join(", ")}`),
    ];
  });
  return [line("", columns, `against ${suite.base}`), ...lines];
}
