// The page of `mergeyard diff --html`: how far two checkpoints lie apart, and where.
import { drawHeatMap, type HeatMeasure } from "./heat-map.ts";
import { escapeHtml, renderPage, section, table } from "./page.ts";
import { layerGrid } from "./summary.ts";

/** A tensor of both checkpoints and of one shape whose values or dtypes differ. */
export type DrawnDifference = {
  readonly name: string;
  readonly dtypes: readonly [string, string];
  readonly elements: number;
  /** Elements that differ, and largest and relative distance; null where arithmetic is not defined. */
  readonly changed: number | null;
  readonly maxAbs: number | null;
  /** Null also where all of A is zero. */
  readonly relative: number | null;
};

/** One of the two; named as the user named it. */
export type DrawnSide = { readonly name: string; readonly format: string; readonly tensors: readonly string[] };

export type DrawnDiff = {
  readonly equal: number;
  readonly onlyA: readonly string[];
  readonly onlyB: readonly string[];
  readonly shapes: readonly { readonly name: string; readonly a: readonly number[]; readonly b: readonly number[] }[];
  readonly changed: readonly DrawnDifference[];
};

/** Rows of a table. */
const ROWS_MAX = 40;

export const DIFFERENCE_COLUMNS = ["tensor", "dtype", "changed", "largest", "relative"] as const;

/** What is said of a tensor under DIFFERENCE_COLUMNS, in the text and on the page; counts as `count` prints them. */
export function differenceCells(difference: DrawnDifference, count: (value: number) => string): readonly string[] {
  const { name, dtypes, elements, changed, maxAbs, relative } = difference;
  const [left, right] = dtypes;
  return [
    name,
    left === right ? left : `${left} ${right}`,
    changed === null ? "bytes" : `${count(changed)} of ${count(elements)}`,
    maxAbs?.toPrecision(3) ?? "",
    relative?.toPrecision(3) ?? "",
  ];
}

/** The page. */
export function renderDifference(a: DrawnSide, b: DrawnSide, diff: DrawnDiff): string {
  const others = listOthers(diff);
  const introduction = `<p>${drawSide("A", a)}<br>${drawSide("B", b)}</p>`;
  const counts = section("Tensors", "", drawCounts(diff));
  const title = `Differences of ${a.name} and ${b.name}`;
  if (diff.changed.length + others.length === 0) {
    return renderPage(title, [introduction, "<p>No tensor differs.</p>", counts]);
  }
  const grid = layerGrid(listCells(a, diff, others));
  return renderPage(title, [
    introduction,
    counts,
    grid.layers.length === 0 ? "" : section("Where they differ", MAP_NOTE, drawHeatMap(grid, RELATIVE)),
    diff.changed.length === 0 ? "" : section("Tensors that differ most", noteOf(diff.changed), drawMost(diff)),
    others.length === 0 ? "" : section("Tensors that cannot be compared", noteOf(others), drawOthers(others)),
  ]);
}

const MAP_NOTE = "|B - A| by |A| as Euclidean norms, by layer and module; grey where there is no such number.";

function noteOf(listed: readonly unknown[]): string {
  return listed.length > ROWS_MAX ? `${ROWS_MAX} of ${printCount(listed.length)}.` : "";
}

function drawSide(letter: string, { name, format, tensors }: DrawnSide): string {
  const counted = `${printCount(tensors.length)} tensors`;
  return `${letter}: <code>${escapeHtml(name)}</code>, ${escapeHtml(format)}, ${counted}`;
}

function drawCounts({ equal, changed, onlyA, onlyB, shapes }: DrawnDiff): string {
  const counts = {
    equal,
    different: changed.length,
    "of these, of another dtype": changed.filter(({ dtypes: [left, right] }) => left !== right).length,
    "of another shape": shapes.length,
    "only in A": onlyA.length,
    "only in B": onlyB.length,
  };
  return table(
    ["", "tensors"],
    Object.entries(counts).map(([title, count]) => `<tr><th>${title}</th><td>${printCount(count)}</td></tr>`),
  );
}

/** A tensor of the map: its relative difference, or why there is none. */
type Cell = { readonly name: string; readonly heat: number | string };

const RELATIVE: HeatMeasure<Cell> = {
  label: "Relative difference by layer and module",
  measure: ({ heat }) => heat,
  print: (value) => value.toPrecision(3),
};

/** A tensor that has no pair of its shape, and why. */
type Other = Cell & { readonly heat: string };

function listOthers({ onlyA, onlyB, shapes }: DrawnDiff): readonly Other[] {
  return [
    ...shapes.map(({ name, a, b }) => ({ name, heat: `[${a}] and [${b}]` })),
    ...onlyA.map((name) => ({ name, heat: "only in A" })),
    ...onlyB.map((name) => ({ name, heat: "only in B" })),
  ];
}

/** Every tensor, in the order of A and then those that only B has. */
function listCells({ tensors }: DrawnSide, { changed, onlyB }: DrawnDiff, others: readonly Cell[]): readonly Cell[] {
  const heats = new Map(others.map(({ name, heat }) => [name, heat]));
  for (const difference of changed) heats.set(difference.name, heatOf(difference));
  return [...tensors, ...onlyB].map((name) => ({ name, heat: heats.get(name) ?? 0 }));
}

function drawMost({ changed }: DrawnDiff): string {
  const rows = changed
    .toSorted((x, y) => distance(y) - distance(x))
    .slice(0, ROWS_MAX)
    .map((difference) => drawRow(differenceCells(difference, printCount)));
  return table(DIFFERENCE_COLUMNS, rows);
}

function heatOf({ changed, maxAbs, relative }: DrawnDifference): number | string {
  if (changed === null) return "other bytes";
  // Distances are of finite values: here none of these differ.
  if (changed > 0 && maxAbs === 0) return "NaN or infinite";
  return relative ?? (changed === 0 ? 0 : "A is zero");
}

/** Beyond every number comes first, what only has other bytes last. */
function distance(difference: DrawnDifference): number {
  const heat = heatOf(difference);
  if (typeof heat === "number") return heat;
  return difference.changed === null ? -1 : Number.MAX_VALUE;
}

function drawOthers(others: readonly Other[]): string {
  return table(
    ["tensor", ""],
    others.slice(0, ROWS_MAX).map(({ name, heat }) => drawRow([name, heat])),
  );
}

function drawRow([name = "", ...cells]: readonly string[]): string {
  const rest = cells.map((cell) => `<td>${escapeHtml(cell)}</td>`).join("");
  return `<tr><td><code>${escapeHtml(name)}</code></td>${rest}</tr>`;
}

function printCount(count: number): string {
  return count.toLocaleString("en");
}
