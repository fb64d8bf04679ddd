// A weight with its adapter merged while it is read: W + scale L R, window by window, rounded once to W's dtype. The
// right factor is kept whole in float32, of the left one the rows of a window; the product is never stored.
// The meaning is core/plan/schema.ts's (LoraUpdate) and core/ops/low-rank.ts's.
import { createHasher } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import { floatDtype } from "../core/ops/cast.ts";
import { type Block, type Kernels, TILE_ELEMENTS, type Tile } from "../core/ops/kernels.ts";
import { subTile } from "../core/ops/memory.ts";
import { LORA_LEFT_ELEMENTS, LORA_SPAN_BYTES } from "../core/plan/memory.ts";
import type { LoraFactor, LoraUpdate, StoredTensor, TensorPlace } from "../core/plan/schema.ts";
import { elementBytes, elementCount, tensorBytes } from "../core/tensor.ts";
import { oneAtATime } from "./one-at-a-time.ts";
import { createStoredReader, type ReaderDeps, type StoredReader, sourceOf, subBlock } from "./stored-reader.ts";

/** The weight as one matrix, and its update. Takes the memory of the kernels that the plan counts for it. */
export function createLoraReader(
  own: StoredReader,
  tensor: StoredTensor & { readonly lora: LoraUpdate },
  deps: ReaderDeps,
): StoredReader {
  const { kernels } = deps;
  const { lora, shape } = tensor;
  const columns = elementCount(shape.slice(1));
  const weightCheck = createDigestCheck(tensor, deps);
  const left = createLeftFactor(lora, deps);
  const right = createRightFactor(lora, columns, deps);
  const tile = kernels.allocateTile(TILE_ELEMENTS);
  const unit = elementBytes(own.dtype, 1);
  const addRows = (first: number, count: number, target: Block, rows: LeftRows): void => {
    const dtype = floatDtype(own.dtype);
    for (let done = 0; done < count; ) {
      const length = Math.min(TILE_ELEMENTS, count - done);
      kernels.widen(dtype, target, done * unit, tile, length);
      for (let at = 0; at < length; ) {
        const row = Math.floor((first + done + at) / columns);
        const column = (first + done + at) % columns;
        const run = Math.min(columns - column, length - at);
        const terms = { ...rows.at(row), right: right.tile, rightOffset: column, rightStride: columns };
        kernels.addLowRank(subTile(tile, at, run), { ...terms, rank: lora.rank, scale: lora.scale }, run);
        at += run;
      }
      kernels.narrow(dtype, tile, target, done * unit, length);
      done += length;
    }
  };
  const read: StoredReader["read"] = async (first, count, target) => {
    await Promise.all([own.read(first, count, target), right.load()]);
    weightCheck?.feed(first * unit, target.bytes.subarray(0, count * unit));
    const rowsAtOnce = Math.max(1, Math.floor(LORA_LEFT_ELEMENTS / left.width));
    for (let done = 0; done < count; ) {
      const row = Math.floor((first + done) / columns);
      const end = Math.min(first + count, (row + rowsAtOnce) * columns);
      const size = end - first - done;
      const rows = await left.read(row, Math.ceil(end / columns) - row);
      addRows(first + done, size, subBlock(target, done * unit, size * unit), rows);
      done += size;
    }
  };
  // One span at a time: the factors' memory is shared.
  return { dtype: own.dtype, read: oneAtATime(read) };
}

/** Where the values of a row of the left factor are. */
type LeftRows = { at(row: number): { left: Tile; leftOffset: number; leftStride: number } };

function createLeftFactor({ left: factor, rank }: LoraUpdate, deps: ReaderDeps) {
  const { kernels } = deps;
  const reader = createStoredReader(factor, deps);
  const { step, first } = factor.part ?? { step: 1, first: 0 };
  /** Values of a row as it is stored. */
  const width = rank * step;
  const check = factor.swapped ? undefined : createDigestCheck(factor, deps);
  const elements = Math.max(LORA_LEFT_ELEMENTS, width);
  const unit = elementBytes(factor.dtype, 1);
  const block = kernels.allocateBlock(elements * unit);
  const tile = kernels.allocateTile(elements);
  const storedRow = elementCount(factor.shape.slice(1));
  return {
    width,
    /** Rows [row, row + count), at most LORA_LEFT_ELEMENTS values or one row; until the next are asked for. */
    async read(row: number, count: number): Promise<LeftRows> {
      if (factor.swapped) {
        const terms = Array.from({ length: rank }, (_, term) => term);
        await Promise.all(
          terms.map((term) =>
            reader.read(term * storedRow + row, count, subBlock(block, term * count * unit, count * unit)),
          ),
        );
      } else {
        await reader.read(row * width, count * width, block);
        check?.feed(row * width * unit, block.bytes.subarray(0, count * width * unit));
      }
      kernels.widen(floatDtype(factor.dtype), block, 0, tile, count * width);
      const [rowStride, leftStride] = factor.swapped ? [1, count] : [width, step];
      return { at: (wanted) => ({ left: tile, leftOffset: first + (wanted - row) * rowStride, leftStride }) };
    },
  };
}

function createRightFactor({ right: factor, rank }: LoraUpdate, columns: number, deps: ReaderDeps) {
  const { kernels } = deps;
  const tile = kernels.allocateTile(rank * columns);
  const span = kernels.allocateBlock(LORA_SPAN_BYTES);
  const part = kernels.allocateTile(TILE_ELEMENTS);
  const fill = async (): Promise<void> => {
    if (factor === undefined) return kernels.fill(tile, 1, rank * columns);
    const reader = createStoredReader(factor, deps);
    const check = createDigestCheck(factor, deps);
    const unit = elementBytes(factor.dtype, 1);
    for (let first = 0; first < rank * columns; first += LORA_SPAN_BYTES / unit) {
      const count = Math.min(LORA_SPAN_BYTES / unit, rank * columns - first);
      await reader.read(first, count, span);
      check?.feed(first * unit, span.bytes.subarray(0, count * unit));
      if (factor.swapped) scatter({ kernels, factor, span, part, tile, rank, columns }, first, count);
      else kernels.widen(floatDtype(factor.dtype), span, 0, subTile(tile, first, count), count);
    }
  };
  let loading: Promise<void> | undefined;
  return {
    tile,
    /** Reads the factor, once. */
    load(): Promise<void> {
      loading ??= fill().catch((error: unknown) => {
        loading = undefined;
        throw error;
      });
      return loading;
    },
  };
}

type Scatter = {
  readonly kernels: Kernels;
  readonly factor: LoraFactor;
  readonly span: Block;
  readonly part: Tile;
  readonly tile: Tile;
  readonly rank: number;
  readonly columns: number;
};

/**
 * Elements [first, first + count) of a factor that is stored as [columns, rank], to their places in [rank, columns].
 */
function scatter({ kernels, factor, span, part, tile, rank, columns }: Scatter, first: number, count: number): void {
  const unit = elementBytes(factor.dtype, 1);
  for (let done = 0; done < count; done += TILE_ELEMENTS) {
    const length = Math.min(TILE_ELEMENTS, count - done);
    kernels.widen(floatDtype(factor.dtype), span, done * unit, part, length);
    for (let index = 0; index < length; index++) {
      const element = first + done + index;
      tile.values[(element % rank) * columns + Math.floor(element / rank)] = part.values[index] ?? 0;
    }
  }
}

/** Compares a tensor's digest when its bytes have come by from end to end; undefined when it is not known. */
function createDigestCheck(tensor: TensorPlace | LoraFactor, { sources }: ReaderDeps) {
  const source = sourceOf(tensor, sources);
  const expected = source.digests?.[tensor.tensor];
  const isPart = "part" in tensor && tensor.part !== undefined;
  if (expected === undefined || tensor.packing !== undefined || isPart) return undefined;
  const total = tensorBytes(tensor.dtype, tensor.shape);
  const hasher = createHasher();
  let seen = 0;
  return {
    /** Bytes of the tensor from `offset` on. What was seen before is passed over; after a gap nothing is compared. */
    feed(offset: number, bytes: Uint8Array): void {
      if (offset > seen || offset + bytes.length <= seen || seen === total) return;
      hasher.update(bytes.subarray(seen - offset));
      seen = offset + bytes.length;
      if (seen < total) return;
      const found = hasher.digest();
      if (found === expected) return;
      const where = { model: source.model, tensor: tensor.tensor };
      throw new MergeyardError("EngineInputChanged", { where, found, expected });
    },
  };
}
