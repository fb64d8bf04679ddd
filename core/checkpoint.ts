// What a checkpoint is once its headers are read: names, dtypes, shapes and where the bytes lie. Every format parser
// yields this, the planner consumes it, and neither has touched a byte of weights.
import type { CompressedForm } from "./schemes/compressed-form.ts";
import type { StoredFolder } from "./schemes/folder-form.ts";
import type { BlockSchemeId } from "./schemes/registry.ts";
import type { Dtype, ScaleDtype, Shape } from "./tensor.ts";
import type { CheckpointInfo } from "./universal/checkpoint-info.ts";

/** `bytes` bytes of `file` (a path relative to the checkpoint's folder) from `offset`. */
export type ByteRange = { readonly file: string; readonly offset: number; readonly bytes: number };

/** The form of the parts of a compressed-tensors module, and the dtype of their scales. */
export type CompressedPacking = Omit<CompressedForm, "group" | "block" | "activations"> & {
  readonly group?: number | undefined;
  readonly block?: readonly [number, number] | undefined;
  readonly scales: ScaleDtype;
  /** True when a part behind the others says of which group each column is. */
  readonly ordered: boolean;
};

/** How the parts of a module are stored, one after the other. */
export type PartsPacking = CompressedPacking | StoredFolder;

/** How a tensor's values are stored when they are not elements of its dtype in their order. */
export type Packing = {
  /** Rows of blocks of a quantization scheme; the values are F32. Absent: elements of the dtype. */
  readonly scheme?: BlockSchemeId | undefined;
  /** Parts of a quantized module, one after the other; the values are F32. Absent: not such. */
  readonly parts?: PartsPacking | undefined;
  /** Rows of each of these heads, [2, n], are stored as [n, 2]. Absent: rows are stored in their order. */
  readonly interleavedHeads?: number | undefined;
  /** What stored float32 values are more than the values. Absent: nothing. */
  readonly shift?: number | undefined;
};

/**
 * Elements [sourceOffset, sourceOffset + size) of a row-major array of shape `sourceShape`, whose bytes are `ranges`
 * one after the other, are elements [targetOffset, targetOffset + size) of the tensor.
 */
export type Box<R = ByteRange> = {
  readonly ranges: readonly R[];
  readonly sourceShape: Shape;
  readonly sourceOffset: Shape;
  readonly size: Shape;
  readonly targetOffset: Shape;
};

/**
 * join: the boxes of the only copy tile the tensor. equal: every copy tiles it, with the same bytes, or the checkpoint
 * is refused. mean: every copy tiles it, and the mean counts: float32 additions in order from +0, then one division.
 */
export type Gather<R = ByteRange> = {
  readonly rule: "join" | "equal" | "mean";
  readonly copies: readonly (readonly Box<R>[])[];
  /** Present when the only box is the whole tensor and its ranges hold packed values. */
  readonly packing?: Packing | undefined;
};

/** One tensor of a checkpoint: row-major, its bytes the concatenation of `ranges` (one range in safetensors). */
export type TensorEntry = {
  readonly name: string;
  /** Of the values. */
  readonly dtype: Dtype;
  readonly shape: Shape;
  readonly ranges: readonly ByteRange[];
  /** Present when the ranges hold something else than the values in their order. */
  readonly packing?: Packing | undefined;
  /** How a converter gathers the bytes when no list of ranges says it; `ranges` is then empty. */
  readonly gather?: Gather;
  /** `sha256:<hex>` of the tensor's bytes; known for universal checkpoints and published artifacts only. */
  readonly digest?: string;
};

/** A file of the checkpoint's folder; the files of training checkpoints lie in folders inside of it. */
export type CheckpointFile = { readonly name: string; readonly bytes: number };

/** The headers of one checkpoint. `format` is the id of its parser in `core/formats/registry.ts`. */
export type Checkpoint = {
  readonly format: string;
  /** Files that hold tensors, in name order. */
  readonly tensorFiles: readonly CheckpointFile[];
  /** Files that travel with the weights (config, tokenizer, licence), in name order. */
  readonly sideFiles: readonly CheckpointFile[];
  /** In file order, then offset order. */
  readonly tensors: readonly TensorEntry[];
  /** `__metadata__` of the files, merged; string to string. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Parsed `config.json`, when the folder has one; else what a format with metadata of its own says in its place. */
  readonly config: Readonly<Record<string, unknown>> | undefined;
  /** Small files that travel with the weights, made from such metadata: no file of the folder holds them. */
  readonly documents?: ReadonlyMap<string, Uint8Array> | undefined;
};

/** Reads exactly `bytes` bytes from `offset`; throws a typed error when the file is shorter. How parsers see a file. */
export type ReadRange = (offset: number, bytes: number) => Promise<Uint8Array>;

/** The files of one folder as parsers see them: listing and ranged reads, no I/O library. */
export type FolderReader = {
  readonly files: readonly CheckpointFile[];
  read(file: string, offset: number, bytes: number): Promise<Uint8Array>;
  /** What the caller says of how ranks cut parameters; it wins over what the folder says. */
  readonly patterns?: CheckpointInfo | undefined;
};
