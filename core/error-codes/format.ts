// Error codes: malformed files and folders: safetensors, checkpoint folders, universal checkpoints, manifests.
import type { ErrorKind } from "./kind.ts";

export const FORMAT_CODES = {
  // Format parsers: safetensors
  SafetensorsHeaderTooSmall: {
    meaning: "the file is shorter than the 8 bytes of the header length",
    retryable: false,
    remedy: "the upload was cut short or is not safetensors; fetch the file again",
  },
  SafetensorsHeaderTooLarge: {
    meaning: "the header claims more bytes than any safetensors header may have",
    retryable: false,
    remedy: "the file is not safetensors or is damaged; fetch it again",
  },
  SafetensorsHeaderPastEnd: {
    meaning: "the header is longer than the file",
    retryable: false,
    remedy: "the upload was cut short; fetch the file again",
  },
  SafetensorsForeignContent: {
    meaning: "the file is something else than its name says",
    retryable: false,
    remedy: "upload the real file",
  },
  SafetensorsHeaderNotUtf8: {
    meaning: "the header is not UTF-8",
    retryable: false,
    remedy: "the file is damaged; fetch it again or write it again with a safetensors library",
  },
  SafetensorsHeaderNotObject: {
    meaning: "the header does not begin with {",
    retryable: false,
    remedy: "the file is damaged or was written by hand; write it again with a safetensors library",
  },
  SafetensorsHeaderNotJson: {
    meaning: "the header is not JSON",
    retryable: false,
    remedy: "the file is damaged; fetch it again or write it again with a safetensors library",
  },
  SafetensorsHeaderTooDeep: {
    meaning: "the header is nested too deeply",
    retryable: false,
    remedy: "the file is not an honest checkpoint; do not use it",
  },
  SafetensorsNameRepeated: {
    meaning: "a name stands twice in one header",
    retryable: false,
    remedy: "write the file again with every tensor under its own name",
  },
  SafetensorsNameInvalid: {
    meaning: "a tensor's name cannot be used",
    retryable: false,
    remedy: "rename the tensor and write the file again",
  },
  SafetensorsFieldMissing: {
    meaning: "a tensor's entry lacks a field",
    retryable: false,
    remedy: "write the file again with a safetensors library",
  },
  SafetensorsFieldInvalid: {
    meaning: "a field of the header has the wrong form",
    retryable: false,
    remedy: "write the file again with a safetensors library",
  },
  SafetensorsIntegerInvalid: {
    meaning: "a shape or offset is not an unsigned 64-bit integer",
    retryable: false,
    remedy: "write the file again with a safetensors library",
  },
  SafetensorsDtypeUnknown: {
    meaning: "a tensor has a dtype that safetensors does not define",
    retryable: false,
    remedy: "convert the tensor to a dtype of the format and write the file again",
  },
  SafetensorsRankTooLarge: {
    meaning: "a tensor has too many axes",
    retryable: false,
    remedy: "reshape the tensor and write the file again",
  },
  SafetensorsTooManyTensors: {
    meaning: "the header lists more tensors than one file may hold",
    retryable: false,
    remedy: "split the file into shards",
  },
  SafetensorsOffsetsInvalid: {
    meaning: "a tensor does not begin where the one before it ends",
    retryable: false,
    remedy: "the data would overlap or have gaps; write the file again with a safetensors library",
  },
  SafetensorsSizeOverflow: {
    meaning: "a tensor's size does not fit in 64 bits",
    retryable: false,
    remedy: "the file is damaged or hostile; do not use it",
  },
  SafetensorsSizePartialByte: {
    meaning: "a tensor's elements do not fill whole bytes",
    retryable: false,
    remedy: "pad the tensor's last axis and write the file again",
  },
  SafetensorsSizeMismatch: {
    meaning: "a tensor's byte range does not fit its dtype and shape",
    retryable: false,
    remedy: "the header is damaged; fetch the file again",
  },
  SafetensorsDataTruncated: {
    meaning: "the file ends before its last tensor",
    retryable: false,
    remedy: "the upload was cut short; fetch the file again",
  },
  SafetensorsDataTrailing: {
    meaning: "the file goes on after its last tensor",
    retryable: false,
    remedy: "the file is damaged or two uploads were mixed; fetch the file again",
  },
  // Checkpoint folders
  CheckpointEmpty: {
    meaning: "there are no files here",
    retryable: false,
    remedy: "check the path; an upload may not have begun",
  },
  CheckpointFileMissing: {
    meaning: "there is no such file",
    retryable: false,
    remedy: "check the path",
  },
  CheckpointFormatUnsupported: {
    meaning: "the folder holds a checkpoint of a kind that cannot be read",
    retryable: false,
    remedy: "save the model as safetensors",
  },
  CheckpointFormatUnknown: {
    meaning: "no known checkpoint is recognised here",
    retryable: false,
    remedy: "name the folder that holds model.safetensors or its index",
  },
  CheckpointTooManyFiles: {
    meaning: "the folder holds more files than any checkpoint",
    retryable: false,
    remedy: "name the model's own folder",
  },
  CheckpointTooManyTensors: {
    meaning: "the folder holds more tensors than any checkpoint",
    retryable: false,
    remedy: "the files are not an honest checkpoint; do not use them",
  },
  CheckpointAmbiguous: {
    meaning: "it is not clear which files are the model",
    retryable: false,
    remedy: "remove the files that are not, or name one file",
  },
  CheckpointConfigInvalid: {
    meaning: "config.json cannot be used",
    retryable: false,
    remedy: "fix config.json; it must be one JSON object",
  },
  CheckpointIndexMissing: {
    meaning: "shards are there but their index is not",
    retryable: false,
    remedy: "upload the index, model.safetensors.index.json",
  },
  CheckpointIndexNotJson: {
    meaning: "the index is not JSON",
    retryable: false,
    remedy: "the upload was cut short; fetch the index again",
  },
  CheckpointIndexInvalid: {
    meaning: "the index has the wrong form",
    retryable: false,
    remedy: "write the index again with a safetensors library",
  },
  CheckpointIndexNameRepeated: {
    meaning: "a name stands twice in the index",
    retryable: false,
    remedy: "write the index again with a safetensors library",
  },
  CheckpointIndexFileNameInvalid: {
    meaning: "the index names a file that cannot be in its folder",
    retryable: false,
    remedy: "write the index again; do not trust where this one came from",
  },
  CheckpointShardMissing: {
    meaning: "a file that the index names is not there",
    retryable: false,
    remedy: "upload the missing file",
  },
  CheckpointShardUnexpected: {
    meaning: "a shard lies beside the others that the index does not name",
    retryable: false,
    remedy: "two uploads were mixed; remove the left-over file or upload the right index",
  },
  CheckpointTensorMissing: {
    meaning: "a tensor that the index names is not in its file",
    retryable: false,
    remedy: "the index and the shards are of different uploads; upload both again",
  },
  CheckpointTensorNotIndexed: {
    meaning: "a shard holds a tensor that the index does not name",
    retryable: false,
    remedy: "the index and the shards are of different uploads; upload both again",
  },
  CheckpointTensorMisplaced: {
    meaning: "a tensor is in another shard than the index says",
    retryable: false,
    remedy: "the index and the shards are of different uploads; upload both again",
  },
  CheckpointTensorRepeated: {
    meaning: "a tensor is in two shards",
    retryable: false,
    remedy: "write the shards again with every tensor once",
  },
  // Universal checkpoints and manifests
  UniversalInvalid: {
    meaning: "universal.json cannot be used",
    retryable: false,
    remedy: "the checkpoint is damaged; make it again from its source",
  },
  UniversalVersionUnsupported: {
    meaning: "universal.json is of a version that this engine does not know",
    retryable: false,
    remedy: "use the version of Mergeyard that wrote it, or make the checkpoint again",
  },
  UniversalFileChanged: {
    meaning: "a file is not what universal.json says",
    retryable: false,
    remedy: "the checkpoint is damaged; make it again from its source",
  },
  ManifestInvalid: {
    meaning: "manifest.json cannot be used",
    retryable: false,
    remedy: "the version is damaged; pull or publish it again",
  },
  ManifestVersionUnsupported: {
    meaning: "manifest.json is of a version that this engine does not know",
    retryable: false,
    remedy: "use the version of Mergeyard that wrote it",
  },
  ManifestFileChanged: {
    meaning: "a file is not what manifest.json says",
    retryable: false,
    remedy: "pull the version again; to upload it as it is now, use `mergeyard push` or delete manifest.json",
  },
  // GGUF files
  GgufNotRecognised: {
    meaning: "the file is not a GGUF file",
    retryable: false,
    remedy: "name a GGUF file; if this should be one, fetch it again",
  },
  GgufVersionUnsupported: {
    meaning: "the GGUF file is of a version or byte order that is not read",
    retryable: false,
    remedy: "make the file again with a current tool; version 3, little-endian, is read",
  },
  GgufTruncated: {
    meaning: "the GGUF file is shorter than its header says",
    retryable: false,
    remedy: "the download was cut short; fetch the file again",
  },
  GgufTooLarge: {
    meaning: "the GGUF header states more than any honest file holds",
    retryable: false,
    remedy: "do not use the file; its header is forged or damaged",
  },
  GgufMetadataInvalid: {
    meaning: "the metadata of the GGUF file cannot be read",
    retryable: false,
    remedy: "make the file again; its header is damaged",
  },
  GgufTensorInvalid: {
    meaning: "a tensor cannot be in a GGUF file as it is stated",
    retryable: false,
    remedy: "make the file again; to write one, choose a scheme whose block divides the tensor's rows",
  },
  GgufModelUnsupported: {
    meaning: "the GGUF file cannot be read as a model's checkpoint",
    retryable: false,
    remedy: "use the checkpoint that the file was made from",
  },
  GgufSplitIncomplete: {
    meaning: "the files of a split GGUF model are not all there",
    retryable: false,
    remedy: "fetch every file of the set into one folder, and name the folder",
  },
  // Quantizing
  BitPlanInvalid: {
    meaning: "a bit plan or its budget cannot be followed",
    retryable: false,
    remedy: "name a scheme that fits for every matrix of the model, or a budget that its smallest schemes can meet",
  },
  QuantizeModelUnsupported: {
    meaning: "a file of this kind cannot hold this model",
    retryable: false,
    remedy: "quantize a model of a family in docs/gguf.md; for others, use the tools of the model's own makers",
  },
  QuantizeTokenizerUnsupported: {
    meaning: "the tokenizer cannot be expressed in the file",
    retryable: false,
    remedy: "leave it out with --no-tokenizer and give the reader the tokenizer in another way",
  },
  QuantizeShapeUnsupported: {
    meaning: "the rows of a tensor do not hold whole groups of the scheme",
    retryable: false,
    remedy: "choose a scheme per channel or of smaller groups, or leave the module out with --ignore",
  },
  DeriveSourceUnsupported: {
    meaning: "fewer bits can only be derived from a model of symmetric INT8",
    retryable: false,
    remedy: "make it with `mergeyard quantize SRC --scheme int8_group128 --out DIR`, then derive from DIR",
  },
  DeriveOriginalMismatch: {
    meaning: "the model given as the original does not have the weights that the INT8 model has",
    retryable: false,
    remedy: "name the model that the INT8 one was quantized from",
  },
  QuantizeHessianInvalid: {
    meaning: "the Hessian of a layer's inputs cannot be used",
    retryable: false,
    remedy: "collect it from more samples than the layer has inputs, or quantize without it",
  },
  QuantizedFolderInvalid: {
    meaning: "the parts of a quantized tensor do not belong together",
    retryable: false,
    remedy: "fetch the model again; if it is as it was published, it is damaged",
  },
  QuantizedFolderUnsupported: {
    meaning: "the quantization_config of a folder cannot be followed",
    retryable: false,
    remedy: "decompress the model with the tool that made it",
  },
  QuantizeNotFinite: {
    meaning: "a weight cannot be quantized because it, or the scale of its block, is not a finite number",
    retryable: false,
    remedy: "repair the tensor, or choose a scheme with a wider range, such as bf16",
  },
  ImatrixInvalid: {
    meaning: "the importance matrix cannot be used",
    retryable: false,
    remedy: "name the file that llama-imatrix wrote for this model",
  },
} as const satisfies Record<string, ErrorKind>;
