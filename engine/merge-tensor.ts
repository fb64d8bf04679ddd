// One tensor through a method: windows of every input in lockstep, tiles through the method's passes, the result cast,
// digested and written; or through one round of it, where totals are the result. Memory is a few windows and tiles,
// whatever the tensor's size.
import assert from "node:assert/strict";
import { setImmediate as nextTurn } from "node:timers/promises";
import { createHasher, type Digest, type Hasher } from "../core/artifact/digest.ts";
import { MergeyardError } from "../core/error.ts";
import type {
  ElementSpan,
  MergeMethod,
  MergeTensor,
  Pass,
  Round,
  StoredPass,
  TensorProgram,
  Totals,
} from "../core/methods/method.ts";
import type { Block, Kernels } from "../core/ops/kernels.ts";
import { allocatedBytes } from "../core/ops/memory.ts";
import {
  type Cut,
  type CutMethod,
  cutTensor,
  inputElements,
  storedBytes,
  widenedElements,
} from "../core/plan/memory.ts";
import { modelsOf, type UnitTensor } from "../core/plan/schema.ts";
import { elementBytes, elementCount } from "../core/tensor.ts";
import { createSink } from "./create-sink.ts";
import { createInterference, type TensorInterference } from "./interference.ts";
import { finishSinks, type Sink, type SinkPlace, type SinkResult } from "./sink.ts";
import type { ReadElements } from "./stored-reader.ts";
import { applyWindow, type Buffers, type HandleWindow, reduceWindow, type TileRun } from "./tile-work.ts";

/** Blocks of an input that windows pass through in turn; behind them stand those whose windows are kept. */
const PASSING_WINDOWS = 2;

/** Everything that reading a tensor's inputs needs; one per thread, kernels and store already open. */
export type InputContext = {
  readonly kernels: Kernels;
  readonly method: MergeMethod;
  readonly tensor: UnitTensor;
  readonly view: MergeTensor;
  readonly readers: readonly ReadElements[];
  /** Inputs that are digested as they are read, from end to end, and what is stated of them. */
  readonly digested: readonly (StatedDigest | undefined)[];
  readonly windowElements: number;
  /** Readers read within the call: nothing is read ahead, and other work of the thread gets a turn at every window. */
  readonly mayBlock: boolean;
  readonly progress: (read: number, written: number) => void;
};

/** The digest that an input must have; undefined where nobody says. */
export type StatedDigest = { readonly expected: Digest | undefined };

/** Everything `mergeTensor` needs besides the tensor. */
export type TensorContext = InputContext & {
  readonly statistics: boolean;
  /** Memory for inputs that several passes need: as many windows as it holds are read once. */
  readonly keptBytes: number;
  /** What else is made of the merged values. */
  readonly sinks: readonly SinkPlace[];
  /** Appends to the output; the bytes may be reused when it resolves. */
  readonly write: (bytes: Uint8Array) => Promise<void>;
};

export type TensorResult = {
  readonly digest: string;
  /** By input, of those that are digested. */
  readonly inputDigests: readonly (Digest | undefined)[];
  /** NaN and infinite values by input, in input order, and in the output. */
  readonly nonFiniteInputs: readonly number[];
  readonly nonFiniteOutput: number;
  /** By the tensor's sinks. */
  readonly sinks: readonly SinkResult[];
  /** ||result - base||^2; undefined where there are no sinks or no base, and for a tensor that is copied. */
  readonly delta?: number | undefined;
  /** How the inputs agree and disagree; undefined unless asked for, and for a tensor that is copied. */
  readonly interference?: TensorInterference | undefined;
};

/**
 * One tensor's totals in a round of its method. Throws EngineNonFinite, EngineInputChanged and what the store throws.
 */
export async function measureTensor(context: InputContext, round: Round): Promise<Totals> {
  const { kernels, view } = context;
  const mark = kernels.mark();
  try {
    // A round may widen what merging does not.
    const { locality } = context.method;
    const own = { ...context, statistics: false, keptBytes: 0, sinks: [], write: neverWritten };
    const run = startRun(own, { locality }, 1);
    const { pass, totals } = round.measure(view, kernels);
    await runReduce(run, pass);
    refuseNonFinite(context, run);
    return totals();
  } finally {
    kernels.release(mark);
  }
}

async function neverWritten(): Promise<void> {
  assert.fail("a round writes no elements");
}

/** Merges one tensor. Throws EngineNonFinite, EngineInputChanged and what the store throws; writes in order. */
export async function mergeTensor(context: TensorContext): Promise<TensorResult> {
  const { kernels, method, view } = context;
  const mark = kernels.mark();
  try {
    const program = method.compile(view, kernels);
    const run = startRun(context, method, program.reduce.length + 1);
    await runProgram(run, program);
    const { nonFiniteInputs, nonFiniteOutput, interference, sinks, delta } = run;
    const digest = run.output.digest();
    const measured = interference?.result();
    refuseNonFinite(context, { nonFiniteInputs, nonFiniteOutput });
    const made = await finishSinks(sinks);
    const inputDigests = run.inputDigests ?? [];
    return { digest, inputDigests, nonFiniteInputs, nonFiniteOutput, interference: measured, sinks: made, delta };
  } finally {
    kernels.release(mark);
  }
}

type Run = TileRun & {
  readonly context: TensorContext;
  readonly cut: Cut;
  readonly output: Hasher;
  readonly sinks: readonly Sink[];
  /** The first windows of the tensor, of which every input has its own block that lasts from pass to pass. */
  readonly keptWindows: number;
  /** A pass has filled them. */
  isKept: boolean;
  /** Once a pass has read the inputs whole and compared their digests. */
  inputDigests: readonly (Digest | undefined)[] | undefined;
};

function startRun(context: TensorContext, cutMethod: CutMethod, passes: number): Run {
  const { kernels, method, tensor } = context;
  const cut = cutTensor(method, tensor.shape, context.windowElements);
  const keptWindows = passes > 1 ? countKept(context, cut) : 0;
  const watchers = { statistics: context.statistics, derives: context.sinks.length > 0 };
  const tile = widenedElements(cutMethod, tensor, watchers);
  const buffers = allocate(kernels, tensor, cut, { keptWindows, tile });
  return {
    context,
    cut,
    kernels,
    tensor,
    tileElements: cut.tileElements,
    buffers,
    nonFiniteInputs: tensor.inputs.map(() => 0),
    inputsCounted: false,
    nonFiniteOutput: 0,
    settled: method.referenceDtype === "float32" || tensor.working === tensor.dtype ? undefined : tensor.working,
    interference: context.statistics ? createInterference(kernels, modelsOf(tensor.inputs), tile) : undefined,
    keptWindows,
    isKept: false,
    inputDigests: undefined,
    delta: context.sinks.length > 0 && tensor.inputs.some(({ isBase }) => isBase) ? 0 : undefined,
    output: createHasher(),
    sinks: context.sinks.map((place) => createSink(place, tensor.name, tensor.dtype, kernels)),
  };
}

/** How many windows of all inputs fit into the memory that is there for them. */
function countKept({ tensor, keptBytes }: TensorContext, cut: Cut): number {
  const total = elementCount(tensor.shape);
  const window = Math.min(cut.windowElements, total);
  const bytes = tensor.inputs.reduce(
    (sum, input) => sum + allocatedBytes(elementBytes(input.dtype, inputElements(input, window))),
    0,
  );
  return Math.min(Math.ceil(total / cut.windowElements), Math.floor(keptBytes / Math.max(1, bytes)));
}

function allocate(
  kernels: Kernels,
  tensor: UnitTensor,
  cut: Cut,
  { keptWindows, tile }: { readonly keptWindows: number; readonly tile: number },
): Buffers {
  const total = Math.max(1, elementCount(tensor.shape));
  const window = Math.min(cut.windowElements, total);
  const block = (dtype: UnitTensor["dtype"], count: number): Block => kernels.allocateBlock(elementBytes(dtype, count));
  return {
    windows: tensor.inputs.map((input) =>
      Array.from({ length: PASSING_WINDOWS + keptWindows }, () => block(input.dtype, inputElements(input, window))),
    ),
    outputs: [block(tensor.dtype, window), block(tensor.dtype, window)],
    inputTiles: tensor.inputs.map((input) => kernels.allocateTile(inputElements(input, tile))),
    outputTile: kernels.allocateTile(tile),
  };
}

async function runProgram(run: Run, program: TensorProgram): Promise<void> {
  const { reduce, apply } = program;
  for (const pass of reduce) await runReduce(run, pass);
  await runPass(run, applyWindow(run, program), true);
  if ("finish" in apply) apply.finish?.();
}

async function runReduce(run: Run, pass: Pass | StoredPass): Promise<void> {
  if (pass.isNeeded?.() === false) return;
  const handle = reduceWindow(run, pass);
  if (pass.spans === undefined) await runPass(run, handle, false);
  else await runSpans(run, handle, pass.spans);
  run.inputsCounted ||= "tile" in pass && pass.spans === undefined;
  pass.finish?.();
}

/**
 * Reads window after window, one ahead unless reading may block; hands each to `handle`; in the apply pass writes the
 * results behind it.
 */
async function runPass(run: Run, handle: HandleWindow, isApply: boolean): Promise<void> {
  const { context, cut, buffers } = run;
  const total = elementCount(context.tensor.shape);
  const hashers =
    run.inputDigests === undefined ? context.digested.map((stated) => stated && createHasher()) : undefined;
  const countOf = (window: number) => Math.min(cut.windowElements, total - window * cut.windowElements);
  // An apply pass keeps nothing for another.
  const keptWindows = isApply && !run.isKept ? 0 : run.keptWindows;
  const isThere = (window: number) => run.isKept && window < keptWindows;
  const slotOf = (window: number) => (window < keptWindows ? PASSING_WINDOWS + window : window % PASSING_WINDOWS);
  const read = async (window: number) => {
    if (!isThere(window)) await readInputs(run, window * cut.windowElements, countOf(window), slotOf(window));
  };
  const windows = Math.ceil(total / cut.windowElements);
  const { mayBlock } = context;
  let reading = windows > 0 && !mayBlock ? read(0) : Promise.resolve();
  let writing = Promise.resolve();
  try {
    for (let window = 0; window < windows; window++) {
      if (mayBlock) await nextTurn();
      await (mayBlock ? read(window) : reading);
      if (window + 1 < windows && !mayBlock) reading = read(window + 1);
      // Reported when it is awaited, not as an unhandled rejection while we compute.
      reading.catch(() => {});
      const count = countOf(window);
      const slot = slotOf(window);
      const output = window % 2 === 0 ? 0 : 1;
      if (hashers !== undefined) digestInputs(run, hashers, slot, count);
      handle({ slot, output, count, first: window * cut.windowElements });
      const bytes = buffers.outputs[output].bytes.subarray(0, elementBytes(context.tensor.dtype, isApply ? count : 0));
      context.progress(isThere(window) ? 0 : inputBytes(context, count), bytes.byteLength);
      if (!isApply) continue;
      run.output.update(bytes);
      await writing;
      writing = context.write(bytes);
      writing.catch(() => {});
      for (const sink of run.sinks) await sink.take(buffers.outputs[output], count);
    }
    await writing;
  } finally {
    // Nothing may still be filling or draining the buffers when their memory is given back.
    await Promise.allSettled([reading, writing]);
  }
  run.isKept = keptWindows > 0;
  if (hashers === undefined) return;
  run.inputDigests = hashers.map((hasher) => hasher?.digest());
  run.inputDigests.forEach((digest, index) => void checkDigest(context, index, digest));
}

/** Reads only some spans of every input, one ahead. */
async function runSpans(run: Run, handle: HandleWindow, spans: readonly ElementSpan[]): Promise<void> {
  const read = (index: number) => {
    const span = spans[index];
    return span === undefined ? Promise.resolve() : readInputs(run, span.first, span.count, index % PASSING_WINDOWS);
  };
  let reading = read(0);
  try {
    for (const [index, { first, count }] of spans.entries()) {
      await reading;
      reading = read(index + 1);
      reading.catch(() => {});
      handle({ slot: index % PASSING_WINDOWS, output: 0, count, first });
      run.context.progress(inputBytes(run.context, count), 0);
    }
  } finally {
    await Promise.allSettled([reading]);
  }
}

/** Reads a span of every input, or all of it, to the start of its window in `slot`. */
async function readInputs({ context, buffers }: Run, first: number, count: number, slot: number): Promise<void> {
  await Promise.all(
    context.readers.map((read, index) => {
      const window = buffers.windows[index]?.[slot];
      const input = context.tensor.inputs[index];
      assert.ok(window !== undefined && input !== undefined, "an input without a window");
      return read(first, inputElements(input, count), window);
    }),
  );
}

function inputBytes({ tensor }: InputContext, count: number): number {
  return tensor.inputs.reduce((sum, input) => sum + storedBytes(input, inputElements(input, count)), 0);
}

function digestInputs(run: Run, hashers: readonly (Hasher | undefined)[], slot: number, count: number): void {
  run.tensor.inputs.forEach((input, index) => {
    const window = run.buffers.windows[index]?.[slot];
    const bytes = elementBytes(input.dtype, inputElements(input, count));
    if (window !== undefined) hashers[index]?.update(window.bytes.subarray(0, bytes));
  });
}

/** Throws EngineInputChanged when an input is not what is stated of it. */
export function checkDigest(
  { tensor, view, digested }: Omit<InputContext, "method">,
  index: number,
  found: Digest | undefined,
): void {
  const expected = digested[index]?.expected;
  if (found === undefined || expected === undefined || found === expected) return;
  const where = { model: view.inputs[index]?.model, tensor: tensor.inputs[index]?.tensor };
  throw new MergeyardError("EngineInputChanged", { where, found, expected });
}

function refuseNonFinite(
  { tensor, view }: InputContext,
  result: Pick<TensorResult, "nonFiniteInputs" | "nonFiniteOutput">,
): void {
  if (view.rules.nonFinite !== "error") return;
  const bad = result.nonFiniteInputs.findIndex((count) => count > 0);
  const expected = "finite numbers only";
  if (bad >= 0) {
    const where = { model: view.inputs[bad]?.model, tensor: tensor.inputs[bad]?.tensor };
    throw new MergeyardError("EngineNonFinite", { where, found: `${result.nonFiniteInputs[bad]} values`, expected });
  }
  if (result.nonFiniteOutput === 0) return;
  const hint =
    `every input is finite, so the merge overflowed ${tensor.dtype} (lower the weights or widen out_dtype) ` +
    "or divided by zero (bound it, where the method has a parameter for that)";
  const found = `${result.nonFiniteOutput} values in the result`;
  throw new MergeyardError("EngineNonFinite", { where: { tensor: tensor.name }, found, expected, hint });
}
