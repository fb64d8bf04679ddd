// One region of a merge unit's output file: opens its part of the write, merges its tensors in file order, closes it.
// Runs in a worker thread; everything that crosses the thread's border is plain data.
import assert from "node:assert/strict";
import { MergeyardError } from "../core/error.ts";
import type { MergeMethod, MergeTensor, ModelState } from "../core/methods/method.ts";
import { findPlannedMethod } from "../core/methods/registry.ts";
import type { Kernels } from "../core/ops/kernels.ts";
import { valueDtype } from "../core/plan/memory.ts";
import { type MergeUnit, modelName, placesOf, type UnitTensor } from "../core/plan/schema.ts";
import type { OpenStore, RegionReceipt, WriteTicket } from "../stores/store.ts";
import { copyTensor } from "./copy-tensor.ts";
import { createInputReader } from "./input-reader.ts";
import { largestStored } from "./largest-stored.ts";
import { type InputContext, mergeTensor, type TensorContext, type TensorResult } from "./merge-tensor.ts";
import { type HessianPlace, readHessian } from "./read-hessian.ts";
import type { MergeRegion } from "./regions.ts";
import type { ResolvedSource } from "./request.ts";
import type { SinkPlace } from "./sink.ts";
import { sourceOf } from "./stored-reader.ts";
import { streamTensor } from "./stream-tensor.ts";

/** What all tensors of a task have in common. */
export type InputTask = {
  readonly rules: MergeTensor["rules"];
  readonly sources: readonly ResolvedSource[];
  readonly windowElements: number;
  /** What rounds have decided, where a method asks for them. */
  readonly state?: ModelState | undefined;
};

export type RegionTask = InputTask & {
  readonly digestInputs: boolean;
  /** Memory for inputs that several passes over a tensor need. */
  readonly keptBytes: number;
  readonly index: number;
  readonly region: MergeRegion;
  readonly ticket: WriteTicket;
  /** Bytes that go before the first tensor: the file's header, in the first region. */
  readonly prologue: Uint8Array;
  readonly tensors: readonly UnitTensor[];
  /** By the unit's derived files, this region's part of each. */
  readonly derived: readonly DerivedPart[];
  readonly targetStore: string;
  readonly statistics: boolean;
};

/** The part of a derived file that holds the region's tensors. */
export type DerivedPart = {
  readonly ticket: WriteTicket;
  /** Bytes that go before the first tensor and behind the last one, in the first region and the last. */
  readonly prologue: Uint8Array;
  readonly epilogue: Uint8Array;
  /** `tensor.tensor` counts in the region's tensors. */
  readonly tensors: readonly Omit<SinkPlace, "write" | "largest" | "hessian">[];
  /** The folder that has the file of the tensors' Hessians. */
  readonly hessians: HessianPlace | undefined;
};

export type RegionResult = {
  readonly receipt: RegionReceipt;
  /** By the region's derived parts. */
  readonly derived: readonly RegionReceipt[];
  /** By the region's tensors, in order; their sinks by the derived files that hold them. */
  readonly tensors: readonly TensorResult[];
};

export type RegionDeps = {
  readonly kernels: Kernels;
  readonly openStore: OpenStore;
  readonly signal: AbortSignal;
  readonly progress: (read: number, written: number) => void;
};

/** The method of a tensor, or undefined for a copy. Throws RecipeMethodUnknown for an id that is not registered. */
export function methodOf(tensor: UnitTensor): MergeMethod | undefined {
  if (tensor.method === "copy") return undefined;
  const method = findPlannedMethod(tensor.method);
  if (method === undefined) {
    throw new MergeyardError("RecipeMethodUnknown", { where: { tensor: tensor.name }, found: tensor.method });
  }
  return method;
}

/** Merges the region's tensors and closes its part of the write. */
export async function mergeRegion(task: RegionTask, deps: RegionDeps): Promise<RegionResult> {
  const target = deps.openStore(task.targetStore);
  const mayBlock = target.isLocal && areLocal(task.tensors, task.sources, deps);
  const writer = await target.openRegion(task.ticket, task.index, { signal: deps.signal, mayBlock });
  if (task.prologue.byteLength > 0) await writer.write(task.prologue);
  const parts = await openParts(task, deps);
  const results: TensorResult[] = [];
  const largestOf = createLargest(task, deps);
  for (const [index, tensor] of task.tensors.entries()) {
    const sinks: SinkPlace[] = [];
    for (const { placeOf, hessians } of parts) {
      const place = placeOf(index);
      if (place === undefined) continue;
      const hessian = await hessianOf(hessians, place.tensor, tensor, deps);
      sinks.push({ ...place, largest: await largestOf(place.tensor), hessian });
    }
    const write = (bytes: Uint8Array): Promise<void> => writer.write(bytes);
    const { statistics, digestInputs, keptBytes } = task;
    results.push(await mergeOne(task, tensor, deps, { statistics, digestInputs, keptBytes, write, sinks }));
  }
  const derived: RegionReceipt[] = [];
  for (const { writer, epilogue } of parts) {
    if (epilogue.byteLength > 0) await writer.write(epilogue);
    derived.push(await writer.close());
  }
  return { receipt: await writer.close(), derived, tensors: results };
}

/** The Hessian of a derived tensor's inputs, where it has one. */
async function hessianOf(
  place: HessianPlace | undefined,
  derived: SinkPlace["tensor"],
  { name }: UnitTensor,
  deps: RegionDeps,
): Promise<Float32Array | undefined> {
  const entry = "hessian" in derived ? derived.hessian : undefined;
  return place === undefined || entry === undefined ? undefined : readHessian(place, { name, ...entry }, deps);
}

/** One tensor of a region by its method, or copied. */
async function mergeOne(
  task: InputTask,
  tensor: UnitTensor,
  deps: RegionDeps,
  output: Pick<TensorContext, "statistics" | "keptBytes" | "write" | "sinks"> & { readonly digestInputs: boolean },
): Promise<TensorResult> {
  deps.signal.throwIfAborted();
  const mark = deps.kernels.mark();
  try {
    const context = { ...inputContext(task, tensor, deps, output.digestInputs), ...output };
    const method = methodOf(tensor);
    if (method === undefined) return await copyTensor(context);
    return await (method.stream === undefined ? mergeTensor : streamTensor)({ ...context, method });
  } finally {
    deps.kernels.release(mark);
  }
}

/**
 * max|x| of what fused tensors of the region become, for derived ones whose scheme must know it: they are merged once
 * more than they are written. A set is measured once.
 */
function createLargest(task: RegionTask, deps: RegionDeps) {
  const measured = new Map<number, number>();
  const measure = async (index: number): Promise<number> => {
    const tensor = task.tensors[index];
    assert.ok(tensor !== undefined, "fused tensors lie in one region");
    let largest = 0;
    const write = async (bytes: Uint8Array) => {
      largest = Math.max(largest, largestStored(tensor.dtype, bytes));
    };
    const progress = (read: number): void => deps.progress(read, 0);
    await mergeOne(
      task,
      tensor,
      { ...deps, progress },
      {
        statistics: false,
        digestInputs: false,
        keptBytes: task.keptBytes,
        write,
        sinks: [],
      },
    );
    return largest;
  };
  return async (tensor: SinkPlace["tensor"]): Promise<number | undefined> => {
    if (!("fused" in tensor) || tensor.fused === undefined) return undefined;
    for (const index of tensor.fused) if (!measured.has(index)) measured.set(index, await measure(index));
    return tensor.fused.reduce((most, index) => Math.max(most, measured.get(index) ?? 0), 0);
  };
}

/** Opens the region's part of every derived file; `placeOf` is where a tensor of the region goes in it. */
function openParts({ derived, index, targetStore }: RegionTask, deps: RegionDeps) {
  const target = deps.openStore(targetStore);
  return Promise.all(
    derived.map(async ({ ticket, prologue, epilogue, tensors, hessians }) => {
      const writer = await target.openRegion(ticket, index, { signal: deps.signal });
      if (prologue.byteLength > 0) await writer.write(prologue);
      const write = async (bytes: Uint8Array): Promise<void> => {
        await writer.write(bytes);
        deps.progress(0, bytes.byteLength);
      };
      const places = new Map(tensors.map((place) => [place.tensor.tensor, { ...place, write }] as const));
      return { writer, placeOf: (tensor: number) => places.get(tensor), hessians, epilogue };
    }),
  );
}

/**
 * How a tensor's inputs are read; readers that compute take kernel memory until the caller releases it. Digested is
 * what has a digest to compare, or with `digestAll` whatever can be.
 */
export function inputContext(
  task: InputTask,
  tensor: UnitTensor,
  deps: RegionDeps,
  digestAll = false,
): Omit<InputContext, "method"> {
  const sources = tensor.inputs.map((input) => sourceOf(input, task.sources));
  const mayBlock = areLocal([tensor], task.sources, deps);
  const readerDeps = { ...deps, sources: task.sources, mayBlock };
  return {
    kernels: deps.kernels,
    // Readers hand out values, perhaps of another dtype than the stored ones.
    tensor: { ...tensor, inputs: tensor.inputs.map((input) => ({ ...input, dtype: valueDtype(input) })) },
    view: viewOf(tensor, task),
    readers: tensor.inputs.map((input) => createInputReader(input, readerDeps)),
    // What is cut or gathered is not read from end to end, what is packed comes out as other bytes than the stored
    // ones: neither can be digested here; adapters' readers do it themselves.
    digested: tensor.inputs.map(({ cut, rows, lora, packing, tensor: name }, index) => {
      const isWhole = cut === undefined && rows === undefined && lora === undefined && packing === undefined;
      const expected = sources[index]?.digests?.[name];
      return isWhole && (digestAll || expected !== undefined) ? { expected } : undefined;
    }),
    windowElements: task.windowElements,
    mayBlock,
    progress: deps.progress,
  };
}

/**
 * True when all that the tensors are read from is on this machine: then whoever merges reads within the call, and in
 * small windows. Of other sources nothing is asked: what a later stage makes lies nowhere yet.
 */
export function areLocal(
  tensors: readonly UnitTensor[],
  sources: readonly ResolvedSource[],
  { openStore }: Pick<RegionDeps, "openStore">,
): boolean {
  const places = tensors.flatMap(({ inputs }) => inputs.flatMap(placesOf));
  const stores = new Set(places.map((place) => sourceOf(place, sources).store));
  return [...stores].every((store) => openStore(store).isLocal);
}

function viewOf(tensor: UnitTensor, { sources, rules, state }: InputTask): MergeTensor {
  const { name, shape, parameters, seed, working } = tensor;
  const inputs = tensor.inputs.map((input) => ({
    model: modelName(input, sources),
    isBase: input.isBase,
    working: input.working,
    statistic: input.statistic,
    parameters: input.parameters,
  }));
  return { name, shape, parameters, seed, inputs, rules, working, state };
}

/** The tensors of a unit that a region covers. */
export function tensorsOf(unit: MergeUnit, region: MergeRegion): readonly UnitTensor[] {
  return unit.tensors.slice(region.firstTensor, region.endTensor);
}
