// A tensor that the recipe leaves as it is: its stored bytes, whatever the dtype, digested and checked for NaN and
// infinity on the way.
import assert from "node:assert/strict";
import { setImmediate as nextTurn } from "node:timers/promises";
import { createHasher } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import { isFloatDtype } from "../core/ops/cast.ts";
import { type Block, TILE_ELEMENTS } from "../core/ops/kernels.ts";
import { storedBytes } from "../core/plan/memory.ts";
import { elementBytes, elementCount } from "../core/tensor.ts";
import { createSink } from "./create-sink.ts";
import { checkDigest, type TensorContext, type TensorResult } from "./merge-tensor.ts";
import { finishSinks } from "./sink.ts";

/** Copies the only input's bytes. Throws EngineNonFinite, EngineInputChanged and what the store throws. */
export async function copyTensor(context: Omit<TensorContext, "method">): Promise<TensorResult> {
  const { kernels, tensor, view } = context;
  const total = elementCount(tensor.shape);
  const windowElements = Math.min(context.windowElements, Math.max(1, total));
  const [read] = context.readers;
  assert.ok(read !== undefined, "a copied tensor has one input");
  const mark = kernels.mark();
  try {
    const window = kernels.allocateBlock(elementBytes(tensor.dtype, windowElements));
    const sinks = context.sinks.map((place) => createSink(place, tensor.name, tensor.dtype, kernels));
    const hasher = createHasher();
    let nonFinite = 0;
    for (let first = 0; first < total; first += windowElements) {
      const count = Math.min(windowElements, total - first);
      if (context.mayBlock) await nextTurn();
      await read(first, count, window);
      const bytes = window.bytes.subarray(0, elementBytes(tensor.dtype, count));
      nonFinite += countNonFinite(context, window, count);
      hasher.update(bytes);
      await context.write(bytes);
      for (const sink of sinks) await sink.take(window, count);
      const [input] = tensor.inputs;
      context.progress(input === undefined ? 0 : storedBytes(input, count), bytes.byteLength);
    }
    const digest = hasher.digest();
    const where = { model: view.inputs[0]?.model, tensor: tensor.inputs[0]?.tensor };
    const isWhole = context.digested[0] !== undefined;
    if (isWhole) checkDigest(context, 0, digest);
    if (nonFinite > 0 && view.rules.nonFinite === "error") {
      const found = `${nonFinite} values`;
      throw new MergeyardError("EngineNonFinite", { where, found, expected: "finite numbers only" });
    }
    const made = await finishSinks(sinks);
    const inputDigests = isWhole ? [digest] : [];
    return { digest, inputDigests, nonFiniteInputs: [nonFinite], nonFiniteOutput: nonFinite, sinks: made };
  } finally {
    kernels.release(mark);
  }
}

function countNonFinite({ kernels, tensor }: Omit<TensorContext, "method">, window: Block, count: number): number {
  const { dtype } = tensor;
  if (!isFloatDtype(dtype)) return 0;
  const mark = kernels.mark();
  const tile = kernels.allocateTile(Math.min(TILE_ELEMENTS, count));
  let found = 0;
  for (let done = 0; done < count; done += TILE_ELEMENTS) {
    found += kernels.widen(dtype, window, elementBytes(dtype, done), tile, Math.min(TILE_ELEMENTS, count - done));
  }
  kernels.release(mark);
  return found;
}
