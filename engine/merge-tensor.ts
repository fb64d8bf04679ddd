// One tensor through a method: windows of every input in lockstep, tiles through the method's passes, the result cast,
// digested and written. Memory is a few windows and tiles, whatever the tensor's size.
import { createHasher, type Hasher } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import type { CombinePass, MergeMethod, MergeTensor, Pass, TensorProgram } from "../core/methods/method.ts";
import { type FloatDtype, isFloatDtype } from "../core/ops/cast.ts";
import { COMBINE_SOURCES_MAX, isCombineDtype } from "../core/ops/combine.ts";
import type { Block, Kernels, Tile } from "../core/ops/kernels.ts";
import { type Cut, cutTensor } from "../core/plan/memory.ts";
import type { UnitTensor } from "../core/plan/schema.ts";
import { elementBytes, elementCount } from "../core/tensor.ts";
import type { ReadElements } from "./input-reader.ts";

/** Everything `mergeTensor` needs besides the tensor; one per thread, kernels and store already open. */
export type TensorContext = {
  readonly kernels: Kernels;
  readonly method: MergeMethod;
  readonly tensor: UnitTensor;
  readonly view: MergeTensor;
  readonly readers: readonly ReadElements[];
  /** Expected digests of the inputs, where they are known and the input is read whole. */
  readonly expected: readonly (string | undefined)[];
  readonly windowElements: number;
  /** Appends to the output; the bytes may be reused when it resolves. */
  readonly write: (bytes: Uint8Array) => Promise<void>;
  readonly progress: (read: number, written: number) => void;
};

export type TensorResult = {
  readonly digest: string;
  /** NaN and infinite values by input, in input order, and in the output. */
  readonly nonFiniteInputs: readonly number[];
  readonly nonFiniteOutput: number;
};

/** The buffers of a tensor: two windows an input, two of the output, tiles. */
type Buffers = {
  readonly windows: readonly (readonly [Block, Block])[];
  readonly outputs: readonly [Block, Block];
  readonly inputTiles: readonly Tile[];
  readonly outputTile: Tile;
};

/** Merges one tensor. Throws EngineNonFinite, EngineInputChanged and what the store throws; writes in order. */
export async function mergeTensor(context: TensorContext): Promise<TensorResult> {
  const { kernels, method, tensor, view } = context;
  const mark = kernels.mark();
  try {
    const cut = cutTensor(method, tensor.shape, context.windowElements);
    const buffers = allocate(kernels, tensor, cut);
    const program = method.compile(view, kernels);
    const run = {
      context,
      cut,
      buffers,
      counts: tensor.inputs.map(() => 0),
      output: createHasher(),
      outputNonFinite: 0,
    };
    await runProgram(run, program);
    const result = { digest: run.output.digest(), nonFiniteInputs: run.counts, nonFiniteOutput: run.outputNonFinite };
    refuseNonFinite(context, result);
    return result;
  } finally {
    kernels.release(mark);
  }
}

type Run = {
  readonly context: TensorContext;
  readonly cut: Cut;
  readonly buffers: Buffers;
  readonly counts: number[];
  readonly output: Hasher;
  outputNonFinite: number;
};

function allocate(kernels: Kernels, tensor: UnitTensor, cut: Cut): Buffers {
  const total = Math.max(1, elementCount(tensor.shape));
  const window = Math.min(cut.windowElements, total);
  const tile = Math.min(cut.tileElements, total);
  const pair = (dtype: UnitTensor["dtype"]): readonly [Block, Block] => [
    kernels.allocateBlock(elementBytes(dtype, window)),
    kernels.allocateBlock(elementBytes(dtype, window)),
  ];
  return {
    windows: tensor.inputs.map((input) => pair(input.dtype)),
    outputs: pair(tensor.dtype),
    inputTiles: tensor.inputs.map(() => kernels.allocateTile(tile)),
    outputTile: kernels.allocateTile(tile),
  };
}

async function runProgram(run: Run, program: TensorProgram): Promise<void> {
  const passes = [...program.reduce, program.apply];
  for (const [index, pass] of passes.entries()) {
    const isFirst = index === 0;
    const isApply = index === passes.length - 1;
    await runPass(run, tileFunction(run, pass, isFirst, isApply), isFirst, isApply);
    if ("finish" in pass) pass.finish?.();
  }
}

/** Reads window after window, one ahead; hands each to `handle`; in the apply pass writes the results behind it. */
async function runPass(run: Run, handle: HandleTile, isFirst: boolean, isApply: boolean): Promise<void> {
  const { context, cut, buffers } = run;
  const total = elementCount(context.tensor.shape);
  const hashers = context.expected.map((digest) => (isFirst && digest !== undefined ? createHasher() : undefined));
  const read = async (window: number): Promise<number> => {
    const first = window * cut.windowElements;
    const count = Math.min(cut.windowElements, total - first);
    const parity = window % 2 === 0 ? 0 : 1;
    await Promise.all(context.readers.map((reader, i) => reader(first, count, pick(buffers.windows[i]?.[parity]))));
    return count;
  };
  const windows = Math.ceil(total / cut.windowElements);
  let reading = windows > 0 ? read(0) : Promise.resolve(0);
  let writing = Promise.resolve();
  try {
    for (let window = 0; window < windows; window++) {
      const count = await reading;
      if (window + 1 < windows) reading = read(window + 1);
      // Reported when it is awaited, not as an unhandled rejection while we compute.
      reading.catch(() => {});
      const parity = window % 2 === 0 ? 0 : 1;
      const bytesRead = digestInputs(run, hashers, parity, count);
      for (let done = 0; done < count; done += cut.tileElements) {
        handle(parity, done, Math.min(cut.tileElements, count - done), window * cut.windowElements + done);
      }
      const bytes = buffers.outputs[parity].bytes.subarray(0, elementBytes(context.tensor.dtype, isApply ? count : 0));
      context.progress(bytesRead, bytes.byteLength);
      if (!isApply) continue;
      run.output.update(bytes);
      await writing;
      writing = context.write(bytes);
      writing.catch(() => {});
    }
    await writing;
  } finally {
    // Nothing may still be filling or draining the buffers when their memory is given back.
    await Promise.allSettled([reading, writing]);
  }
  checkDigests(context, hashers);
}

/** Feeds the input digests; returns how many bytes this window read. */
function digestInputs(run: Run, hashers: readonly (Hasher | undefined)[], parity: 0 | 1, count: number): number {
  let bytesRead = 0;
  run.context.tensor.inputs.forEach((input, index) => {
    const bytes = elementBytes(input.dtype, count);
    hashers[index]?.update(pick(run.buffers.windows[index]?.[parity]).bytes.subarray(0, bytes));
    bytesRead += bytes;
  });
  return bytesRead;
}

function checkDigests({ tensor, view, expected }: TensorContext, hashers: readonly (Hasher | undefined)[]): void {
  hashers.forEach((hasher, index) => {
    const digest = hasher?.digest();
    if (digest === undefined || digest === expected[index]) return;
    const where = { model: view.inputs[index]?.model, tensor: tensor.inputs[index]?.tensor };
    throw new MergeyardError("EngineInputChanged", { where, found: digest, expected: expected[index] });
  });
}

/** Works on one tile: `offset` elements into the windows of that parity, flat element `first` of the tensor. */
type HandleTile = (parity: 0 | 1, offset: number, count: number, first: number) => void;

function tileFunction(run: Run, pass: Pass | CombinePass, isFirst: boolean, isApply: boolean): HandleTile {
  const compute = "tile" in pass ? widenedTile(run, pass, isFirst) : combinedTile(run, pass);
  if (!isApply) return compute;
  const { context, buffers } = run;
  const dtype = floatDtype(context.tensor.dtype);
  const unit = elementBytes(dtype, 1);
  return (parity, offset, count, first) => {
    compute(parity, offset, count, first);
    const { outputTile, outputs } = buffers;
    const bad = context.kernels.narrow(dtype, outputTile, outputs[parity], offset * unit, count);
    run.outputNonFinite += bad;
    // A combination does not look at its inputs: a non-finite result says when to.
    if (bad > 0 && isFirst && !("tile" in pass)) widenInputs(run, parity, offset, count, true);
  };
}

function widenedTile(run: Run, pass: Pass, isFirst: boolean): HandleTile {
  const { inputTiles: inputs, outputTile: output } = run.buffers;
  return (parity, offset, count, firstElement) => {
    widenInputs(run, parity, offset, count, isFirst);
    pass.tile({ inputs, output, firstElement, count });
  };
}

function widenInputs(run: Run, parity: 0 | 1, offset: number, count: number, counting: boolean): void {
  const { context, buffers, counts } = run;
  context.tensor.inputs.forEach((input, index) => {
    const dtype = floatDtype(input.dtype);
    const window = pick(buffers.windows[index]?.[parity]);
    const tile = pick(buffers.inputTiles[index]);
    const bad = context.kernels.widen(dtype, window, offset * elementBytes(dtype, 1), tile, count);
    if (counting) counts[index] = (counts[index] ?? 0) + bad;
  });
}

/** A combination as one fused kernel when all inputs have the same stored dtype, else as its single operations. */
function combinedTile(run: Run, pass: CombinePass): HandleTile {
  const { context, buffers } = run;
  const { kernels, tensor } = context;
  const { factors, divisor, multiplier } = pass.combination();
  const baseIndex = pass.deltas ? tensor.inputs.findIndex((input) => input.isBase) : -1;
  const sources = tensor.inputs.map((_, index) => index).filter((index) => index !== baseIndex);
  const combination = { factors: sources.map((index) => factors[index] ?? 0), divisor, multiplier };
  const output = buffers.outputTile;
  const dtype = tensor.inputs[0]?.dtype ?? "F32";
  if (
    isCombineDtype(dtype) &&
    tensor.inputs.every((input) => input.dtype === dtype) &&
    sources.length <= COMBINE_SOURCES_MAX
  ) {
    const unit = elementBytes(dtype, 1);
    const blocks = ([0, 1] as const).map((parity) => sources.map((index) => pick(buffers.windows[index]?.[parity])));
    const bases = baseIndex < 0 ? undefined : buffers.windows[baseIndex];
    return (parity, offset, count) => {
      const from = pick(blocks[parity]);
      if (bases === undefined) kernels.combine(dtype, from, offset * unit, combination, output, count);
      else kernels.combineDeltas(dtype, bases[parity], from, offset * unit, combination, output, count);
    };
  }
  return (parity, offset, count) => {
    widenInputs(run, parity, offset, count, false);
    kernels.fill(output, 0, count);
    const base = baseIndex < 0 ? undefined : pick(buffers.inputTiles[baseIndex]);
    sources.forEach((source, index) => {
      const tile = pick(buffers.inputTiles[source]);
      const factor = combination.factors[index] ?? 0;
      if (base === undefined) kernels.addScaled(output, tile, factor, count);
      else kernels.addScaledDifference(output, tile, base, factor, count);
    });
    if (divisor !== 1) kernels.divide(output, output, divisor, count);
    if (base === undefined) return;
    if (multiplier !== 1) kernels.scale(output, output, multiplier, count);
    kernels.add(output, base, output, count);
  };
}

function refuseNonFinite({ tensor, view }: TensorContext, result: TensorResult): void {
  if (view.rules.nonFinite !== "error") return;
  const bad = result.nonFiniteInputs.findIndex((count) => count > 0);
  const expected = "finite numbers only";
  if (bad >= 0) {
    const where = { model: view.inputs[bad]?.model, tensor: tensor.inputs[bad]?.tensor };
    throw new MergeyardError("EngineNonFinite", { where, found: `${result.nonFiniteInputs[bad]} values`, expected });
  }
  if (result.nonFiniteOutput === 0) return;
  const hint = `every input is finite, so the merge overflowed ${tensor.dtype}: lower the weights or widen out_dtype`;
  const found = `${result.nonFiniteOutput} values in the result`;
  throw new MergeyardError("EngineNonFinite", { where: { tensor: tensor.name }, found, expected, hint });
}

/** The planner refuses arithmetic on other dtypes. */
function floatDtype(dtype: string): FloatDtype {
  if (isFloatDtype(dtype)) return dtype;
  throw new TypeError(`no arithmetic is defined for ${dtype}`);
}

/** The element that indices into our own arrays always have. */
function pick<T>(value: T | undefined): T {
  if (value === undefined) throw new RangeError("index outside the engine's buffers");
  return value;
}
