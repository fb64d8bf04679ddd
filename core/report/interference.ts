// The report of a merge: one HTML page that shows how its models agree and disagree, and what its quantized outputs
// lost. Self-contained: no
// scripts, no fonts, no network; it reads as well printed as on a screen.
import type { Statistics, TensorStatistics } from "../artifact/statistics.ts";
import { drawHeatMap } from "./heat-map.ts";
import { escapeHtml, openSvg, percent, renderPage, section, table } from "./page.ts";
import { drawQuantization } from "./quantization.ts";
import {
  conflictShare,
  findLayer,
  type Grid,
  keptByModel,
  keptShare,
  layerGrid,
  modelCosines,
  normsByLayer,
} from "./summary.ts";

/** Rows of the table of tensors: those with the most conflicts. */
const TABLE_ROWS = 40;
/** Distinct line colours that also differ in lightness; models beyond them repeat. */
const LINES = ["#1b6ca8", "#c4561a", "#2f7d4f", "#8a3f7a", "#6b5b1e", "#444444"];

/** The page for a merge's statistics. */
export function renderInterference(statistics: Statistics): string {
  const title = `${statistics.method}: ${statistics.models.length} models`;
  const introduction = statistics.tensors.length === 0 ? "" : `<p>${introduce(statistics)}</p>`;
  return renderPage(title, [introduction, ...drawInterference(statistics), ...drawQuantization(statistics.quantized)]);
}

/** The sections of the page, for a page that shows more; none of statistics without models. */
export function drawInterference(statistics: Statistics): readonly string[] {
  if (statistics.tensors.length === 0) return [];
  const grid = layerGrid(statistics.tensors);
  return [
    section("How alike the models are", NOTES.cosines, drawCosines(statistics)),
    grid.layers.length === 0 ? "" : section("Where they disagree", NOTES.conflicts, drawHeatMap(grid, CONFLICTS)),
    grid.layers.length === 0 ? "" : section("How far they moved", NOTES.norms, drawNorms(statistics, grid)),
    choosesElements(statistics) ? section("How much of them was kept", NOTES.kept, drawKept(statistics)) : "",
    section("Tensors with the most conflicts", "", drawTable(statistics)),
  ];
}

const NOTES = {
  cosines: "Cosine of the whole vectors: 1 same direction, 0 unrelated, -1 opposite.",
  conflicts: "Share of elements with opposite signs, by layer and module.",
  kept: "Share of each model's elements that the method kept, over the tensors in which it chose.",
  norms: "L2 norm of each model's vector, by layer.",
} as const;

const CONFLICTS = { label: "Sign conflicts by layer and module", measure: conflictShare, print: percent } as const;

function introduce({ vectors, base, models, tensors }: Statistics): string {
  const elements = tensors.reduce((sum, tensor) => sum + tensor.elements, 0);
  const subject = vectors === "task" ? `Differences to <code>${escapeHtml(base ?? "")}</code>` : "Weights";
  const names = models.map((model) => `<code>${escapeHtml(model)}</code>`).join(", ");
  return `${subject} of ${names}, over ${tensors.length} tensors and ${elements.toLocaleString("en")} elements.`;
}

function drawCosines(statistics: Statistics): string {
  const rows = modelCosines(statistics).map((row, index) => {
    const cells = row.map((cosine) => {
      if (cosine === null) return "<td>–</td>";
      const ink = cosine < 0 ? "196,86,26" : "27,108,168";
      return `<td style="background:rgba(${ink},${(Math.abs(cosine) * 0.55).toFixed(3)})">${cosine.toFixed(3)}</td>`;
    });
    return `<tr><th>${escapeHtml(statistics.models[index] ?? "")}</th>${cells.join("")}</tr>`;
  });
  return table(["", ...statistics.models], rows);
}

const CHART = { width: 720, height: 220, left: 60, bottom: 30, top: 12 };

function drawNorms(statistics: Statistics, grid: Grid<TensorStatistics>): string {
  const norms = normsByLayer(statistics, grid);
  const most = Math.max(Number.MIN_VALUE, ...norms.flat());
  const steps = Math.max(1, grid.layers.length - 1);
  const x = (column: number): number => CHART.left + (column / steps) * (CHART.width - CHART.left - 10);
  const y = (norm: number): number =>
    CHART.height - CHART.bottom - (norm / most) * (CHART.height - CHART.bottom - CHART.top);
  const lines = norms.map((line, model) => {
    const points = line.map((norm, column) => `${x(column).toFixed(1)},${y(norm).toFixed(1)}`).join(" ");
    const colour = LINES[model % LINES.length];
    const dots = line.map((norm, column) => {
      const title = `<title>layer ${grid.layers[column]}: ${norm.toPrecision(4)}</title>`;
      return `<circle cx="${x(column).toFixed(1)}" cy="${y(norm).toFixed(1)}" r="3" fill="${colour}">${title}</circle>`;
    });
    return `<polyline points="${points}" fill="none" stroke="${colour}" stroke-width="2"/>${dots.join("")}`;
  });
  const axis = [0, most / 2, most].map(
    (norm) => `<text x="${CHART.left - 8}" y="${y(norm) + 4}" text-anchor="end">${norm.toPrecision(3)}</text>`,
  );
  const every = Math.ceil(grid.layers.length / 24);
  const ticks = grid.layers.map((layer, column) =>
    column % every === 0 ? `<text x="${x(column)}" y="${CHART.height - 10}" text-anchor="middle">${layer}</text>` : "",
  );
  const legend = statistics.models.map(
    (model, index) => `<span style="color:${LINES[index % LINES.length]}">&#9632;</span> ${escapeHtml(model)}`,
  );
  const svg = openSvg(CHART.width, CHART.height, "Norms by layer");
  const drawing = `${svg}${axis.join("")}${ticks.join("")}${lines.join("")}</svg>`;
  return `${drawing}<p class="note">${legend.join(" &nbsp; ")}</p>`;
}

/** True when the method chose among the elements of some tensor. */
function choosesElements({ tensors }: Statistics): boolean {
  return tensors.some(({ kept }) => kept.some((own) => own !== null));
}

function drawKept(statistics: Statistics): string {
  const rows = keptByModel(statistics).map((share, model) => {
    const cells = [drawShare(share), drawShare(share === null ? null : 1 - share)];
    return `<tr><th>${escapeHtml(statistics.models[model] ?? "")}</th>${cells.join("")}</tr>`;
  });
  return table(["", "kept", "dropped"], rows);
}

function drawShare(share: number | null): string {
  return `<td>${share === null ? "–" : percent(share)}</td>`;
}

function drawTable(statistics: Statistics): string {
  const { models, tensors } = statistics;
  const choosers = choosesElements(statistics) ? models : [];
  const sorted = [...tensors].sort((a, b) => conflictShare(b) - conflictShare(a)).slice(0, TABLE_ROWS);
  const head = [
    ...["tensor", "layer", "elements", "conflicts"],
    ...models.map((model) => `norm ${model}`),
    ...choosers.map((model) => `kept ${model}`),
  ];
  const rows = sorted.map((tensor) => {
    const { name, elements, norms } = tensor;
    const cells = [
      `<td><code>${escapeHtml(name)}</code></td><td>${findLayer(name)?.layer ?? ""}</td>`,
      `<td>${elements.toLocaleString("en")}</td><td>${percent(conflictShare(tensor))}</td>`,
      ...models.map((_, index) => `<td>${norms[index]?.toPrecision(4) ?? "–"}</td>`),
      ...choosers.map((_, index) => drawShare(keptShare(tensor, index))),
    ];
    return `<tr>${cells.join("")}</tr>`;
  });
  return table(head, rows);
}
