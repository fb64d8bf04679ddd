// What model-state files of a DeepSpeed checkpoint hold beside the partitions: bit16 weights, buffers and frozen
// parameters. They have no optimizer states.
import type { FolderReader } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import { elementCount, sameShape } from "../../tensor.ts";
import { wholeBox } from "../../universal/box.ts";
import type { ConversionParameter } from "../../universal/conversion.ts";
import type { PlacedTorchTensor } from "../torch/tensor.ts";
import type { ExtractedParameter } from "./extract.ts";
import type { RankGrid } from "./files.ts";
import { type ModelState, readModelState } from "./model.ts";

function untrained(name: string, { dtype, shape, ranges }: PlacedTorchTensor): ExtractedParameter {
  return { name, shape, states: new Map([["fp32", { dtype, ranges }]]), step: 0, isTrained: false };
}

/**
 * The bit16 weights of a rank that belong to the optimizer; the others are beside it.
 * Throws DeepspeedWeightsMissing when the file has no weights (stage 3).
 */
export function weightsOf(model: ModelState): readonly ExtractedParameter[] {
  const stated = new Map(model.groups.flat().map(({ name, shape }) => [name, shape]));
  const weights = [...(model.module ?? [])].filter(([name]) => stated.has(name));
  const { held, lost } = besideOptimizer(model);
  const isPlaceholder =
    lost.length > 0 || weights.some(([name, { shape }]) => !sameShape(shape, stated.get(name) ?? []));
  if (weights.length + held.length > 0 && !isPlaceholder) return weights.map(([name, each]) => untrained(name, each));
  throw new MergeyardError("DeepspeedWeightsMissing", {
    where: { file: model.file },
    found: isPlaceholder ? "placeholders of stage 3" : "no weights",
    expected: "optimizer states beside it, or weights in it",
  });
}

/**
 * Weights with no place in the optimizer that the module's dict alone holds: frozen ones of stage 1, and those that the
 * trainer gave to no optimizer. `lost` are names of which stage 3 left placeholders.
 */
function besideOptimizer({ module, hasPlaceholders, buffers, groups, frozenShapes, shared }: ModelState) {
  const stated = [...groups.flat(), ...frozenShapes].map(({ name }) => name);
  const known = new Set([...buffers, ...stated, ...shared.keys()]);
  const others = [...(module ?? [])].filter(([name]) => !known.has(name));
  const isLost = ([, { shape }]: (typeof others)[number]) => hasPlaceholders && elementCount(shape) === 0;
  return {
    held: others.filter((each) => !isLost(each)).map(([name, tensor]) => untrained(name, tensor)),
    lost: others.filter(isLost).map(([name]) => name),
  };
}

/** Names of buffers and weights that no file holds under a name that is known. */
export function lostTensors(models: readonly ModelState[]): readonly string[] {
  const held = new Set(models.flatMap(({ module }) => [...(module?.keys() ?? [])]));
  const buffers = models.flatMap((model) => model.buffers.filter((name) => !held.has(name)));
  return [...new Set([...buffers, ...models.flatMap((model) => besideOptimizer(model).lost)])];
}

/** Buffers of every pipeline stage; tensor-parallel ranks must agree on them. */
export function buffersOf(models: readonly ModelState[], tp: number): readonly ConversionParameter[] {
  const buffers = new Map<string, ConversionParameter>();
  models.forEach((model, rank) => {
    if (rank % tp !== 0) return;
    for (const name of model.buffers) {
      const own = model.module?.get(name);
      if (own === undefined || buffers.has(name)) continue;
      const copies = models.slice(rank, rank + tp).flatMap(({ module }) => module?.get(name) ?? []);
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

/**
 * Weights without optimizer states by model-parallel rank. Frozen ones are whole in stages 1 and 2, cut over
 * data-parallel ranks in stage 3.
 */
export async function untrainedOf(
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
    const frozen = model.frozenShapes.map(({ name, shape }) => joinFrozen(name, shape, [model, ...others]));
    ranks.push([...frozen, ...besideOptimizer(model).held]);
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
