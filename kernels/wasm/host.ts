// The WebAssembly kernel set: loads the committed kernels.wasm over a memory of fixed size and calls it with addresses.
// What the operations compute is defined in core/ops. One instance per thread.
import { readFileSync } from "node:fs";
import type { FloatDtype } from "../../core/ops/cast.ts";
import type { Kernels } from "../../core/ops/kernels.ts";
import { createMemory } from "../../core/ops/memory.ts";
import { type CombineExports, hostCombine } from "./host-combine.ts";
import { type ElementExports, hostElements } from "./host-elements.ts";
import { hostIntegerProduct, type IntegerProductExports } from "./host-integer-product.ts";
import { hostMatrixProduct, type MatrixProductExports } from "./host-matrix-product.ts";
import { hostParts, type PartExports } from "./host-parts.ts";
import { hostQuant, type QuantExports } from "./host-quant.ts";
import { hostReduce, type ReduceExports } from "./host-reduce.ts";
import { hostTaskVectors, type TaskVectorExports } from "./host-task-vectors.ts";
import { hostWholeModel, type WholeModelExports } from "./host-whole-model.ts";

/** The module's own data lies below this address. */
const DATA_BYTES = 65536;
const PAGE_BYTES = 65536;
const PAGES_MAX = 65536;
/** Fused kernels work on whole groups of 16 elements: past the end of a source they may read this much. */
const OVERRUN_BYTES = 64;

type Convert = (source: number, target: number, count: number) => number;

/** The functions of kernels.wasm; addresses in bytes. */
type Exports = {
  readonly fill: (target: number, value: number, count: number) => void;
  readonly copy: (target: number, a: number, count: number) => void;
  readonly add: (target: number, a: number, b: number, count: number) => void;
  readonly subtract: (target: number, a: number, b: number, count: number) => void;
  readonly scale: (target: number, a: number, factor: number, count: number) => void;
  readonly divide: (target: number, a: number, divisor: number, count: number) => void;
  readonly addScaled: (target: number, a: number, factor: number, count: number) => void;
  readonly addScaledDifference: (target: number, a: number, b: number, factor: number, count: number) => void;
  readonly markSigns: (marks: number, a: number, isFirst: number, count: number) => void;
  readonly countConflicts: (marks: number, count: number) => number;
  readonly addLowRank: (
    ...args: [
      target: number,
      left: number,
      leftStride: number,
      right: number,
      rightStride: number,
      rank: number,
      scale: number,
      count: number,
    ]
  ) => void;
} & { readonly [name in `widen${FloatDtype}` | `narrow${FloatDtype}`]: Convert } & CombineExports &
  TaskVectorExports &
  ElementExports &
  MatrixProductExports &
  IntegerProductExports &
  QuantExports &
  WholeModelExports &
  ReduceExports &
  PartExports;

let compiled: WebAssembly.Module | undefined;

/** The compiled module; once per thread. */
function compileModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(readFileSync(new URL("kernels.wasm", import.meta.url)));
  return compiled;
}

/** Memory that kernels make as large as they need, in place: one that is dropped stays until garbage is collected. */
export function createKernelMemory(): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: DATA_BYTES / PAGE_BYTES, maximum: PAGES_MAX });
}

/**
 * Kernels over `capacityBytes` of memory (at most 4 GiB less one page); the system backs only pages that are touched.
 * Those that were made over the same memory before may not be used any more.
 */
export function createWasmKernels(capacityBytes: number, memory = createKernelMemory()): Kernels {
  const pages = Math.ceil((DATA_BYTES + capacityBytes + OVERRUN_BYTES) / PAGE_BYTES);
  memory.grow(Math.max(0, pages - memory.buffer.byteLength / PAGE_BYTES));
  const instance = new WebAssembly.Instance(compileModule(), { env: { memory } });
  const wasm = instance.exports as unknown as Exports;
  return {
    id: "wasm",
    ...createMemory(memory.buffer, DATA_BYTES),
    widen: (dtype, source, byteOffset, target, count) =>
      wasm[`widen${dtype}`](source.address + byteOffset, target.address, count),
    narrow: (dtype, source, target, byteOffset, count) =>
      wasm[`narrow${dtype}`](source.address, target.address + byteOffset, count),
    fill: (target, value, count) => wasm.fill(target.address, value, count),
    copy: (target, a, count) => wasm.copy(target.address, a.address, count),
    add: (target, a, b, count) => wasm.add(target.address, a.address, b.address, count),
    subtract: (target, a, b, count) => wasm.subtract(target.address, a.address, b.address, count),
    scale: (target, a, factor, count) => wasm.scale(target.address, a.address, factor, count),
    divide: (target, a, divisor, count) => wasm.divide(target.address, a.address, divisor, count),
    addScaled: (target, a, factor, count) => wasm.addScaled(target.address, a.address, factor, count),
    addScaledDifference: (target, a, b, factor, count) =>
      wasm.addScaledDifference(target.address, a.address, b.address, factor, count),
    ...hostCombine(wasm, memory.buffer),
    ...hostReduce(wasm, memory.buffer),
    markSigns: (marks, a, isFirst, count) => wasm.markSigns(marks.address, a.address, isFirst ? 1 : 0, count),
    countConflicts: (marks, count) => wasm.countConflicts(marks.address, count),
    addLowRank(target, { left, leftOffset, leftStride, right, rightOffset, rightStride, rank, scale }, count) {
      const [l, r] = [left.address + 4 * leftOffset, right.address + 4 * rightOffset];
      wasm.addLowRank(target.address, l, 4 * leftStride, r, 4 * rightStride, rank, scale, count);
    },
    ...hostMatrixProduct(wasm, memory.buffer),
    ...hostIntegerProduct(wasm, memory.buffer),
    ...hostTaskVectors(wasm, memory.buffer),
    ...hostElements(wasm, memory.buffer),
    ...hostQuant(wasm, memory.buffer),
    ...hostWholeModel(wasm),
    ...hostParts(wasm, memory.buffer),
  };
}
