// What happens to one window in one pass of a method, tile by tile unless its tiles do not matter: from the inputs, as
// they are stored, to the method, and in the apply pass on to the output's dtype. Buffers are those of one tensor on
// one thread.
import assert from "node:assert/strict";
import type { CombinePass, Pass, StoredPass, TensorProgram } from "../core/methods/method.ts";
import { floatDtype, type HalfDtype, roundingTo } from "../core/ops/cast.ts";
import { COMBINE_SOURCES_MAX, type CombineDtype } from "../core/ops/combine.ts";
import type { Block, Kernels, Tile } from "../core/ops/kernels.ts";
import { commonDtype, inputElements, isRounded } from "../core/plan/memory.ts";
import type { UnitTensor } from "../core/plan/schema.ts";
import { elementBytes, elementCount } from "../core/tensor.ts";
import type { Interference } from "./interference.ts";

/** The buffers of a tensor. */
export type Buffers = {
  /** Windows of every input: two that alternate, and those that are kept between passes. */
  readonly windows: readonly (readonly Block[])[];
  readonly outputs: readonly [Block, Block];
  readonly inputTiles: readonly Tile[];
  readonly outputTile: Tile;
};

/** What a tensor's passes work on and count. */
export type TileRun = {
  readonly kernels: Kernels;
  readonly tensor: UnitTensor;
  readonly tileElements: number;
  readonly buffers: Buffers;
  /** NaN and infinite values by input; false until a pass has looked at all of them. */
  readonly nonFiniteInputs: number[];
  inputsCounted: boolean;
  nonFiniteOutput: number;
  /** The dtype of 16 bits that results have before the output's; undefined where that is the same, or float32. */
  readonly settled: HalfDtype | undefined;
  /** What the apply pass changed so far, ||result - base||^2, in float64 by tile; undefined: nobody asks. */
  delta: number | undefined;
  /** Watches the apply pass, when asked for. */
  readonly interference: Interference | undefined;
};

/** Where a window is: the inputs' slot, the output's, its elements, and the tensor's flat element. */
export type WindowPlace = {
  readonly slot: number;
  readonly output: 0 | 1;
  readonly count: number;
  readonly first: number;
};

/** A tile of a window, `offset` elements into it. */
type TilePlace = WindowPlace & { readonly offset: number };

export type HandleWindow = (place: WindowPlace) => void;
type HandleTile = (place: TilePlace) => void;

/** The work on a window of a reduce pass. One over all tiles that widens them counts what is not finite on the way. */
export function reduceWindow(run: TileRun, pass: Pass | StoredPass): HandleWindow {
  const counting = !run.inputsCounted && "tile" in pass && pass.spans === undefined;
  if ("tile" in pass) return byTiles(run, widenedTile(run, pass, counting));
  const handle = storedTile(run, pass);
  const isWhole = pass.takesWindows === true && commonDtype(run.tensor) !== undefined;
  return isWhole ? (window) => handle({ ...window, offset: 0 }) : byTiles(run, handle);
}

/** The work on a window of the apply pass, up to the output's bytes. */
export function applyWindow(run: TileRun, program: TensorProgram): HandleWindow {
  return storedWindow(run, program) ?? byTiles(run, applyTile(run, program));
}

function byTiles({ tileElements }: Pick<TileRun, "tileElements">, handle: HandleTile): HandleWindow {
  return (window) => {
    for (let offset = 0; offset < window.count; offset += tileElements) {
      const count = Math.min(tileElements, window.count - offset);
      handle({ ...window, offset, count, first: window.first + offset });
    }
  };
}

function applyTile(run: TileRun, program: TensorProgram): HandleTile {
  const { apply: pass, countKept } = program;
  const { kernels, tensor, buffers } = run;
  assert.ok(buffers.outputTile.values.length >= Math.min(run.tileElements, elementCount(tensor.shape)), "a whole tile");
  const counting = !run.inputsCounted && "tile" in pass;
  const compute =
    "tile" in pass
      ? widenedTile(run, pass, counting)
      : "storedTile" in pass
        ? storedTile(run, pass)
        : combinedTile(run, pass);
  // What reads stored values does not look at them: a result that is not finite says when to.
  const looksBack = !run.inputsCounted && !("tile" in pass);
  const dtype = floatDtype(tensor.dtype);
  const unit = elementBytes(dtype, 1);
  const base = tensor.inputs.findIndex(({ isBase }) => isBase);
  return (place) => {
    const { offset, count } = place;
    if (run.interference !== undefined) {
      widenInputs(run, place, false);
      run.interference.tile(buffers.inputTiles, count);
    }
    compute(place);
    if (run.settled !== undefined) roundTile(buffers.outputTile, run.settled, count);
    const bad = kernels.narrow(dtype, buffers.outputTile, buffers.outputs[place.output], offset * unit, count);
    run.nonFiniteOutput += bad;
    if (run.delta !== undefined) {
      widenInput(run, place, base);
      run.delta += kernels.measureLoss(buffers.outputTile, 0, pick(buffers.inputTiles[base]), count).noise;
    }
    if (bad > 0 && looksBack) widenInputs(run, place, true);
    if (run.interference === undefined || countKept === undefined) return;
    const { inputTiles: inputs, outputTile: output } = buffers;
    run.interference.addKept(countKept({ inputs, output, firstElement: place.first, count }));
  };
}

function widenedTile(run: TileRun, pass: Pass, counting: boolean): HandleTile {
  const { inputTiles: inputs, outputTile: output } = run.buffers;
  return (place) => {
    widenInputs(run, place, counting);
    pass.tile({ inputs, output, firstElement: place.first, count: place.count });
  };
}

function widenInputs(run: TileRun, place: TilePlace, counting: boolean): void {
  const { tensor, nonFiniteInputs } = run;
  tensor.inputs.forEach((_, index) => {
    const bad = widenInput(run, place, index);
    if (counting) nonFiniteInputs[index] = (nonFiniteInputs[index] ?? 0) + bad;
  });
}

/** An input's values to its tile, rounded where the plan says so; returns how many stored ones are not finite. */
function widenInput({ kernels, tensor, buffers }: TileRun, place: TilePlace, index: number): number {
  const input = pick(tensor.inputs[index]);
  const dtype = floatDtype(input.dtype);
  const window = pick(buffers.windows[index]?.[place.slot]);
  const offset = place.offset * elementBytes(dtype, 1);
  const [tile, count] = [pick(buffers.inputTiles[index]), inputElements(input, place.count)];
  const bad = kernels.widen(dtype, window, offset, tile, count);
  if (isRounded(input)) roundTile(tile, input.working, count);
  return bad;
}

function roundTile({ values }: Tile, dtype: HalfDtype, count: number): void {
  const round = roundingTo(dtype);
  for (let i = 0; i < count; i++) values[i] = round(values[i] ?? 0);
}

/** Windows by slot instead of by input. */
function slotsOf({ windows }: Buffers, inputs: readonly number[]): readonly (readonly Block[])[] {
  return (windows[0] ?? []).map((_, slot) => inputs.map((index) => pick(windows[index]?.[slot])));
}

/** Inputs as they are stored, or, where their dtypes differ, widened: a tile of float32 is a block of F32. */
function storedTile(run: TileRun, pass: StoredPass): HandleTile {
  const { tensor, buffers, tileElements } = run;
  const output = buffers.outputTile;
  const dtype = commonDtype(tensor);
  if (dtype === undefined) {
    const inputs = buffers.inputTiles.map(blockOf);
    return (place) => {
      widenInputs(run, place, false);
      const { first: firstElement, count } = place;
      pass.storedTile({ dtype: "F32", inputs, byteOffset: 0, output, firstElement, count, tileElements });
    };
  }
  const unit = elementBytes(dtype, 1);
  const indexes = tensor.inputs.map((_, index) => index);
  const slots = slotsOf(buffers, indexes);
  return ({ slot, offset, count, first: firstElement }) => {
    const place = { inputs: pick(slots[slot]), byteOffset: offset * unit, firstElement, count, tileElements };
    pass.storedTile({ dtype, output, ...place });
  };
}

function blockOf({ address, values }: Tile): Block {
  return { address, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

/** The inputs of a combination in their order, and what it makes of them. */
function readCombination({ tensor }: TileRun, { deltas, combination }: CombinePass) {
  const { factors, divisor, multiplier } = combination();
  const base = deltas ? tensor.inputs.findIndex((input) => input.isBase) : -1;
  const sources = tensor.inputs.map((_, index) => index).filter((index) => index !== base);
  return {
    base: base < 0 ? undefined : base,
    sources,
    combination: { factors: sources.map((index) => factors[index] ?? 0), divisor, multiplier },
    // What kernels combine without widening it before.
    dtype: sources.length <= COMBINE_SOURCES_MAX ? commonDtype(tensor) : undefined,
  };
}

/** Results of a window from stored values to stored ones of the same dtype; returns how many are not finite. */
type StoreWindow = (dtype: CombineDtype, window: WindowPlace, output: Block) => number;

/** An apply pass from stored values to stored values; undefined where somebody must see the values between. */
function storedWindow(run: TileRun, { apply }: TensorProgram): HandleWindow | undefined {
  const { tensor, buffers } = run;
  const dtype = commonDtype(tensor);
  if (dtype === undefined || dtype !== tensor.dtype) return undefined;
  if (run.interference !== undefined || run.delta !== undefined) return undefined;
  const store =
    "combination" in apply ? combinedWindow(run, apply) : "tile" in apply ? undefined : ownWindow(run, apply);
  if (store === undefined) return undefined;
  // Tiles are not widened here, so that one of float32 may be shorter than theirs.
  const tileElements = Math.min(run.tileElements, buffers.outputTile.values.length);
  const lookBack = byTiles({ tileElements }, (place) => widenInputs(run, place, true));
  return (window) => {
    const bad = store(dtype, window, buffers.outputs[window.output]);
    run.nonFiniteOutput += bad;
    if (bad > 0 && !run.inputsCounted) lookBack(window);
  };
}

function combinedWindow(run: TileRun, pass: CombinePass): StoreWindow | undefined {
  const { kernels, tensor, buffers } = run;
  if (tensor.inputs.length > COMBINE_SOURCES_MAX) return undefined;
  const { base, sources, combination } = readCombination(run, pass);
  const slots = slotsOf(buffers, sources);
  const bases = base === undefined ? undefined : pick(buffers.windows[base]);
  return (dtype, { slot, count }, output) =>
    kernels.combineStored(dtype, bases?.[slot], pick(slots[slot]), combination, output, count);
}

function ownWindow({ tensor, buffers, tileElements }: TileRun, pass: StoredPass): StoreWindow | undefined {
  if (pass.storedWindow === undefined) return undefined;
  const indexes = tensor.inputs.map((_, index) => index);
  const slots = slotsOf(buffers, indexes);
  return (dtype, { slot, count, first: firstElement }, output) =>
    pass.storedWindow?.({ dtype, inputs: pick(slots[slot]), output, firstElement, count, tileElements }) ?? 0;
}

/** A combination as one fused kernel when all inputs have the same stored dtype, else as its single operations. */
function combinedTile(run: TileRun, pass: CombinePass): HandleTile {
  const { kernels, buffers } = run;
  const { base, sources, combination, dtype } = readCombination(run, pass);
  const output = buffers.outputTile;
  if (dtype !== undefined) {
    const unit = elementBytes(dtype, 1);
    const slots = slotsOf(buffers, sources);
    const bases = base === undefined ? undefined : pick(buffers.windows[base]);
    return ({ slot, offset, count }) =>
      kernels.combine(dtype, bases?.[slot], pick(slots[slot]), offset * unit, combination, output, count);
  }
  const { divisor, multiplier } = combination;
  return (place) => {
    const { count } = place;
    widenInputs(run, place, false);
    kernels.fill(output, 0, count);
    const origin = base === undefined ? undefined : pick(buffers.inputTiles[base]);
    sources.forEach((source, index) => {
      const tile = pick(buffers.inputTiles[source]);
      const factor = combination.factors[index] ?? 0;
      if (origin === undefined) kernels.addScaled(output, tile, factor, count);
      else kernels.addScaledDifference(output, tile, origin, factor, count);
    });
    if (divisor !== 1) kernels.divide(output, output, divisor, count);
    if (origin === undefined) return;
    if (multiplier !== 1) kernels.scale(output, output, multiplier, count);
    kernels.add(output, origin, output, count);
  };
}

/** The element that indices into our own arrays always have. */
function pick<T>(value: T | undefined): T {
  assert.ok(value !== undefined, "an index outside the engine's buffers");
  return value;
}
