// What quantizing did to every tensor, as sections of a page: signal to noise over the tensors in their order, and the
// ten that lost most. Pages of `quantize`, of merges and of runs show them.
import type { QuantizedTensor } from "../artifact/quantized.ts";
import { type DrawnPlan, drawFrontier } from "./frontier.ts";
import { escapeHtml, openSvg, percent, renderPage, section, table } from "./page.ts";

/** One output and its tensors, in the order of its files. */
export type DrawnOutput = { readonly output: string; readonly tensors: readonly QuantizedTensor[] };

/** The page of one quantized model; with the bit plan that it follows, where it was planned. */
export function renderQuantization(drawn: DrawnOutput, plan: DrawnPlan | undefined): string {
  const title = `${drawn.output}: ${drawn.tensors.length} tensors`;
  return renderPage(title, [...(plan === undefined ? [] : drawFrontier(plan)), ...drawQuantization([drawn])]);
}

/** The sections of some outputs; an output that lost nothing has none. */
export function drawQuantization(outputs: readonly DrawnOutput[]): readonly string[] {
  return outputs.flatMap(({ output, tensors }) => {
    const lossy = tensors.filter(isLossy);
    if (lossy.length === 0) return [];
    return [
      section(`Signal to noise: ${output}`, "By tensor, in the order of the file; higher is better.", drawChart(lossy)),
      section(`Tensors that lost most: ${output}`, NOTE, drawWorst(lossy)),
    ];
  });
}

type LossyTensor = QuantizedTensor & { readonly snr: number };

function isLossy(tensor: QuantizedTensor): tensor is LossyTensor {
  return tensor.snr !== null;
}

const NOTE =
  "Clipped: elements beyond what the codes reach. Error to delta: what quantizing lost over what the merge changed; " +
  "beyond 1 the merge is lost in it.";

const CHART = { width: 960, height: 260, left: 60, right: 12, top: 12, bottom: 12 };
const COLOURS = ["#1b6ca8", "#c4561a", "#2f7d4f", "#8a3f7a", "#6b5b1e", "#444444"];
const TICKS = 4;

function drawChart(tensors: readonly LossyTensor[]): string {
  const schemes = [...new Set(tensors.map(({ scheme }) => scheme))];
  const colourOf = (scheme: string): string => COLOURS[schemes.indexOf(scheme) % COLOURS.length] ?? "";
  const all = tensors.map(({ snr }) => snr);
  const [least, most] = all.reduce(
    ([low, high], snr) => [Math.min(low, snr), Math.max(high, snr)],
    [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
  );
  const rise = Math.max(1e-9, most - least);
  const x = (index: number): number =>
    CHART.left + ((index + 0.5) / tensors.length) * (CHART.width - CHART.left - CHART.right);
  const y = (snr: number): number =>
    CHART.height - CHART.bottom - ((snr - least) / rise) * (CHART.height - CHART.bottom - CHART.top);
  const dots = tensors.map(({ tensor, scheme, snr }, index) => {
    const title = `<title>${escapeHtml(tensor)}, ${escapeHtml(scheme)}: ${snr.toFixed(1)} dB</title>`;
    const place = `cx="${x(index).toFixed(1)}" cy="${y(snr).toFixed(1)}"`;
    return `<circle ${place} r="3" fill="${colourOf(scheme)}">${title}</circle>`;
  });
  const axis = Array.from({ length: TICKS + 1 }, (_, tick) => {
    const snr = least + (tick / TICKS) * rise;
    return `<text x="${CHART.left - 8}" y="${y(snr) + 4}" text-anchor="end">${snr.toFixed(1)} dB</text>`;
  });
  const legend = schemes.map(
    (scheme) => `<span style="color:${colourOf(scheme)}">&#9679;</span> ${escapeHtml(scheme)}`,
  );
  const svg = openSvg(CHART.width, CHART.height, "Signal to noise by tensor");
  return `${svg}${axis.join("")}${dots.join("")}</svg><p class="note">${legend.join(" &nbsp; ")}</p>`;
}

/** Rows of the table. */
const WORST = 10;

function drawWorst(tensors: readonly LossyTensor[]): string {
  const worst = tensors.toSorted((a, b) => a.snr - b.snr).slice(0, WORST);
  const hasDelta = worst.some(({ errorToDelta }) => errorToDelta != null);
  const head = ["tensor", "scheme", "signal to noise", "largest error", "clipped"];
  if (hasDelta) head.push("error to delta");
  const rows = worst.map(({ tensor, scheme, snr, maxError, clipped, errorToDelta }) => {
    const cells = [escapeHtml(scheme), `${snr.toFixed(1)} dB`, maxError.toExponential(2), percent(clipped)];
    if (hasDelta) cells.push(errorToDelta == null ? "–" : errorToDelta.toFixed(2));
    return `<tr><td><code>${escapeHtml(tensor)}</code></td>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
  });
  return table(head, rows);
}
