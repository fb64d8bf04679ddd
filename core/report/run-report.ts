// The report of a run: one HTML page with its stages, the timeline of its units, retries, cost and failures, what
// quantized outputs lost, and how the models agree, drawn as the interference report draws it.
import type { Statistics } from "../artifact/statistics.ts";
import { formatUsd, type Prices, workerUsd } from "../cost/estimate.ts";
import { sumOf } from "../sum-of.ts";
import { drawInterference } from "./interference.ts";
import { escapeHtml, openSvg, renderPage, section, table } from "./page.ts";
import { drawQuantization } from "./quantization.ts";

/** A unit that is done. */
export type ReportedUnit = {
  readonly stage: number;
  readonly unit: number;
  readonly cached: boolean;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly startedMs: number;
  readonly wallMs: number;
};

export type ReportedRun = {
  readonly run: string;
  readonly name: string;
  readonly method: string;
  /** `published support-bot@0123456789abcdef`, or why not. */
  readonly outcome: string;
  readonly stages: readonly { readonly index: number; readonly name: string; readonly units: number }[];
  readonly units: readonly ReportedUnit[];
  /** Starts of jobs beyond their first: Spot, faults, and runs that were started again. */
  readonly retries: readonly { readonly stage: number; readonly job: number; readonly attempts: number }[];
  readonly workerMs: number;
  readonly failures: readonly { readonly code: string; readonly text: string }[];
  /** Of the plan, and of what quantized outputs lost. */
  readonly warnings: readonly string[];
  readonly statistics: Statistics | undefined;
};

/** The page. */
export function renderRunReport(report: ReportedRun, prices: Prices): string {
  const { name, run, method, outcome, workerMs, statistics } = report;
  const cost = formatUsd(workerUsd(workerMs, prices));
  const introduction =
    `Run <code>${escapeHtml(run)}</code>, ${escapeHtml(method)}: ${escapeHtml(outcome)}. ` +
    `Workers ran for ${seconds(workerMs)}, about ${cost} (${escapeHtml(prices.region)}, ${escapeHtml(prices.asOf)}).`;
  return renderPage(`${name}: ${outcome}`, [
    `<p>${introduction}</p>`,
    section("Stages", "", drawStages(report)),
    section(
      "Units over time",
      "Each bar is a unit; with very many, only how many ran at a time.",
      drawTimeline(report),
    ),
    ...(report.retries.length === 0 ? [] : [section("Jobs that were started again", "", drawRetries(report))]),
    ...(report.failures.length === 0
      ? []
      : [section("Failures", "Also of attempts before the last.", drawFailures(report))]),
    ...(report.warnings.length === 0 ? [] : [section("Warnings", "", drawWarnings(report))]),
    ...(statistics === undefined ? [] : [...drawQuantization(statistics.quantized), ...drawInterference(statistics)]),
  ]);
}

function drawStages({ stages, units }: ReportedRun): string {
  const rows = stages.map(({ index, name, units: planned }) => {
    const own = units.filter(({ stage }) => stage === index);
    const cells = [
      `${own.length} of ${planned}`,
      String(own.filter(({ cached }) => cached).length),
      bytes(sumOf(own, ({ bytesRead }) => bytesRead)),
      bytes(sumOf(own, ({ bytesWritten }) => bytesWritten)),
      seconds(sumOf(own, ({ wallMs }) => wallMs)),
    ];
    return `<tr><th>${escapeHtml(name)}</th>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
  });
  const head = ["stage", "units done", "from the cache", "read", "written", "time of units"];
  return table(head, rows);
}

const CHART = { width: 960, bar: 6, left: 60, bottom: 24 };
/** Bars of a timeline; a page of more is slow to draw. */
const BARS_MAX = 2000;
const BINS = 200;
const COLOURS = ["#1b6ca8", "#c4561a", "#2f7d4f", "#8a3f7a", "#6b5b1e", "#444444"];

function drawTimeline({ units, stages }: ReportedRun): string {
  const computed = units.filter(({ cached }) => !cached);
  if (computed.length === 0) return "<p>Nothing was computed.</p>";
  const [startMs, endMs] = spanOf(computed);
  const scale = (CHART.width - CHART.left) / Math.max(1, endMs - startMs);
  const x = (ms: number) => CHART.left + (ms - startMs) * scale;
  const draw = computed.length > BARS_MAX ? drawCurve : drawBars;
  const { height, body } = draw(computed, x, [startMs, endMs]);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const ms = startMs + share * (endMs - startMs);
    const anchor = share === 1 ? "end" : "middle";
    return `<text x="${x(ms).toFixed(1)}" y="${height + 16}" text-anchor="${anchor}">${seconds(ms - startMs)}</text>`;
  });
  const legend = stages.map(({ index, name }) => {
    return `<span style="color:${colourOf(index)}">&#9632;</span> ${escapeHtml(name)}`;
  });
  const svg = openSvg(CHART.width, height + CHART.bottom, "Units over time");
  return `${svg}${body}${ticks.join("")}</svg><p class="note">${legend.join(" &nbsp; ")}</p>`;
}

type Drawing = { readonly height: number; readonly body: string };

/** One row for each unit that runs at the same time: a unit takes the first row that is free. */
function drawBars(units: readonly ReportedUnit[], x: (ms: number) => number): Drawing {
  const free: number[] = [];
  const bars = units
    .toSorted((a, b) => a.startedMs - b.startedMs)
    .map((unit) => {
      const { stage, unit: index, startedMs, wallMs } = unit;
      const at = free.findIndex((endMs) => endMs <= startedMs);
      const row = at === -1 ? free.length : at;
      free[row] = startedMs + wallMs;
      const width = Math.max(1, x(startedMs + wallMs) - x(startedMs));
      const place = `x="${x(startedMs).toFixed(1)}" y="${row * (CHART.bar + 2)}" height="${CHART.bar}"`;
      const title = `<title>stage ${stage} unit ${index}: ${seconds(wallMs)}</title>`;
      return `<rect ${place} width="${width.toFixed(1)}" fill="${colourOf(stage)}">${title}</rect>`;
    });
  return { height: free.length * (CHART.bar + 2), body: bars.join("") };
}

/** How many units ran at a time, in bins of equal length. */
function drawCurve(
  units: readonly ReportedUnit[],
  x: (ms: number) => number,
  [startMs, endMs]: readonly [number, number],
): Drawing {
  const height = 160;
  const binMs = Math.max(1, endMs - startMs) / BINS;
  const running = new Array<number>(BINS).fill(0);
  for (const { startedMs, wallMs } of units) {
    const first = Math.floor((startedMs - startMs) / binMs);
    const last = Math.min(BINS - 1, Math.floor((startedMs + wallMs - startMs) / binMs));
    for (let bin = first; bin <= last; bin += 1) running[bin] = (running[bin] ?? 0) + 1;
  }
  const most = Math.max(...running);
  const points = running.map((count, bin) => {
    return `${x(startMs + (bin + 0.5) * binMs).toFixed(1)},${(height - (count / most) * (height - 12)).toFixed(1)}`;
  });
  const label = `<text x="${CHART.left - 8}" y="14" text-anchor="end">${most}</text>`;
  return { height, body: `${label}<polyline points="${points.join(" ")}" fill="none" stroke="${colourOf(0)}"/>` };
}

function spanOf(units: readonly ReportedUnit[]): readonly [number, number] {
  return units.reduce<[number, number]>(
    ([first, last], { startedMs, wallMs }) => [Math.min(first, startedMs), Math.max(last, startedMs + wallMs)],
    [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
  );
}

/** Rows of the table of retries. */
const ROWS_MAX = 100;

function drawRetries({ retries }: ReportedRun): string {
  const rows = retries
    .toSorted((a, b) => b.attempts - a.attempts)
    .slice(0, ROWS_MAX)
    .map(({ stage, job, attempts }) => `<tr><td>${stage}</td><td>${job}</td><td>${attempts}</td></tr>`);
  return table(["stage", "job", "starts"], rows);
}

function drawFailures({ failures }: ReportedRun): string {
  const rows = failures
    .slice(0, ROWS_MAX)
    .map(({ code, text }) => `<tr><td><code>${escapeHtml(code)}</code></td><td>${escapeHtml(text)}</td></tr>`);
  return table(["code", "what"], rows);
}

function drawWarnings({ warnings }: ReportedRun): string {
  return `<ul>${warnings.map((warning) => `<li>${escapeHtml(warning)}</li>`).join("")}</ul>`;
}

function colourOf(stage: number): string {
  return COLOURS[stage % COLOURS.length] ?? "";
}

function seconds(ms: number): string {
  return ms >= 3_600_000 ? `${(ms / 3_600_000).toFixed(1)} h` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

function bytes(count: number): string {
  return count >= 1e9 ? `${(count / 1e9).toFixed(2)} GB` : `${(count / 1e6).toFixed(2)} MB`;
}
