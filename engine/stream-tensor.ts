// One tensor through a method that reads its inputs in an order of its own: each read goes through one block of memory,
// and the result is written piece by piece as it comes, in float32.
import assert from "node:assert/strict";
import { createHasher } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import type { ReadInput } from "../core/methods/method.ts";
import { floatDtype } from "../core/ops/cast.ts";
import { subTile } from "../core/ops/memory.ts";
import { STREAM_BYTES } from "../core/plan/memory.ts";
import { elementBytes } from "../core/tensor.ts";
import { checkDigest, type TensorContext, type TensorResult } from "./merge-tensor.ts";

/** Throws EngineNonFinite, EngineInputChanged and what the store throws; writes in order. */
export async function streamTensor(context: TensorContext): Promise<TensorResult> {
  const { kernels, method, tensor, view } = context;
  assert.ok(method.stream !== undefined && tensor.dtype === "F32", "streamed results are float32");
  const mark = kernels.mark();
  try {
    const { read, finish } = createReader(context);
    const output = createHasher();
    for await (const { values } of method.stream(view, kernels, read)) {
      if (!values.every(Number.isFinite)) throw overflow(tensor.name);
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      output.update(bytes);
      context.progress(0, bytes.byteLength);
      await context.write(bytes);
    }
    const nonFiniteInputs = tensor.inputs.map(() => 0);
    return { digest: output.digest(), inputDigests: finish(), nonFiniteInputs, nonFiniteOutput: 0, sinks: [] };
  } finally {
    kernels.release(mark);
  }
}

/** Reads are in order and once for every input but gathered ones, so what is read is what is digested. */
function createReader(context: TensorContext) {
  const { kernels, tensor, view, readers, digested, progress } = context;
  const block = kernels.allocateBlock(STREAM_BYTES);
  const hashers = digested.map((stated) => stated && createHasher());
  const read: ReadInput = async (input, first, count, target) => {
    const [readElements, own] = [readers[input], tensor.inputs[input]];
    assert.ok(readElements !== undefined && own !== undefined, `a streamed tensor has no input ${input}`);
    const dtype = floatDtype(own.dtype);
    const most = STREAM_BYTES / elementBytes(dtype, 1);
    for (let done = 0; done < count; done += most) {
      const elements = Math.min(most, count - done);
      await readElements(first + done, elements, block);
      const bytes = elementBytes(dtype, elements);
      hashers[input]?.update(block.bytes.subarray(0, bytes));
      const bad = kernels.widen(dtype, block, 0, subTile(target, done, elements), elements);
      progress(bytes, 0);
      if (bad === 0) continue;
      const where = { model: view.inputs[input]?.model, tensor: own.tensor };
      throw new MergeyardError("EngineNonFinite", { where, found: `${bad} values`, expected: "finite numbers only" });
    }
  };
  const finish = () => {
    const digests = hashers.map((hasher) => hasher?.digest());
    digests.forEach((digest, index) => void checkDigest(context, index, digest));
    return digests;
  };
  return { read, finish };
}

function overflow(tensor: string): MergeyardError {
  return new MergeyardError("EngineNonFinite", {
    where: { tensor },
    found: "values in the result",
    expected: "finite numbers only",
  });
}
