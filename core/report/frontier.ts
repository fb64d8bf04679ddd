// A bit plan as sections of a page: size against loss over all budgets, where the plan stands, and the scheme of every
// matrix.
import type { PlannedTensor } from "../bit-plan/document.ts";
import { escapeHtml, openSvg, section, table } from "./page.ts";

/** A plan as it is drawn; sizes in bytes, of all tensors. */
export type DrawnPlan = {
  readonly budget: string;
  readonly sensitivity: string;
  readonly bytes: number;
  readonly bits: number;
  readonly loss: number;
  readonly tensors: readonly PlannedTensor[];
  readonly frontier: readonly { readonly bytes: number; readonly loss: number }[];
};

/** The sections of a plan. */
export function drawFrontier(plan: DrawnPlan): readonly string[] {
  const { budget, bits, sensitivity, bytes } = plan;
  const size = `${bits.toFixed(3)} bits a weight, ${bytes.toLocaleString("en")} bytes`;
  return [
    `<p>A bit plan for ${escapeHtml(budget)}: ${size}; ${escapeHtml(sensitivity)} error.</p>`,
    section("Size against loss", "Each point is the best plan of its size; loss on a logarithmic scale.", draw(plan)),
    section("Schemes", "", drawTable(plan)),
  ];
}

const CHART = { width: 720, height: 260, left: 70, bottom: 30, top: 12, right: 12 };
const TICKS = 4;

function draw({ frontier, bytes, loss, bits }: DrawnPlan): string {
  // A loss of nothing has no place on a logarithmic scale.
  const points = frontier.filter((point) => point.loss > 0);
  const [first, last] = [points[0], points.at(-1)];
  if (first === undefined || last === undefined) return "<p>Nothing is lost at any size.</p>";
  const [low, high] = [Math.log10(last.loss), Math.log10(first.loss)];
  const [span, rise] = [Math.max(1, last.bytes - first.bytes), Math.max(1e-9, high - low)];
  const x = (size: number): number =>
    CHART.left + ((size - first.bytes) / span) * (CHART.width - CHART.left - CHART.right);
  const y = (value: number): number =>
    CHART.height - CHART.bottom - ((Math.log10(value) - low) / rise) * (CHART.height - CHART.bottom - CHART.top);
  const line = points.map((point) => `${x(point.bytes).toFixed(1)},${y(point.loss).toFixed(1)}`).join(" ");
  const axes = Array.from({ length: TICKS + 1 }, (_, tick) => {
    const [value, size] = [10 ** (low + (tick / TICKS) * rise), first.bytes + (tick / TICKS) * span];
    const left = `<text x="${CHART.left - 8}" y="${y(value) + 4}" text-anchor="end">${value.toExponential(1)}</text>`;
    const anchor = tick === TICKS ? "end" : tick === 0 ? "start" : "middle";
    const label = ((bits * size) / bytes).toFixed(2);
    return `${left}<text x="${x(size)}" y="${CHART.height - 10}" text-anchor="${anchor}">${label} bits</text>`;
  });
  const own = loss > 0 ? `<circle cx="${x(bytes).toFixed(1)}" cy="${y(loss).toFixed(1)}" r="5" fill="#c4561a"/>` : "";
  const curve = `<polyline points="${line}" fill="none" stroke="#1b6ca8" stroke-width="2"/>`;
  return `${openSvg(CHART.width, CHART.height, "Loss by size")}${axes.join("")}${curve}${own}</svg>`;
}

function drawTable({ tensors }: DrawnPlan): string {
  const head = ["matrix", "scheme", "bits", "bytes", "relative error", "loss per byte"];
  const rows = tensors.map(({ tensor, scheme, elements, bytes, relativeError, marginalLoss }) => {
    const name = `<td><code>${escapeHtml(tensor)}</code></td><td>${escapeHtml(scheme)}</td>`;
    const size = `<td>${((8 * bytes) / elements).toFixed(2)}</td><td>${bytes.toLocaleString("en")}</td>`;
    const loss = `<td>${relativeError.toExponential(2)}</td><td>${marginalLoss?.toExponential(2) ?? "–"}</td>`;
    return `<tr>${name}${size}${loss}</tr>`;
  });
  return table(head, rows);
}
