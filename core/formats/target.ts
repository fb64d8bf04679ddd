// What a format to convert into is: a frozen object that plans the files of a folder from the parameters of any source,
// before a byte of weights is read. Adding one: its file and a line in targets.ts.
import type { Checkpoint } from "../checkpoint.ts";
import type { FloatDtype } from "../ops/cast.ts";
import type { TargetParameter } from "../universal/conversion.ts";
import type { TrainingState } from "../universal/training-state.ts";
import type { CheckpointWarning } from "./format.ts";
import type { PlannedFile } from "./planned-file.ts";

/** Ranks of the target. `zero` is the stage of ZeRO. */
export type Topology = { readonly tp: number; readonly pp: number; readonly dp: number; readonly zero: 1 | 2 | 3 };

export type TargetRequest = {
  /** The source: its files, for those that the target takes over as they are. */
  readonly source: Pick<Checkpoint, "tensorFiles">;
  /** As the source's reader gave them, in any order. */
  readonly parameters: readonly TargetParameter[];
  /** What the trainer saved beside the tensors; undefined where the source has no such. */
  readonly training: TrainingState | undefined;
  /** Bytes of tensors of one file, at most, where the format leaves the choice. */
  readonly shardBytes: number;
  readonly topology: Topology;
  /** What ranks of the target compute with; undefined: as the source's did. */
  readonly computeDtype: FloatDtype | undefined;
  /** The trainer pads its vocabulary to a multiple of this and the tensor-parallel ranks; undefined: inferred. */
  readonly vocabularyMultiple: number | undefined;
};

export type PlannedFolder = {
  readonly files: readonly PlannedFile[];
  /** The file that makes the folder a checkpoint, written when all others are whole. */
  readonly last: PlannedFile | undefined;
  /** What the folder leaves out. */
  readonly warnings?: readonly CheckpointWarning[];
};

export type TargetFormat = {
  readonly id: string;
  readonly title: string;
  /** True where `topology` says anything. */
  readonly isSharded: boolean;
  /** What may be of another float dtype: all weights, those that ranks compute with beside F32 masters, or nothing. */
  readonly takesDtype: "weights" | "compute" | undefined;
  plan(request: TargetRequest): PlannedFolder;
};
