// A tensor of a torch file as byte ranges: its offset, size and strides checked against the storage that it views, and
// its elements in row-major order as the runs of bytes that they are.
import type { ByteRange, FolderReader } from "../../checkpoint.ts";
import { viewOf } from "../../data-view.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { SAFETENSORS_LIMITS, TORCH_LIMITS } from "../../limits.ts";
import { type Dtype, elementCount, type Shape } from "../../tensor.ts";
import { pushRange } from "../../universal/box.ts";
import { isCount, type PickleTensor } from "../pickle/value.ts";

export type PlacedTorchTensor = {
  readonly dtype: Dtype;
  readonly shape: Shape;
  readonly ranges: readonly ByteRange[];
};

/**
 * The ranges of a tensor whose storage is `storage`. `name` is for errors.
 * Throws: TorchDtypeUnsupported, TorchShapeInvalid, TorchTensorTooLarge, TorchTensorOutOfBounds, TorchTensorScattered.
 */
export function placeTensor(tensor: PickleTensor, storage: ByteRange, name: string): PlacedTorchTensor {
  const { element, size, stride, dtypeName } = tensor;
  const refuse = (code: ErrorCode, found: string, expected: string) =>
    new MergeyardError(code, { where: { file: storage.file, tensor: name }, found, expected });
  if (element.dtype === undefined) {
    throw refuse("TorchDtypeUnsupported", dtypeName, "a dtype that safetensors has too");
  }
  const shapeText = `size [${size.slice(0, 8)}], stride [${stride.slice(0, 8)}], offset ${tensor.offset}`;
  const rankMax = SAFETENSORS_LIMITS.rank;
  if (size.length !== stride.length || size.length > rankMax || size.some((length) => length < 0)) {
    throw refuse("TorchShapeInvalid", shapeText, `at most ${rankMax} axes, a stride for each, no negative size`);
  }
  const elements = elementCount(size);
  if (elements > TORCH_LIMITS.elements || !size.every((length) => Number.isSafeInteger(length))) {
    throw refuse("TorchTensorTooLarge", `${elements} elements`, `at most ${TORCH_LIMITS.elements}`);
  }
  const base = tensor.offset + (tensor.storage.view?.offset ?? 0);
  const last = size.reduce((sum, length, axis) => sum + (length - 1) * (stride[axis] ?? 0), base);
  const isInside =
    tensor.offset >= 0 && stride.every((step) => step >= 0) && (last + 1) * element.bytes <= storage.bytes;
  const isEmptyInside = elements === 0 && tensor.offset >= 0 && stride.every((step) => step >= 0);
  if (!isInside && !isEmptyInside) {
    throw refuse(
      "TorchTensorOutOfBounds",
      shapeText,
      `within ${storage.bytes / element.bytes} elements of its storage`,
    );
  }
  const { dtype } = element;
  if (elements === 0) return { dtype, shape: size, ranges: [{ ...storage, bytes: 0 }] };
  const runs = cutRuns(size, stride);
  if (runs.count > TORCH_LIMITS.runs) {
    throw refuse("TorchTensorScattered", `${runs.count} runs of elements`, `at most ${TORCH_LIMITS.runs}`);
  }
  const bytes = runs.elements * element.bytes;
  const ranges: ByteRange[] = [];
  for (const start of startsOf(size.slice(0, runs.outerAxes), stride)) {
    const offset = storage.offset + (base + start) * element.bytes;
    pushRange(ranges, { file: storage.file, offset, bytes });
  }
  return { dtype, shape: size, ranges };
}

/** The inner axes that lie without gaps form runs of `elements`; the axes before `outerAxes` number them. */
function cutRuns(size: readonly number[], stride: readonly number[]) {
  let [elements, outerAxes] = [1, size.length];
  for (; outerAxes > 0; outerAxes -= 1) {
    const length = size[outerAxes - 1] ?? 1;
    if (length !== 1 && stride[outerAxes - 1] !== elements) break;
    elements *= length;
  }
  const count = elementCount(size.slice(0, outerAxes));
  return { elements, outerAxes, count };
}

/** First elements of the runs, in row-major order of the outer axes. */
function* startsOf(size: readonly number[], stride: readonly number[]): Generator<number> {
  const position = new Array<number>(size.length).fill(0);
  for (let start = 0; ; ) {
    yield start;
    let axis = size.length - 1;
    for (; axis >= 0; axis -= 1) {
      position[axis] = (position[axis] ?? 0) + 1;
      start += stride[axis] ?? 0;
      if ((position[axis] ?? 0) < (size[axis] ?? 0)) break;
      start -= (position[axis] ?? 0) * (stride[axis] ?? 0);
      position[axis] = 0;
    }
    if (axis < 0) return;
  }
}

/** The whole number of 0 or more in one element of a file; undefined when it holds something else. */
export async function readCount(folder: FolderReader, range: ByteRange, dtype: Dtype): Promise<number | undefined> {
  const bytes = await folder.read(range.file, range.offset, range.bytes);
  const view = viewOf(bytes);
  const readers: Partial<Record<Dtype, () => number>> = {
    F32: () => view.getFloat32(0, true),
    F64: () => view.getFloat64(0, true),
    I32: () => view.getInt32(0, true),
    I64: () => Number(view.getBigInt64(0, true)),
  };
  const value = readers[dtype]?.();
  return isCount(value) ? value : undefined;
}
