// What model-state files of a DeepSpeed checkpoint hold beside the partitions: bit16 weights, buffers and frozen
// parameters. They have no optimizer states.
import type { FolderReader } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import { elementCount, sameShape } from "../../tensor.ts";
import { wholeBox } from "../../universal/box.ts";
import type { ConversionParameter } from "../../universal/conversion.ts";
import type { PlacedTorchTensor } from "../torch/tensor.ts";
import type { ExtractedParameter } from "./extract.ts";
import type { LayerFile, RankGrid } from "./files.ts";
import { type ModelState, readModelState, readTensors } from "./model.ts";

function untrained(name: string, { dtype, shape, ranges }: PlacedTorchTensor): ExtractedParameter {
  return { name, shape, states: new Map([["fp32", { dtype, ranges }]]), step: 0, isTrained: false };
}

/**
 * The bit16 weights of a rank that are neither buffers nor frozen.
 * Throws DeepspeedWeightsMissing when the file has none (pipeline modules, stage 3).
 */
export function weightsOf(model: ModelState): readonly ExtractedParameter[] {
  const apart = new Set([...model.buffers, ...model.frozenShapes.map(({ name }) => name)]);
  const weights = [...(model.module ?? [])].filter(([name]) => !apart.has(name));
  const stated = new Map(model.groups.flat().map(({ name, shape }) => [name, shape]));
  const isPlaceholder = weights.some(([name, { shape }]) => !sameShape(shape, stated.get(name) ?? shape));
  if (weights.length > 0 && !isPlaceholder) return weights.map(([name, tensor]) => untrained(name, tensor));
  throw new MergeyardError("DeepspeedWeightsMissing", {
    where: { file: model.file },
    found: isPlaceholder ? "placeholders of stage 3" : "no weights",
    expected: "optimizer states beside it, or weights in it",
  });
}

/** `3.rotary_emb.inv_freq`, the buffer `rotary_emb.inv_freq` of pipeline layer 3. */
const IN_LAYER = /^(\d+)\.(.+)$/;

/**
 * Models whose pipeline layers have files of their own, with the buffers that lie in these. The rest of such a file is
 * weights, which the partitions hold too, and of more bits. Throws what reading and placing throw.
 */
export async function withLayerBuffers(
  folder: FolderReader,
  layers: readonly LayerFile[],
  models: readonly ModelState[],
  tp: number,
): Promise<readonly ModelState[]> {
  const read: ModelState[] = [];
  for (const [rank, model] of models.entries()) {
    const named = (model.module === undefined ? model.buffers : []).flatMap((name) => {
      const [, layer, local] = IN_LAYER.exec(name) ?? [];
      return local === undefined ? [] : [{ name, local, layer: Number(layer) }];
    });
    const layerBuffers = new Map<string, PlacedTorchTensor>();
    for (const [layer, members] of Map.groupBy(named, (each) => each.layer)) {
      const own = layers.find((each) => each.layer === layer && each.tp === rank % tp);
      const placed = own === undefined ? undefined : await readTensors(folder, own.file);
      for (const { name, local } of members) {
        const tensor = placed?.get(local);
        if (tensor !== undefined) layerBuffers.set(name, tensor);
      }
    }
    read.push(layerBuffers.size === 0 ? model : { ...model, layerBuffers });
  }
  return read;
}

function bufferOf({ module, layerBuffers }: ModelState, name: string): PlacedTorchTensor | undefined {
  return module?.get(name) ?? layerBuffers?.get(name);
}

/** Names of buffers that no file holds whose name is known: those of tied modules in a pipeline. */
export function lostBuffers(models: readonly ModelState[]): readonly string[] {
  return [...new Set(models.flatMap((model) => model.buffers.filter((name) => bufferOf(model, name) === undefined)))];
}

/** Buffers of every pipeline stage; tensor-parallel ranks must agree on them. */
export function buffersOf(models: readonly ModelState[], tp: number): readonly ConversionParameter[] {
  const buffers = new Map<string, ConversionParameter>();
  models.forEach((model, rank) => {
    if (rank % tp !== 0) return;
    for (const name of model.buffers) {
      const own = bufferOf(model, name);
      if (own === undefined || buffers.has(name)) continue;
      const copies = models.slice(rank, rank + tp).flatMap((other) => bufferOf(other, name) ?? []);
      const same = copies.filter(({ shape, dtype }) => sameShape(shape, own.shape) && dtype === own.dtype);
      const { dtype, shape } = own;
      buffers.set(name, {
        name,
        dtype,
        shape,
        gather: {
          rule: same.length > 1 ? "equal" : "join",
          copies: same.map(({ ranges }) => [wholeBox(ranges, shape)]),
        },
        pattern: { kind: "replicated" },
        paddedRows: undefined,
        aliases: [],
        training: undefined,
      });
    }
  });
  return [...buffers.values()];
}

/** Frozen parameters by model-parallel rank: whole in stages 1 and 2, cut over data-parallel ranks in stage 3. */
export async function frozenOf(
  folder: FolderReader,
  grid: RankGrid,
  models: readonly ModelState[],
): Promise<readonly (readonly ExtractedParameter[])[]> {
  const ranks: ExtractedParameter[][] = [];
  for (const [mp, model] of models.entries()) {
    const others: ModelState[] = [];
    if (model.frozenShapes.length > 0) {
      for (const file of (grid[mp] ?? []).slice(1)) others.push(await readModelState(folder, file));
    }
    ranks.push(model.frozenShapes.map(({ name, shape }) => joinFrozen(name, shape, [model, ...others])));
  }
  return ranks;
}

function joinFrozen(name: string, shape: readonly number[], ranks: readonly ModelState[]): ExtractedParameter {
  const pieces = ranks.flatMap(({ frozen }) => frozen.get(name) ?? []);
  const [first] = pieces;
  const count = elementCount(shape);
  const stored = pieces.reduce((sum, piece) => sum + elementCount(piece.shape), 0);
  if (first === undefined || pieces.length !== ranks.length || stored < count) {
    const where = { file: ranks[0]?.file, tensor: name };
    const found = `${stored} frozen elements on ${pieces.length} ranks`;
    throw new MergeyardError("DeepspeedFragmentCoverage", {
      where,
      found,
      expected: `${count} on ${ranks.length} ranks`,
    });
  }
  const bytes = pieces[0]?.ranges.reduce((sum, range) => sum + range.bytes, 0) ?? 0;
  const elementBytes = bytes / Math.max(1, elementCount(first.shape));
  let left = count * elementBytes;
  const ranges = pieces.flatMap((piece) =>
    piece.ranges.flatMap((range) => {
      const taken = Math.min(left, range.bytes);
      left -= taken;
      return taken === 0 ? [] : [{ ...range, bytes: taken }];
    }),
  );
  return untrained(name, { dtype: first.dtype, shape, ranges });
}
