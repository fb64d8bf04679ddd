// What a checkpoint format is: a frozen object that recognises a folder by its file names and opens it by reading
// headers. Adding one: a folder here named by its id and a line in registry.ts; nothing else compares ids.
import type { Digest } from "../artifact/digest.ts";
import type { TensorFileListing } from "../artifact/listed-file.ts";
import type { Checkpoint, CheckpointFile, FolderReader } from "../checkpoint.ts";
import { describePlace, type ErrorPlace } from "../error.ts";
import { type ConversionParameter, entryOf, parametersOf, type TargetParameter } from "../universal/conversion.ts";
import type { FamilyId } from "../universal/family-ids.ts";
import type { TrainingState } from "../universal/training-state.ts";

/** Things that are odd but do not make a checkpoint wrong. */
const WARNING_CODES = {
  IndexTotalSizeWrong: "the index states a wrong total_size; it is ignored, as other tools do",
  FileIgnored: "a file lies here that is no part of this checkpoint and is left out",
  OptimizerStatesMissing: "there are no optimizer states; the weights alone are read",
  UnionAssumed: "no pattern names this tensor of one axis; its slices are joined, which is wrong if ranks replicate it",
  FamilyPatterns: "how ranks cut parameters is not stated here; a built-in table of the model's family says it",
  VocabularyPaddingKept: "nothing says how long the vocabulary is without its padding; the rows that pad it are kept",
  TokenizerNotRebuilt:
    "the file's tokenizer cannot be written as tokenizer.json and is left out: put one beside it and name the folder",
  RopeScalingLost: "the file scales rotary embeddings by a tensor that config.json has no words for; it is left out",
  OptimizerStateIgnored: "an optimizer state other than exp_avg and exp_avg_sq has no place in other formats; left out",
  OptimizerGroupsUnknown:
    "the source does not say in which order its optimizer holds parameters, or its hyper-parameters; written by " +
    "name: train on from deepspeed-universal, which goes by names",
  TrainerStateIgnored: "what the trainer saved here is no plain value; it is left out",
  TrainingStateBeside:
    "a training checkpoint lies in this folder too; the weights beside it are read: name its own folder for its states",
  TensorsIgnored: "a file holds tensors beside the model's own (an optimizer's, a wrapper's); they are left out",
} as const;

export type CheckpointWarning = {
  readonly code: keyof typeof WARNING_CODES;
  readonly where: ErrorPlace;
  readonly found?: string;
  readonly expected?: string;
};

/** The warning as one line of text. */
export function describeWarning(warning: CheckpointWarning): string {
  const found = warning.found === undefined ? "" : `; found ${warning.found}`;
  const expected = warning.expected === undefined ? "" : `; expected ${warning.expected}`;
  const place = describePlace(warning.where);
  const where = place === "" ? "" : ` (${place})`;
  return `${warning.code}: ${WARNING_CODES[warning.code]}${where}${found}${expected}`;
}

/** The part of a tensor file before its first tensor. */
export type FileHeader = { readonly bytes: number; readonly digest: Digest };

export type OpenedCheckpoint = {
  readonly checkpoint: Checkpoint;
  readonly warnings: readonly CheckpointWarning[];
  /** Of every tensor file, by name. */
  readonly headers: ReadonlyMap<string, FileHeader>;
  /** Digest of the document that describes every byte of the checkpoint, when the format has one. */
  readonly digest: Digest | undefined;
  /** Its tensor files as that document lists them, with the digests of their tensors: who reads bytes checks them. */
  readonly listings?: readonly TensorFileListing[] | undefined;
  /** What it is converted to; absent where the files of the format are kept as they are. */
  readonly conversion?: readonly ConversionParameter[];
  /** Its parameters where its files are kept as they are and say more than their tensors do. */
  readonly described?: readonly ConversionParameter[];
  /** What the trainer saved beside the tensors. */
  readonly training?: TrainingState | undefined;
  /** The family whose built-in table said how ranks cut parameters; undefined where the checkpoint or the user did. */
  readonly family?: FamilyId | undefined;
};

type OpenedFiles = {
  readonly format: string;
  readonly tensorFiles: readonly CheckpointFile[];
  readonly sideFiles: readonly CheckpointFile[];
  readonly config: Checkpoint["config"];
};

/** A checkpoint of parameters that lie in pieces in its files, none of which is kept as it is. */
export function openedInPieces(
  { format, tensorFiles, sideFiles, config }: OpenedFiles,
  parameters: readonly ConversionParameter[],
  warnings: readonly CheckpointWarning[],
): OpenedCheckpoint {
  const tensors = parameters.map(entryOf);
  return {
    checkpoint: { format, tensorFiles, sideFiles, tensors, metadata: new Map(), config },
    warnings,
    headers: new Map(),
    digest: undefined,
    conversion: parameters,
  };
}

/** A checkpoint as a writer takes it: its parameters may be made of other tensors. */
export type WritableCheckpoint = Omit<OpenedCheckpoint, "conversion" | "described"> & {
  readonly conversion?: readonly TargetParameter[];
  readonly described?: readonly TargetParameter[];
};

/** The parameters of any checkpoint, for a writer of another format. */
export function parametersIn({ conversion, described, checkpoint }: WritableCheckpoint): readonly TargetParameter[] {
  return conversion ?? described ?? parametersOf(checkpoint.tensors);
}

/** Files that are a checkpoint by themselves, whatever lies beside them. */
export type SingleFiles = {
  /** How their names end. */
  readonly extensions: readonly string[];
  /** As a format's `open`; the folder has one file, which is meant, and no side files. */
  open(folder: FolderReader): Promise<OpenedCheckpoint>;
};

export type CheckpointFormat = {
  readonly id: string;
  readonly title: string;
  /** True when the folder is in this format, judged by names alone; `files` may include nested ones. */
  recognise(files: readonly CheckpointFile[]): boolean;
  /** Reads the headers, no weights. Throws a typed error for everything malformed. */
  open(folder: FolderReader): Promise<OpenedCheckpoint>;
  /** Absent where a file is none by itself. */
  readonly file?: SingleFiles;
};
