// A number of every tensor as a map of module by layer. Reports of merges and of differences draw it.
import { escapeHtml, openSvg } from "./page.ts";
import type { Grid } from "./summary.ts";

/** What a map shows of its tensors. */
export type HeatMeasure<Tensor> = {
  /** What the map is, for readers who hear the page; plain text. */
  readonly label: string;
  /** At least 0; or in words why there is no number: the cell is grey then. */
  readonly measure: (tensor: Tensor) => number | string;
  readonly print: (value: number) => string;
};

/** Of the names of modules, in pixels: at least, and of a letter. */
const LABEL = { least: 260, letter: 7 };
const CELL = { width: 26, height: 20 };

/** The drawing; each cell tells its tensor and number when pointed at. */
export function drawHeatMap<Tensor extends { readonly name: string }>(
  { layers, modules, cells }: Grid<Tensor>,
  { label, measure, print }: HeatMeasure<Tensor>,
): string {
  const heats = cells.map((row) => row.map((tensor) => tensor && { name: tensor.name, heat: measure(tensor) }));
  const most = heats
    .flat()
    .reduce((high, cell) => (typeof cell?.heat === "number" ? Math.max(high, cell.heat) : high), 0);
  const labelWidth = modules.reduce((width, { length }) => Math.max(width, 8 + length * LABEL.letter), LABEL.least);
  const drawCell = (cell: { name: string; heat: number | string } | undefined, column: number, y: number): string => {
    if (cell === undefined) return "";
    const { name, heat } = cell;
    const size = `width="${CELL.width - 2}" height="${CELL.height - 2}"`;
    const place = `x="${labelWidth + column * CELL.width}" y="${y}" ${size}`;
    const title = `<title>${escapeHtml(`${name}: ${typeof heat === "number" ? print(heat) : heat}`)}</title>`;
    if (typeof heat === "string") return `<rect ${place} fill="#bbb" stroke="#ddd">${title}</rect>`;
    const opacity = (most === 0 ? 0 : heat / most).toFixed(3);
    return `<rect ${place} fill="#b23a1e" fill-opacity="${opacity}" stroke="#ddd">${title}</rect>`;
  };
  const rows = modules.map((module, row) => {
    const y = 20 + row * CELL.height;
    const text = `<text x="${labelWidth - 8}" y="${y + 14}" text-anchor="end">${escapeHtml(module)}</text>`;
    return text + (heats[row] ?? []).map((cell, column) => drawCell(cell, column, y)).join("");
  });
  const numbers = layers.map(
    (layer, column) =>
      `<text x="${labelWidth + (column + 0.5) * CELL.width}" y="14" text-anchor="middle">${layer}</text>`,
  );
  const [width, height] = [labelWidth + layers.length * CELL.width, 30 + modules.length * CELL.height];
  const caption = `<p class="note">White 0, darkest ${print(most)}.</p>`;
  return `${openSvg(width, height, label)}${numbers.join("")}${rows.join("")}</svg>${caption}`;
}
