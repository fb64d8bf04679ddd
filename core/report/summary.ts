// statistics.json, and tensors by their names, seen as layers, modules and whole models: what reports draw.
import { listPairs, type Statistics, type TensorStatistics } from "../artifact/statistics.ts";

/**
 * A tensor's name cut at its first layer number: `model.layers.3.mlp.up_proj.weight` is layer 3 of `mlp.up_proj` in the
 * stack `model.layers`.
 */
export type LayerPlace = { readonly stack: string; readonly layer: number; readonly module: string };

/** Undefined for tensors outside numbered layers. */
export function findLayer(name: string): LayerPlace | undefined {
  const match = /\.(\d+)\.(.+)$/.exec(name);
  if (match === null) return undefined;
  const [, layer, rest = ""] = match;
  return { stack: name.slice(0, match.index), layer: Number(layer), module: rest.replace(/\.weight$/, "") };
}

/** Share of elements with opposite signs; 0 for an empty tensor. */
export function conflictShare({ signConflicts, elements }: TensorStatistics): number {
  return elements === 0 ? 0 : signConflicts / elements;
}

/** Share of a model's elements in a tensor that the method kept; null where it does not choose, or there are none. */
export function keptShare({ kept, elements }: TensorStatistics, model: number): number | null {
  const own = kept[model] ?? null;
  return own === null || elements === 0 ? null : own / elements;
}

/** By model, the share of its elements that the method kept, over the tensors in which it chose among them. */
export function keptByModel({ models, tensors }: Statistics): readonly (number | null)[] {
  return models.map((_, model) => {
    const chosen = tensors.filter(({ kept }) => kept[model] != null);
    const elements = chosen.reduce((sum, tensor) => sum + tensor.elements, 0);
    return elements === 0 ? null : chosen.reduce((sum, tensor) => sum + (tensor.kept[model] ?? 0), 0) / elements;
  });
}

/**
 * Cosines of whole models: dot products and squared norms added over the tensors in which both take part. Symmetric,
 * ones on the diagonal; null where a model has no length.
 */
export function modelCosines({ models, tensors }: Statistics): readonly (readonly (number | null)[])[] {
  const pairs = listPairs(models.length);
  const cosines = models.map((_, i) => models.map((_, j): number | null => (i === j ? 1 : null)));
  pairs.forEach(([i, j], index) => {
    let [dot, ii, jj] = [0, 0, 0];
    for (const { norms, cosines: ofPairs } of tensors) {
      const [a, b] = [norms[i], norms[j]];
      if (a == null || b == null) continue;
      dot += (ofPairs[index] ?? 0) * a * b;
      ii += a * a;
      jj += b * b;
    }
    const cosine = ii === 0 || jj === 0 ? null : dot / Math.sqrt(ii * jj);
    const [rowI, rowJ] = [cosines[i], cosines[j]];
    if (rowI !== undefined) rowI[j] = cosine;
    if (rowJ !== undefined) rowJ[i] = cosine;
  });
  return cosines;
}

export type Grid<Tensor> = {
  readonly layers: readonly number[];
  readonly modules: readonly string[];
  /** By module, then by layer; undefined where there is no such tensor. */
  readonly cells: readonly (readonly (Tensor | undefined)[])[];
};

/**
 * The tensors of numbered layers as a table of module × layer, in order of first appearance and of number. Where there
 * are several stacks of layers, such as an encoder and a decoder, modules are named with theirs.
 */
export function layerGrid<Tensor extends { readonly name: string }>(tensors: readonly Tensor[]): Grid<Tensor> {
  const byModule = new Map<string, Map<number, Tensor>>();
  const layers = new Set<number>();
  const hasStacks = new Set(tensors.flatMap(({ name }) => findLayer(name)?.stack ?? [])).size > 1;
  for (const tensor of tensors) {
    const place = findLayer(tensor.name);
    if (place === undefined) continue;
    layers.add(place.layer);
    const module = hasStacks ? `${place.stack} ${place.module}` : place.module;
    const row = byModule.get(module) ?? new Map<number, Tensor>();
    byModule.set(module, row.set(place.layer, tensor));
  }
  const columns = [...layers].sort((a, b) => a - b);
  return {
    layers: columns,
    modules: [...byModule.keys()],
    cells: [...byModule.values()].map((row) => columns.map((layer) => row.get(layer))),
  };
}

/** L2 norm of each model's vector over all tensors of a layer: by model, then by the grid's layers. */
export function normsByLayer(statistics: Statistics, grid: Grid<TensorStatistics>): readonly (readonly number[])[] {
  return statistics.models.map((_, model) =>
    grid.layers.map((_, column) => {
      const squares = grid.cells.map((row) => (row[column]?.norms[model] ?? 0) ** 2);
      return Math.sqrt(squares.reduce((sum, square) => sum + square, 0));
    }),
  );
}
