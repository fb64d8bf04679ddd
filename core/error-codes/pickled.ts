// Error codes: checkpoints made of pickles: zip archives, pickles, torch files, and checkpoints of many ranks.
import type { ErrorKind } from "./kind.ts";

export const PICKLED_CODES = {
  // Zip archives
  ZipEndMissing: {
    meaning: "the archive has no end",
    retryable: false,
    remedy: "the upload was cut short; fetch the file again",
  },
  ZipInvalid: {
    meaning: "the archive contradicts itself",
    retryable: false,
    remedy: "the file is damaged or was made by hand; fetch it again or do not use it",
  },
  ZipTooLarge: {
    meaning: "the archive lists more entries than any checkpoint",
    retryable: false,
    remedy: "the file is not an honest checkpoint; do not use it",
  },
  ZipEntryCompressed: {
    meaning: "an entry of the archive is compressed",
    retryable: false,
    remedy: "torch writes no such file; load it with torch and save it again",
  },
  ZipEntryEncrypted: {
    meaning: "an entry of the archive is encrypted",
    retryable: false,
    remedy: "torch writes no such file; do not use it",
  },
  ZipEntryRepeated: {
    meaning: "the archive has two entries of one name",
    retryable: false,
    remedy: "torch writes no such file; do not use it",
  },
  ZipEntryNameInvalid: {
    meaning: "an entry of the archive has a name that cannot be used",
    retryable: false,
    remedy: "torch writes no such file; do not use it",
  },
  // Pickles: data, never run
  PickleTruncated: {
    meaning: "the pickle ends too early",
    retryable: false,
    remedy: "the file is damaged or was cut short; fetch it again",
  },
  PickleInvalid: {
    meaning: "the pickle is malformed",
    retryable: false,
    remedy: "the file is damaged or was made by hand; load it with torch and save it again",
  },
  PickleTrailing: {
    meaning: "bytes follow the pickle",
    retryable: false,
    remedy: "the file is damaged or was made by hand; load it with torch and save it again",
  },
  PickleOpcodeRefused: {
    meaning: "the pickle uses an opcode that no checkpoint needs",
    retryable: false,
    remedy: "do not trust where the file came from; a state dict saved by torch has no such opcode",
  },
  PickleGlobalRefused: {
    meaning: "the pickle names something that is not data of a checkpoint",
    retryable: false,
    remedy: "save model.state_dict() alone, without the objects around it; do not trust a file that others made",
  },
  PickleTensorUnsupported: {
    meaning: "the pickle holds a tensor of a kind that cannot be read",
    retryable: false,
    remedy:
      "make it a dense tensor with torch (to_dense, dequantize, resolve_conj, resolve_neg, full_tensor) and save it",
  },
  PicklePersistentIdInvalid: {
    meaning: "the pickle refers to something else than a storage",
    retryable: false,
    remedy: "the file is damaged or was made by hand; load it with torch and save it again",
  },
  PickleTooLarge: {
    meaning: "the pickle claims more than any checkpoint needs",
    retryable: false,
    remedy: "the file is not an honest checkpoint; do not use it",
  },
  PickleTooDeep: {
    meaning: "the pickle is nested too deeply",
    retryable: false,
    remedy: "the file is not an honest checkpoint; do not use it",
  },
  PickleCyclic: {
    meaning: "a value of the pickle holds itself",
    retryable: false,
    remedy: "save the tensors alone, without the objects around them",
  },
  // torch files
  TorchForeignContent: {
    meaning: "the file is something else than its name says",
    retryable: false,
    remedy: "upload the real file",
  },
  TorchNotRecognised: {
    meaning: "the file was not written by torch.save",
    retryable: false,
    remedy: "fetch the file again; files of torch 0.1 must be loaded and saved by a later version",
  },
  TorchScriptUnsupported: {
    meaning: "the file is a TorchScript module",
    retryable: false,
    remedy: "save the module's state_dict() instead",
  },
  TorchRootAmbiguous: {
    meaning: "the archive holds two saved objects",
    retryable: false,
    remedy: "torch writes no such file; save it again",
  },
  TorchRecordMissing: {
    meaning: "the file lacks a part that it refers to",
    retryable: false,
    remedy: "the file is damaged; fetch it again",
  },
  TorchByteOrderUnsupported: {
    meaning: "the file's byte order is big-endian",
    retryable: false,
    remedy: "load it with torch on a little-endian machine and save it again",
  },
  TorchStorageSizeMismatch: {
    meaning: "a storage has another size than the file claims",
    retryable: false,
    remedy: "the file is damaged; fetch it again",
  },
  TorchStorageTypeConflict: {
    meaning: "a storage is claimed with two types",
    retryable: false,
    remedy: "the file is damaged or was made by hand; do not use it",
  },
  TorchStorageTruncated: {
    meaning: "the file ends inside a storage",
    retryable: false,
    remedy: "the upload was cut short; fetch the file again",
  },
  TorchDtypeUnsupported: {
    meaning: "a tensor has a dtype that cannot be kept",
    retryable: false,
    remedy: "convert the tensor to another dtype with torch and save it again",
  },
  TorchShapeInvalid: {
    meaning: "a tensor's size or strides make no shape",
    retryable: false,
    remedy: "the file is damaged or was made by hand; do not use it",
  },
  TorchTensorOutOfBounds: {
    meaning: "a tensor reaches outside of its storage",
    retryable: false,
    remedy: "the file is damaged or was made by hand; do not use it",
  },
  TorchTensorTooLarge: {
    meaning: "a tensor claims more elements than any model",
    retryable: false,
    remedy: "the file is not an honest checkpoint; do not use it",
  },
  TorchTensorScattered: {
    meaning: "a tensor's elements lie too scattered to be read in order",
    retryable: false,
    remedy: "call .contiguous() on the tensor and save it again",
  },
  TorchNameRepeated: {
    meaning: "two tensors have one name",
    retryable: false,
    remedy: "rename one of them and save the file again",
  },
  TorchNameInvalid: {
    meaning: "a tensor's name cannot be used",
    retryable: false,
    remedy: "rename the tensor and save the file again",
  },
  TorchNoTensors: {
    meaning: "the file holds no tensors",
    retryable: false,
    remedy: "name the file that holds the weights",
  },
  // DeepSpeed training checkpoints
  DeepspeedStepMissing: {
    meaning: "the step that latest names is not there",
    retryable: false,
    remedy: "upload the step's folder, or write the right name into latest",
  },
  DeepspeedPathInvalid: {
    meaning: "latest names something that cannot be a step's folder",
    retryable: false,
    remedy: "write the name of a folder beside it into latest",
  },
  DeepspeedRankMissing: {
    meaning: "a rank of the checkpoint is missing",
    retryable: false,
    remedy: "upload the files of every rank; the save may not have finished",
  },
  DeepspeedRankMisplaced: {
    meaning: "a rank's file is another rank's, exchanged with it or copied over it",
    retryable: false,
    remedy: "upload every rank's own file again",
  },
  DeepspeedFieldInvalid: {
    meaning: "a rank's file has another form than DeepSpeed writes",
    retryable: false,
    remedy: "check the version of DeepSpeed that wrote it; the file may be damaged",
  },
  DeepspeedUnsupported: {
    meaning: "the checkpoint was saved in a way that cannot be converted",
    retryable: false,
    remedy: "convert it with DeepSpeed's own tools",
  },
  DeepspeedWeightsMissing: {
    meaning: "the checkpoint holds neither optimizer states nor weights",
    retryable: false,
    remedy: "upload the optimizer states of every rank",
  },
  DeepspeedPartitionSize: {
    meaning: "a rank's partition has another size than its parameters need",
    retryable: false,
    remedy: "the file is damaged; fetch it again",
  },
  DeepspeedFragmentCoverage: {
    meaning: "the fragments of a parameter do not make it whole",
    retryable: false,
    remedy: "the checkpoint is damaged or ranks of different saves were mixed",
  },
  DeepspeedStepsDisagree: {
    meaning: "ranks saved different steps",
    retryable: false,
    remedy: "ranks of different saves were mixed; upload one whole save",
  },
  CheckpointNeedsConversion: {
    meaning: "the checkpoint's tensors cannot be read where they are",
    retryable: false,
    remedy: "convert it first: mergeyard convert SRC --to universal --out DIR, and name DIR; a yard does so by itself",
  },
  // Patterns of how ranks cut parameters
  ConvertStatesMissing: {
    meaning: "the format to write keeps optimizer states, and the checkpoint has none",
    retryable: false,
    remedy: "convert a training checkpoint, or convert this one to safetensors or torch",
  },
  ConvertAdapterRefused: {
    meaning: "the folder holds a LoRA adapter, which is no model by itself",
    retryable: false,
    remedy: "merge it into its base (a model `base+adapter` of a recipe), or combine adapters with lora merge",
  },
  ConvertDtypeRefused: {
    meaning: "the format to write keeps master weights alone, which have one dtype",
    retryable: false,
    remedy: "leave --dtype out, or convert to a format of weights alone",
  },
  UniversalPatternsMissing: {
    meaning: "nothing says how tensor-parallel ranks cut the parameters",
    retryable: false,
    remedy: "give the patterns of the model",
  },
  UniversalPatternsInvalid: {
    meaning: "universal_checkpoint_info has the wrong form",
    retryable: false,
    remedy: "correct the field",
  },
  UniversalPatternInvalid: {
    meaning: "a pattern is not a regular expression of the known subset",
    retryable: false,
    remedy: "use literals, ., \\d, classes, groups, |, *, +, ?, {N}, ^, $, and look-aheads at the start",
  },
  UniversalPatternAmbiguous: {
    meaning: "two patterns of one list match a parameter",
    retryable: false,
    remedy: "make the patterns of a list exclude each other",
  },
  UniversalPatternUnused: {
    meaning: "a pattern matches no parameter",
    retryable: false,
    remedy: "correct or remove the pattern",
  },
  UniversalShapeMismatch: {
    meaning: "the slices of a parameter do not fit its pattern",
    retryable: false,
    remedy: "correct the pattern; it may belong to another model",
  },
  UniversalReplicasDisagree: {
    meaning: "copies of a parameter that must be equal differ",
    retryable: false,
    remedy: "the ranks diverged, or the pattern is wrong: average the copies or correct it",
  },
  // PyTorch distributed checkpoints
  DcpMetadataMissing: {
    meaning: "the save was never finished: there is no .metadata",
    retryable: false,
    remedy: "use an earlier checkpoint, or upload the missing file",
  },
  DcpMetadataInvalid: {
    meaning: ".metadata has another form than torch writes",
    retryable: false,
    remedy: "check the version of torch that wrote it; the file may be damaged",
  },
  DcpPathInvalid: {
    meaning: ".metadata names a file that cannot be in its folder",
    retryable: false,
    remedy: "do not trust where the checkpoint came from",
  },
  DcpFileMissing: {
    meaning: "a file that .metadata names is not there",
    retryable: false,
    remedy: "upload the missing file",
  },
  DcpChunkOutOfFile: {
    meaning: "a chunk reaches past the end of its file",
    retryable: false,
    remedy: "the upload was cut short; fetch the file again",
  },
  DcpChunksInvalid: {
    meaning: "the chunks of a tensor do not make it whole",
    retryable: false,
    remedy: "the checkpoint is damaged or ranks of different saves were mixed",
  },
  DcpChunkMismatch: {
    meaning: "a chunk is not the tensor that .metadata says",
    retryable: false,
    remedy: "the checkpoint is damaged or ranks of different saves were mixed",
  },
  DcpUnsupported: {
    meaning: "the checkpoint was saved in a way that cannot be read",
    retryable: false,
    remedy: "save it again by dcp.save with torch's own form of files, without transforms, of unflattened parameters",
  },
} as const satisfies Record<string, ErrorKind>;
