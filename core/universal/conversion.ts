// What a foreign checkpoint becomes: every logical parameter once, with where its bytes are gathered from and how a
// target topology may cut it again. Readers of training checkpoints make it from headers; the converter follows it.
import type { UniversalParameter } from "../artifact/universal.ts";
import type { ByteRange, Checkpoint, Gather, TensorEntry } from "../checkpoint.ts";
import { MergeyardError } from "../error.ts";
import { type Dtype, elementBytes, type Shape } from "../tensor.ts";
import { flattenBoxes, gatherWhole, type SourceRange } from "./box.ts";

/** A tensor of the parameter's shape. */
export type GatheredTensor = { readonly dtype: Dtype; readonly gather: Gather };

/** States that a universal checkpoint keeps, in the order of their files. */
export const STATE_NAMES = ["exp_avg", "exp_avg_sq"] as const;
export type StateName = (typeof STATE_NAMES)[number];

/** `R`: what its bytes are made of. A reader names ranges of files, a writer may make them of other tensors. */
export type ConversionParameter<R = ByteRange> = Pick<GatheredTensor, "dtype"> & {
  readonly gather: Gather<R>;
  readonly name: string;
  readonly shape: Shape;
  readonly pattern: UniversalParameter["pattern"];
  readonly paddedRows: number | undefined;
  readonly aliases: readonly string[];
  readonly training: TrainedParameter | undefined;
};

/** A parameter as it is to be written. */
export type TargetParameter = ConversionParameter<SourceRange>;

export type TrainedParameter = {
  readonly step: number;
  readonly states: Readonly<Partial<Record<StateName, GatheredTensor>>>;
  /** Optimizer group, and place among its parameters; undefined where the source has no such order. */
  readonly group?: number | undefined;
  readonly position?: number | undefined;
};

/** Pieces that an entry lists; a tensor of more is described by its boxes alone. */
const RANGES_MAX = 16_384;

/** The parameter as an entry of a checkpoint: by ranges where they say it all, else by its gather. */
export function entryOf({ name, dtype, shape, gather }: ConversionParameter): TensorEntry {
  const [boxes = []] = gather.copies;
  const ranges = gather.rule === "join" ? flattenBoxes(boxes, shape, elementBytes(dtype, 1), RANGES_MAX) : undefined;
  return ranges === undefined ? { name, dtype, shape, ranges: [], gather } : { name, dtype, shape, ranges };
}

/**
 * Refuses a checkpoint whose tensors cannot be read where they are, before a merge plans to.
 * Throws CheckpointNeedsConversion.
 */
export function checkReadable({ tensors, format }: Checkpoint): void {
  const scattered = tensors.find(({ gather }) => gather !== undefined);
  if (scattered === undefined) return;
  const rule = scattered.gather?.rule === "join" ? "a tensor in many pieces" : "copies that ranks hold apart";
  throw new MergeyardError("CheckpointNeedsConversion", {
    where: { file: undefined, tensor: scattered.name },
    found: `${rule}, in the format ${format}`,
    expected: "tensors that lie in one piece",
  });
}

/** Parameters of a checkpoint without training state: those that share all their bytes are one with aliases. */
export function parametersOf(tensors: readonly TensorEntry[]): readonly ConversionParameter[] {
  const groups = Map.groupBy(tensors, ({ name, dtype, shape, ranges }) => {
    const places = ranges.map(({ file, offset, bytes }) => [file, offset, bytes]);
    const isEmpty = ranges.every(({ bytes }) => bytes === 0);
    return JSON.stringify([dtype, shape, isEmpty ? name : places]);
  });
  return [...groups.values()].flatMap(([first, ...others]): ConversionParameter[] => {
    if (first === undefined) return [];
    const { name, dtype, shape, ranges, packing, gather = gatherWhole(ranges, shape, packing) } = first;
    const aliases = others.map((other) => other.name);
    return [{ ...plainParameter({ name, dtype, shape, gather }), aliases }];
  });
}

/** A parameter that no topology cut or padded, without optimizer states. */
export function plainParameter(
  tensor: Pick<ConversionParameter, "name" | "dtype" | "shape" | "gather">,
): ConversionParameter {
  return { ...tensor, pattern: { kind: "unique" }, paddedRows: undefined, aliases: [], training: undefined };
}
