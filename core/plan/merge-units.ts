// From planned tensors and the shards they go to, to merge units: places, bytes read and written, and the memory bound.
import assert from "node:assert/strict";
import { type ErrorPlace, MergeyardError } from "../error.ts";
import type { PlannedShard } from "../formats/safetensors/shard-plan.ts";
import type { MergeMethod } from "../methods/method.ts";
import { findPlannedMethod } from "../methods/registry.ts";
import type { Recipe } from "../recipe/normalise.ts";
import { fieldPlace } from "../recipe/origin.ts";
import { tensorBytes } from "../tensor.ts";
import {
  type CutMethod,
  type Fit,
  fitMemory,
  keptBytes,
  kernelBytes,
  type Machine,
  sinkBytes,
  valueDtype,
} from "./memory.ts";
import type { PlannedTensor } from "./plan-tensor.ts";
import { type DerivedFile, type MergeUnit, modelsOf, type UnitInput, type UnitTensor } from "./schema.ts";

/** What units have in common. */
export type UnitOptions = {
  readonly recipe: Recipe;
  readonly method: MergeMethod;
  readonly stage: number;
  readonly machine: Machine;
  readonly statistics: boolean;
  /** Of a method that must know the whole model. */
  readonly prepared?: MergeUnit["prepared"];
};

/** A copied tensor as memory and reading see it. */
const COPY = { locality: "element", reducePasses: 0 } as const;

/** What a unit takes of a worker, and where: by its tensor that needs most. */
export type UnitNeed = {
  readonly peakBytes: number;
  readonly where: ErrorPlace;
  readonly method: string;
  readonly models: number;
};

/** A unit, and what it needs; a worker may not have that. */
export type Fitted<Unit> = { readonly unit: Unit; readonly need: UnitNeed };

/** One unit per shard, in order. */
export function makeMergeUnits(
  tensors: readonly PlannedTensor[],
  shards: readonly PlannedShard[],
  derived: readonly (readonly DerivedFile[])[],
  options: UnitOptions,
): readonly Fitted<MergeUnit>[] {
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
    const watchers = { statistics: options.statistics, derives: made.length > 0 };
    const bytesOf = (tensor: UnitTensor, windowElements: number) =>
      kernelBytes(methodOf(tensor, options), tensor, windowElements, watchers) + sinks;
    const { fit, need } = fitTensors(placed, bytesOf, options);
    const kept = keptBytes(fit, options.machine.memoryBytes, placed);
    const isPrepared = options.prepared !== undefined && placed.some(({ method }) => method === options.method.id);
    const unit: MergeUnit = {
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
    return { unit, need };
  });
}

function methodOf({ method: id }: UnitTensor, { method }: UnitOptions): CutMethod & Pick<MergeMethod, "reducePasses"> {
  return method.id === id ? method : (findPlannedMethod(id) ?? COPY);
}

/** Tensors that are merged once more than they are written, for derived ones that must know their largest magnitude. */
function measuredFirst(tensors: readonly UnitTensor[], derived: readonly DerivedFile[]): readonly UnitTensor[] {
  const fused = derived.flatMap((file) => file.tensors.flatMap((own) => ("fused" in own ? (own.fused ?? []) : [])));
  return [...new Set(fused)].flatMap((index) => tensors[index] ?? []);
}

/** The first pass reads every input whole, of gathered rows all there are; every other what was not kept. */
function bytesRead(tensor: UnitTensor, kept: number, options: UnitOptions): number {
  const all = bytesOfInputs(tensor);
  const { reducePasses } = methodOf(tensor, options);
  const passes = typeof reducePasses === "number" ? reducePasses : reducePasses(tensor);
  return all + passes * Math.max(0, all - kept);
}

/** Bytes of every input, read once. */
export function bytesOfInputs(tensor: UnitTensor): number {
  const bytesOf = (input: UnitInput) =>
    input.rows === undefined
      ? input.ranges.reduce((sum, { bytes }) => sum + bytes, 0)
      : tensorBytes(valueDtype(input), tensor.shape);
  return tensor.inputs.reduce((sum, input) => sum + bytesOf(input), 0);
}

/** How a unit of these tensors, of each of which a thread needs `bytesOf`, fits into a worker, and what it needs. */
export function fitTensors(
  tensors: readonly UnitTensor[],
  bytesOf: (tensor: UnitTensor, windowElements: number) => number,
  { recipe, method, machine }: UnitOptions,
): { readonly fit: Fit; readonly need: UnitNeed } {
  const needs = (windowElements: number) =>
    tensors.reduce((most, tensor) => Math.max(most, bytesOf(tensor, windowElements)), 0);
  const fit = fitMemory(needs, machine);
  const { windowElements, threadBytes, peakBytes } = fit;
  const largest = tensors.find((tensor) => bytesOf(tensor, windowElements) === threadBytes);
  const field = recipe.moe === undefined ? "merge_method" : "experts";
  const where = { ...fieldPlace(recipe.origin, [field]), tensor: largest?.name };
  return { fit, need: { peakBytes, where, method: method.id, models: modelsOf(largest?.inputs ?? []).length } };
}

/** Throws PlanMemoryExceeded, with the unit that needs most, where one needs more than the largest worker has. */
export function refuseLargest(needs: readonly UnitNeed[], memoryBytesMax: number): void {
  const [largest] = needs.toSorted((a, b) => b.peakBytes - a.peakBytes);
  if (largest === undefined || largest.peakBytes <= memoryBytesMax) return;
  const { peakBytes, where, method, models } = largest;
  throw new MergeyardError("PlanMemoryExceeded", {
    where,
    found: `${peakBytes} bytes for ${method} of ${models} models`,
    expected: `at most ${memoryBytesMax} bytes`,
    hint: `give a worker at least ${Math.ceil(peakBytes / 2 ** 20)} MiB (--memory)`,
  });
}
