// Which experts of a layer become one: the most used ones are cores, and every other joins the core whose routing is
// most like its own.
// Source: Li et al., MC-SMoE, arXiv:2310.01334; merge reference section 11.
import { allocateMatrix, dotDoubles, gramOfRows, type Matrix, onHeap, rowOf } from "../ops/linalg/matrix.ts";

/** What routing on calibration data says of a layer. */
export type LayerStatistics = {
  /** Share of the tokens that each expert took. */
  readonly usage: readonly number[];
  /** (1 + cosine) / 2 of experts' router logits, all pairs. */
  readonly similarity: Matrix;
};

/** Label of each expert's group, and each group's core; groups are numbered in the order of their cores' use. */
export type Groups = { readonly labels: readonly number[]; readonly cores: readonly number[] };

/** (1 + cosine) / 2 of all pairs of rows; a row of zeros is like no other. */
export function similarityOf(rows: Matrix): Matrix {
  const gram = allocateMatrix(onHeap, rows.rows, rows.rows);
  gramOfRows(gram, rows);
  const norms = Array.from({ length: rows.rows }, (_, i) => Math.sqrt(dotDoubles(rowOf(rows, i), rowOf(rows, i))));
  gram.values.forEach((product, at) => {
    const scale = (norms[Math.floor(at / rows.rows)] ?? 0) * (norms[at % rows.rows] ?? 0);
    gram.values[at] = (1 + (scale === 0 ? 0 : product / scale)) / 2;
  });
  return gram;
}

/** Experts of all layers, from the most used to the least; equal ones in order. */
function byUse(usage: readonly number[]): readonly number[] {
  return usage.map((_, expert) => expert).sort((a, b) => (usage[b] ?? 0) - (usage[a] ?? 0) || a - b);
}

/**
 * Number of groups of each layer, `average` on average: the most used experts of all layers are cores, and every
 * layer's most used one is. Equal uses are spread over the layers.
 */
export function countGroups(layers: readonly LayerStatistics[], average: number): readonly number[] {
  const ranked = layers.flatMap(({ usage }, layer) =>
    byUse(usage).map((expert, place) => ({
      layer,
      place,
      use: place === 0 ? Number.POSITIVE_INFINITY : (usage[expert] ?? 0),
    })),
  );
  ranked.sort((a, b) => b.use - a.use || a.place - b.place || a.layer - b.layer);
  const counts = layers.map(() => 0);
  for (const { layer } of ranked.slice(0, Math.round(average * layers.length)))
    counts[layer] = (counts[layer] ?? 0) + 1;
  return counts;
}

/** Groups of one layer around its `count` most used experts. */
export function groupExperts({ usage, similarity }: LayerStatistics, count: number): Groups {
  const ranked = byUse(usage);
  const cores = ranked.slice(0, count);
  const labels = usage.map(() => 0);
  cores.forEach((core, label) => {
    labels[core] = label;
  });
  for (const expert of ranked.slice(count)) {
    const likeness = rowOf(similarity, expert);
    let best = 0;
    cores.forEach((core, label) => {
      if ((likeness[core] ?? 0) > (likeness[cores[best] ?? 0] ?? 0)) best = label;
    });
    labels[expert] = best;
  }
  return { labels, cores };
}
