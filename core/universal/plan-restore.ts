// The files of one rank's restore, settled from universal.json before a byte of weights is read: its slices of the
// parameters, and beside them its run of every optimizer state. Small tensors come first, so that what a trainer asks
// for at once is there at once.
import type { Universal, UniversalParameter } from "../artifact/universal.ts";
import type { Box, ByteRange, Gather } from "../checkpoint.ts";
import type { EncodedHeader } from "../formats/safetensors/safetensors.ts";
import { planShards } from "../formats/safetensors/shard-plan.ts";
import { type Dtype, elementBytes, elementCount, type Shape, tensorBytes } from "../tensor.ts";
import { flattenBoxes, gatherWhole, sliceRanges } from "./box.ts";
import { STATE_NAMES } from "./conversion.ts";
import { vocabularyRows } from "./partition.ts";
import {
  boxesOf,
  createStageRule,
  type Parallelism,
  type ParameterSlice,
  placeOfRank,
  type SliceBox,
  type StateRun,
  sliceParameter,
  stateRun,
} from "./reshard.ts";

/** Ranges that a rank's run of a state may be read by; more rows than any vocabulary. */
const RANGES_MAX = 4_000_000;

/** A tensor to write: `gather` gives all of it but `zeroBytes` at the end. */
export type RestoredTensor = {
  readonly name: string;
  readonly dtype: Dtype;
  /** In the file. */
  readonly shape: Shape;
  /** Of what is gathered. */
  readonly gathered: Shape;
  readonly gather: Gather;
  readonly zeroBytes: number;
  /** Of what is gathered, when that is the whole parameter or state. */
  readonly digest: string | undefined;
};

export type RestoredFile = EncodedHeader & { readonly file: string; readonly contents: readonly RestoredTensor[] };

/** What a trainer needs to know of a parameter besides its values. */
export type RestoredParameter = {
  readonly name: string;
  /** Of the whole parameter. */
  readonly shape: Shape;
  /** Of the slice; `boxes` say which elements of the parameter it is, the rest is padding. */
  readonly slice: Shape;
  readonly boxes: readonly SliceBox[];
  readonly aliases: readonly string[];
  /** Elements of the flattened slice in the files of optimizer state. */
  readonly state: { readonly step: number; readonly start: number; readonly count: number } | null;
};

export type RestorePlan = {
  readonly place: Parallelism;
  readonly files: readonly RestoredFile[];
  readonly parameters: readonly RestoredParameter[];
};

const STATES = ["fp32", ...STATE_NAMES] as const;

export type RestoreRequest = {
  readonly topology: Parallelism;
  readonly rank: number;
  readonly shardBytes: number;
  /** The trainer pads its vocabulary to a multiple of this and the tensor-parallel ranks; undefined: inferred. */
  readonly vocabularyMultiple: number | undefined;
};

/** Throws UniversalPatternsMissing, UniversalShapeMismatch. */
export function planRestore(universal: Universal, request: RestoreRequest): RestorePlan {
  const { topology, rank, shardBytes } = request;
  const place = placeOfRank(topology, rank);
  const isOnStage = createStageRule(
    universal.parameters.map(({ name }) => name),
    topology.pp,
  );
  const own = universal.parameters.filter(({ name }) => isOnStage(name, place.pp));
  const tensors = new Map<string, RestoredTensor[]>(["model", ...STATES].map((kind) => [kind, []]));
  const parameters = own.map((parameter): RestoredParameter => {
    const { name, shape, states, aliases = [] } = parameter;
    const vocabulary = paddedFor(universal, parameter, request);
    const slice = sliceParameter({ ...parameter, vocabulary }, topology.tp, place.tp);
    tensors.get("model")?.push(sliceTensor(parameter, slice));
    const run = stateRun(elementCount(slice.shape), topology.dp, place.dp);
    for (const state of STATES) {
      const stored = states?.[state];
      if (stored !== undefined) tensors.get(state)?.push(runTensor({ ...stored, name, shape }, slice, run));
    }
    const state = states === undefined ? null : { step: states.step, ...run };
    return { name, shape, slice: slice.shape, boxes: slice.boxes, aliases, state };
  });
  const files = [...tensors].flatMap(([kind, list]) => planFiles(kind, list, shardBytes));
  return { place, files, parameters };
}

/** The vocabulary of a parameter as ranks of the topology pad it. */
function paddedFor(
  { training }: Universal,
  { shape, vocabulary }: UniversalParameter,
  { topology, vocabularyMultiple: multiple }: RestoreRequest,
): UniversalParameter["vocabulary"] {
  if (vocabulary === undefined) return undefined;
  const from = training?.topology?.tp ?? 1;
  return { paddedRows: vocabularyRows(shape[0] ?? 1, vocabulary.paddedRows, { from, to: topology.tp, multiple }) };
}

type Stored = Pick<UniversalParameter, "name" | "shape" | "dtype" | "file" | "offset" | "bytes" | "digest">;

function storedBoxes({ shape, file, offset, bytes }: Stored, slice: ParameterSlice): readonly Box[] {
  return boxesOf(slice, [{ file, offset, bytes }], shape);
}

function sliceTensor(stored: Stored, slice: ParameterSlice): RestoredTensor {
  const { name, dtype, digest } = stored;
  const gathered = slice.zeroRows === 0 ? slice.shape : slice.shape.with(0, (slice.shape[0] ?? 0) - slice.zeroRows);
  const zeroBytes = tensorBytes(dtype, slice.shape) - tensorBytes(dtype, gathered);
  const gather = { rule: "join" as const, copies: [storedBoxes(stored, slice)] };
  return { name, dtype, shape: slice.shape, gathered, gather, zeroBytes, digest: slice.isWhole ? digest : undefined };
}

/** A run of the flattened slice, as a tensor of one axis. What of it lies in the padding is zero. */
function runTensor(stored: Stored, slice: ParameterSlice, { start, count }: StateRun): RestoredTensor {
  const { name, dtype } = stored;
  const whole = sliceTensor(stored, slice);
  const live = Math.max(0, Math.min(start + count, elementCount(whole.gathered)) - start);
  const ranges = live === 0 ? [] : rangesOf(stored, slice, whole.gathered, start, live);
  return {
    name,
    dtype,
    shape: [count],
    gathered: [live],
    gather: gatherWhole(ranges, [live]),
    zeroBytes: tensorBytes(dtype, [count]) - tensorBytes(dtype, [live]),
    digest: start === 0 && live === elementCount(whole.gathered) ? whole.digest : undefined,
  };
}

function rangesOf(
  stored: Stored,
  slice: ParameterSlice,
  shape: Shape,
  start: number,
  count: number,
): readonly ByteRange[] {
  const unit = elementBytes(stored.dtype, 1);
  const ranges = flattenBoxes(storedBoxes(stored, slice), shape, unit, RANGES_MAX) ?? [];
  return sliceRanges(ranges, start * unit, count * unit);
}

/** Files of one kind, small tensors first; a file's own order is the format's. */
function planFiles(kind: string, tensors: readonly RestoredTensor[], shardBytes: number): readonly RestoredFile[] {
  if (tensors.length === 0) return [];
  const bytesOf = ({ dtype, shape }: RestoredTensor) => tensorBytes(dtype, shape);
  const sorted = [...tensors].sort((a, b) => bytesOf(a) - bytesOf(b) || (a.name < b.name ? -1 : 1));
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  return planShards(sorted, shardBytes).shards.map((shard) => ({
    ...shard,
    file: shard.file.replace(/^model/, kind),
    contents: shard.tensors.flatMap(({ name }) => byName.get(name) ?? []),
  }));
}
