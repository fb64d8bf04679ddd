// From planned tensors and the shards they go to, to merge units: places, bytes read and written, and the memory bound.
import assert from "node:assert/strict";
import { MergeyardError } from "../error.ts";
import type { PlannedShard } from "../formats/safetensors/shard-plan.ts";
import type { MergeMethod } from "../methods/method.ts";
import { passthrough } from "../methods/passthrough.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import { tensorBytes } from "../tensor.ts";
import { type CutMethod, type Fit, fitMemory, keptBytes, kernelBytes, sinkBytes, valueDtype } from "./memory.ts";
import type { PlannedTensor } from "./plan-tensor.ts";
import { type DerivedFile, type MergeUnit, modelsOf, type UnitInput, type UnitTensor } from "./schema.ts";

/** What units have in common. */
export type UnitOptions = {
  readonly recipe: Recipe;
  readonly method: MergeMethod;
  readonly stage: number;
  readonly threads: number;
  readonly memoryBytes: number;
  /** What the largest worker has, for units that cannot do with `memoryBytes`. */
  readonly memoryBytesMax: number;
  readonly statistics: boolean;
  /** Of a method that must know the whole model. */
  readonly prepared?: MergeUnit["prepared"];
};

/** A copied tensor as memory and reading see it. */
const COPY = { locality: "element", reducePasses: 0 } as const;

/** One unit per shard, in order. Throws PlanMemoryExceeded when a tensor does not fit into a worker's memory. */
export function makeMergeUnits(
  tensors: readonly PlannedTensor[],
  shards: readonly PlannedShard[],
  derived: readonly (readonly DerivedFile[])[],
  options: UnitOptions,
): readonly MergeUnit[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  return shards.map((shard, index) => {
    const placed = shard.tensors.map(({ name, offset, bytes }): UnitTensor => {
      const planned = byName.get(name);
      assert.ok(planned !== undefined, "shards hold planned tensors only");
      return { ...planned, offset, bytes };
    });
    const { recipe } = options;
    const made = derived[index] ?? [];
    const sinks = sinkBytes(made);
    const bytesOf = (tensor: UnitTensor, windowElements: number) =>
      kernelBytes(methodOf(tensor, options), tensor, windowElements, options.statistics) + sinks;
    const fit = fitTensors(placed, bytesOf, options);
    const kept = keptBytes(fit, options.memoryBytes, placed);
    const isPrepared = options.prepared !== undefined && placed.some(({ method }) => method === options.method.id);
    return {
      op: "merge",
      stage: options.stage,
      index,
      peakBytes: fit.peakBytes,
      bytesRead: [...placed, ...measuredFirst(placed, made)].reduce(
        (sum, own) => sum + bytesRead(own, kept, options),
        0,
      ),
      bytesWritten: made.reduce((sum, { fileBytes }) => sum + fileBytes, shard.fileBytes),
      file: shard.file,
      fileBytes: shard.fileBytes,
      tensors: placed,
      derived: [...made],
      nonFinite: recipe.nonFinite,
      strict: recipe.strict,
      statistics: options.statistics,
      ...(isPrepared ? { prepared: options.prepared } : {}),
    };
  });
}

function methodOf({ method: id }: UnitTensor, { method }: UnitOptions): CutMethod & { readonly reducePasses: number } {
  return [method, passthrough].find((known) => known.id === id) ?? COPY;
}

/** Tensors that are merged once more than they are written, for derived ones that must know their largest magnitude. */
function measuredFirst(tensors: readonly UnitTensor[], derived: readonly DerivedFile[]): readonly UnitTensor[] {
  const fused = derived.flatMap((file) => file.tensors.flatMap((own) => ("fused" in own ? (own.fused ?? []) : [])));
  return [...new Set(fused)].flatMap((index) => tensors[index] ?? []);
}

/** The first pass reads every input whole, of gathered rows all there are; every other what was not kept. */
function bytesRead(tensor: UnitTensor, kept: number, options: UnitOptions): number {
  const all = bytesOfInputs(tensor);
  return all + methodOf(tensor, options).reducePasses * Math.max(0, all - kept);
}

/** Bytes of every input, read once. */
export function bytesOfInputs(tensor: UnitTensor): number {
  const bytesOf = (input: UnitInput) =>
    input.rows === undefined
      ? input.ranges.reduce((sum, { bytes }) => sum + bytes, 0)
      : tensorBytes(valueDtype(input), tensor.shape);
  return tensor.inputs.reduce((sum, input) => sum + bytesOf(input), 0);
}

/**
 * How a unit of these tensors fits into a worker, whose thread needs `bytesOf` of each. Throws PlanMemoryExceeded, with
 * the tensor that needs most.
 */
export function fitTensors(
  tensors: readonly UnitTensor[],
  bytesOf: (tensor: UnitTensor, windowElements: number) => number,
  { recipe, method, threads, memoryBytes, memoryBytesMax }: UnitOptions,
): Fit {
  const needs = (windowElements: number) =>
    tensors.reduce((most, tensor) => Math.max(most, bytesOf(tensor, windowElements)), 0);
  const fit = fitMemory(needs, threads, memoryBytes);
  const { windowElements, threadBytes, peakBytes } = fit;
  if (peakBytes <= memoryBytesMax) return fit;
  const largest = tensors.find((tensor) => bytesOf(tensor, windowElements) === threadBytes);
  throw new MergeyardError("PlanMemoryExceeded", {
    where: { ...fieldPlace(recipe.origin, ["merge_method"]), tensor: largest?.name },
    found: `${peakBytes} bytes for ${method.id} of ${modelsOf(largest?.inputs ?? []).length} models`,
    expected: `at most ${memoryBytesMax} bytes`,
    hint: `give a worker at least ${Math.ceil(peakBytes / 2 ** 20)} MiB (--memory)`,
  });
}
