// Chooses windows and threads for a unit so that the process stays within a bound. Windows and threads never change a
// result, so this may decide by what the machine has.
import { MergeyardError } from "../core/error.ts";
import { kernelBytes, processBytes, WINDOW_ELEMENTS_DEFAULT } from "../core/plan/memory.ts";
import type { MergeUnit } from "../core/plan/schema.ts";
import { methodOf } from "./merge-region.ts";

/** Smallest window that is tried: 8 tiles. */
const WINDOW_ELEMENTS_MIN = WINDOW_ELEMENTS_DEFAULT / 8;

/** A copied tensor as memory sees it. */
const COPY = { locality: "element", scratchTiles: () => 0 } as const;

export type Window = { readonly elements: number; readonly threads: number; readonly threadBytes: number };

/**
 * The largest window, then the most threads up to `threads`, within `memoryBytes`. Throws EngineMemoryTooSmall when one
 * thread with the smallest window does not fit.
 */
export function chooseWindow(unit: MergeUnit, threads: number, memoryBytes: number): Window {
  for (let count = threads; count >= 1; count--) {
    for (let elements = WINDOW_ELEMENTS_DEFAULT; elements >= WINDOW_ELEMENTS_MIN; elements /= 2) {
      const threadBytes = threadBytesOf(unit, elements);
      if (processBytes(threadBytes, count) <= memoryBytes) return { elements, threads: count, threadBytes };
    }
  }
  throw new MergeyardError("EngineMemoryTooSmall", {
    where: { file: unit.file },
    found: `${memoryBytes} bytes`,
    expected: `at least ${processBytes(threadBytesOf(unit, WINDOW_ELEMENTS_MIN), 1)} bytes`,
  });
}

/** Kernel memory of a thread that may get any tensor of the unit. */
function threadBytesOf(unit: MergeUnit, windowElements: number): number {
  const bytes = unit.tensors.map((tensor) => kernelBytes(methodOf(tensor) ?? COPY, tensor, windowElements));
  return bytes.reduce((most, one) => Math.max(most, one), 0);
}
