// Error codes: checkpoints made of pickles: zip archives, pickles, torch files.
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
    remedy: "do not trust where the file came from, or save only tensors, numbers, text and plain containers",
  },
  PickleTensorUnsupported: {
    meaning: "the pickle holds a tensor of a kind that cannot be read",
    retryable: false,
    remedy: "convert it to a dense tensor with torch and save it again",
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
} as const satisfies Record<string, ErrorKind>;
