// A quantized module of a folder: the tensors that hold its weights, checked against what its scheme stores. Made by
// the readers of each container's form; folder.ts makes checkpoints of them.
import type { Checkpoint, PartsPacking, TensorEntry } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import type { Matrix, Part } from "../../schemes/scheme.ts";
import { sameShape } from "../../tensor.ts";

/** The weights of a module, as the parts that hold them. */
export type StoredMatrix = {
  /** Name that the weights have where they are not quantized. */
  readonly name: string;
  readonly matrix: Matrix;
  readonly packing: PartsPacking;
  /** In the scheme's order. */
  readonly parts: readonly (Part & { readonly entry: TensorEntry })[];
};

export type QuantizedContent = {
  readonly matrices: readonly StoredMatrix[];
  /** Tensors that are as they were, in the checkpoint's order. */
  readonly others: readonly TensorEntry[];
};

/** Reads a whole small tensor. */
export type ReadTensor = (entry: TensorEntry) => Promise<Uint8Array>;

/**
 * The content of a checkpoint whose config has a container's `quantization_config`; `read` is asked for what headers do
 * not tell. Throws QuantizedFolderUnsupported, and QuantizedFolderInvalid for parts that are missing or of a wrong
 * shape.
 */
export type ListQuantized = (checkpoint: Checkpoint, read: ReadTensor) => Promise<QuantizedContent>;

/** The entry of a part; a scale of a whole tensor or of channels is written with and without axes of one. */
export function checkPart(module: string, part: Part, entry: TensorEntry | undefined): TensorEntry {
  const expected = `${part.dtype} [${part.shape}]`;
  if (entry === undefined) throw invalidPart(`${module}.${part.name}`, "no such tensor", expected);
  const squeeze = (shape: readonly number[]) => shape.filter((length) => length !== 1);
  const isSame = entry.dtype === part.dtype && sameShape(squeeze(entry.shape), squeeze(part.shape));
  if (!isSame || entry.ranges.length !== 1) throw invalidPart(entry.name, `${entry.dtype} [${entry.shape}]`, expected);
  return entry;
}

export function invalidPart(tensor: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("QuantizedFolderInvalid", { where: { tensor }, found, expected });
}

export function unsupportedForm(field: string, found: string, expected: string): MergeyardError {
  return new MergeyardError("QuantizedFolderUnsupported", { where: { file: "config.json", field }, found, expected });
}
