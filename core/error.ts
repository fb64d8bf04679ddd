// The one error class and the closed table of codes. Retry lists of the state machine, the local runner and
// docs/errors.md are made from this table; nobody writes prose at a throw.

type ErrorKind = {
  /** What happened, as a sentence without values. */
  readonly meaning: string;
  /** True when trying the same thing again may succeed (network, capacity); false for bad input. */
  readonly retryable: boolean;
  /** What the reader should do. A throw may replace it by something more exact. */
  readonly remedy: string;
};

/** Every code, grouped by the part that throws it. A code is added together with a test that provokes it. */
export const ERROR_CODES = {
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
    remedy: "the version was changed after it was published; pull it again",
  },
  // Kernels and engine
  EngineNonFinite: {
    meaning: "NaN or infinite values in a merge",
    retryable: false,
    remedy: "repair or replace the model, or write `non_finite: propagate` in the recipe to let them through",
  },
  EngineMemoryTooSmall: {
    meaning: "a merge does not fit in the memory it was given",
    retryable: false,
    remedy: "raise --memory; methods that need a whole tensor at once need room for the largest one",
  },
  EngineInputChanged: {
    meaning: "a tensor's bytes do not have the digest that was recorded for it",
    retryable: false,
    remedy: "the file was changed or damaged after it was taken in; upload it again under a new name",
  },
  KernelMemoryExhausted: {
    meaning: "a kernel set ran out of its memory",
    retryable: false,
    remedy: "this is a fault of the plan's memory bound; please report the recipe and the tensor",
  },
  // Stores
  StoreKeyInvalid: {
    meaning: "the key cannot name an object",
    retryable: false,
    remedy: "rename the file or fix the path",
  },
  StoreNameInvalid: {
    meaning: "the name cannot be used for a model, version, channel or pipeline",
    retryable: false,
    remedy: "choose another name",
  },
  StoreUriInvalid: {
    meaning: "the place is not one that a store can open",
    retryable: false,
    remedy: "give a folder, file:///folder or s3://bucket/prefix",
  },
  StoreObjectMissing: {
    meaning: "there is no such object",
    retryable: false,
    remedy: "check the name, and that what should have written it has finished",
  },
  StoreObjectTooLarge: {
    meaning: "the object is larger than what may be read or written in one piece",
    retryable: false,
    remedy: "check that it is the file you mean",
  },
  StoreObjectChanged: {
    meaning: "the object changed while it was being read",
    retryable: false,
    remedy: "wait until its writer has finished, then run again",
  },
  StoreShortRead: {
    meaning: "the object ends before the requested range does",
    retryable: false,
    remedy: "the object was cut short; write or fetch it again",
  },
  StoreContentMismatch: {
    meaning: "the store does not hold what was written",
    retryable: false,
    remedy: "do not trust this server or disk with checkpoints before the reason is known",
  },
  StoreConditionIgnored: {
    meaning: "the server ignores conditional writes, so two runs could overwrite each other",
    retryable: false,
    remedy: "use a server that honours If-None-Match and If-Match on PutObject",
  },
  StoreJsonInvalid: {
    meaning: "the object is not the JSON document that belongs there",
    retryable: false,
    remedy: "see whether a tool other than Mergeyard wrote it; restore or delete it",
  },
  StoreRegionIncomplete: {
    meaning: "a region of a large object did not get exactly its bytes",
    retryable: false,
    remedy: "write the object again from its start",
  },
  StoreTicketInvalid: {
    meaning: "the large object being written is unknown to this store or was discarded",
    retryable: false,
    remedy: "write the object again from its start",
  },
  StoreConflict: {
    meaning: "another writer holds the object",
    retryable: true,
    remedy: "try again in a moment",
  },
  StoreUnavailable: {
    meaning: "the store did not answer, or asked to slow down",
    retryable: true,
    remedy: "try again; see whether the endpoint is right and the server is up",
  },
  StoreFull: {
    meaning: "the store has no room for the object",
    retryable: false,
    remedy: "free space or raise the quota, then run again",
  },
  StoreAccessDenied: {
    meaning: "the store refused access",
    retryable: false,
    remedy: "check file permissions, or the credentials and the bucket's policy",
  },
  StoreCredentialsInvalid: {
    meaning: "the credentials for the store are missing, unknown or expired",
    retryable: false,
    remedy: "renew the credentials (AWS_ACCESS_KEY_ID and so on, or the profile)",
  },
  StoreBucketMissing: {
    meaning: "there is no such bucket",
    retryable: false,
    remedy: "create the bucket, or check its name, region and the endpoint",
  },
  StoreLinkRefused: {
    meaning: "a symbolic link leads out of the folder or in a circle",
    retryable: false,
    remedy: "replace the link by the file itself, or name the folder where the file lives",
  },
  StorePathOccupied: {
    meaning: "a file stands where a folder is needed, or a folder where a file is needed",
    retryable: false,
    remedy: "move it away, then run again",
  },
  StoreFailed: {
    meaning: "the store failed in a way that has no code of its own",
    retryable: false,
    remedy: "see the cause",
  },
  // Yard and pipeline steps
  YardMissing: {
    meaning: "there is no yard at this place",
    retryable: false,
    remedy: "make one with `mergeyard init`, or name the right place",
  },
  YardPlaceNotEmpty: {
    meaning: "the place for a new yard holds other files",
    retryable: false,
    remedy: "name an empty or new place",
  },
  YardFormatUnknown: {
    meaning: "the yard was made by another version of Mergeyard",
    retryable: false,
    remedy: "use the version of Mergeyard that made the yard, or a newer one",
  },
  YardPlanInvalid: {
    meaning: "the plan of a run is not what it should be",
    retryable: false,
    remedy: "the file was changed by hand or made by another version; delete the run's folder and plan again",
  },
  YardReferenceInvalid: {
    meaning: "this is not a name or a reference of a model",
    retryable: false,
    remedy: "write NAME, artifacts/NAME@VERSION_OR_CHANNEL, checkpoints/NAME@DIGEST, incoming/NAME, a folder or a URI",
  },
  YardModelMissing: {
    meaning: "the model was not found",
    retryable: false,
    remedy: "check the name; `mergeyard ls` lists the models of a yard",
  },
  YardVersionMissing: {
    meaning: "the model has no such version",
    retryable: false,
    remedy: "`mergeyard ls` lists the versions of a model",
  },
  YardChannelMissing: {
    meaning: "the model has no such channel",
    retryable: false,
    remedy: "`mergeyard ls` lists the channels of a model",
  },
  YardUploadIncomplete: {
    meaning: "no upload of the model is complete",
    retryable: false,
    remedy: "wait until it has ended, or repeat it; _COMPLETE, a whole index or a lone model.safetensors ends it",
  },
  YardSourceChanged: {
    meaning: "the files of a model changed while the run was using them",
    retryable: false,
    remedy: "run the pipeline again: it will plan with the files as they are now",
  },
  YardFileCorrupt: {
    meaning: "the bytes of a file are not those of its record",
    retryable: false,
    remedy: "the file was damaged or changed after it was recorded; restore it or make it again",
  },
  YardPipelineMissing: {
    meaning: "there is no such pipeline file",
    retryable: false,
    remedy: "name the pipeline's YAML file; a yard's own are under pipelines/",
  },
  YardRunMissing: {
    meaning: "the yard has no such run, or its plan is not whole",
    retryable: false,
    remedy: "plan the pipeline first",
  },
  YardUnitsUnfinished: {
    meaning: "units of the run have no receipt",
    retryable: false,
    remedy: "run the pipeline again: finished units are not repeated",
  },
  YardOutputWrong: {
    meaning: "an output file is not what the plan says",
    retryable: false,
    remedy: "delete the unit's receipt and run the pipeline again; if it comes back, please report it with the plan",
  },
  YardNonFinite: {
    meaning: "the output holds more NaN or infinite values than the pipeline allows",
    retryable: false,
    remedy: "look at the counts per model in the receipts; replace the model, or raise checks.max_nonfinite",
  },
  YardNameConflict: {
    meaning: "other content already has the name that is made from this content's digest",
    retryable: false,
    remedy: "the folder was changed by hand; move it away and run the pipeline again",
  },
  YardChannelContended: {
    meaning: "the channel kept changing while it was being moved",
    retryable: true,
    remedy: "try again",
  },
  YardTargetOccupied: {
    meaning: "the target folder holds something else",
    retryable: false,
    remedy: "name an empty or new folder",
  },
  YardManifestMissing: {
    meaning: "the folder has no manifest.json",
    retryable: false,
    remedy: "name the folder of a published or pulled version",
  },
  // Recipes
  RecipeSyntax: {
    meaning: "the file is not YAML that a recipe may use",
    retryable: false,
    remedy: "correct the line named above",
  },
  RecipeDuplicateKey: {
    meaning: "a key is given twice in one map",
    retryable: false,
    remedy: "keep one of the two",
  },
  RecipeTooLarge: {
    meaning: "the recipe is larger than any recipe needs to be",
    retryable: false,
    remedy: "check that this is the file you mean",
  },
  RecipeUnknownKey: {
    meaning: "the recipe has a key that nothing reads",
    retryable: false,
    remedy: "correct or remove the key",
  },
  RecipeFieldInvalid: {
    meaning: "a field of the recipe has a value of the wrong form",
    retryable: false,
    remedy: "write what is expected there; docs/recipes.md has the grammar",
  },
  RecipeNotSupported: {
    meaning: "the recipe asks for something that this version does not do",
    retryable: false,
    remedy: "docs/recipes.md says what is supported",
  },
  RecipeMethodUnknown: {
    meaning: "there is no merge method of that name",
    retryable: false,
    remedy: "use one of the methods that are listed as expected",
  },
  RecipeParameterUnknown: {
    meaning: "the method has no parameter of that name",
    retryable: false,
    remedy: "correct or remove the parameter",
  },
  RecipeParameterInvalid: {
    meaning: "a parameter has a value that the method does not take",
    retryable: false,
    remedy: "give a value as expected",
  },
  RecipeParameterMissing: {
    meaning: "a parameter that the method needs has no value for this model and tensor",
    retryable: false,
    remedy: "give it to the model, to its slice, or to all under the top-level `parameters`",
  },
  RecipeModelRepeated: {
    meaning: "a slice lists the same model twice",
    retryable: false,
    remedy: "list each model once, or write two slices",
  },
  RecipeBaseMissing: {
    meaning: "the method needs a base model among its inputs",
    retryable: false,
    remedy: "name it as `base_model`, and list it in every slice",
  },
  RecipeLayerRangesUnequal: {
    meaning: "the layer ranges of one slice differ in length",
    retryable: false,
    remedy: "give every source of the slice the same number of layers",
  },

  // Command line
  CliUsage: {
    meaning: "the command line is not understood",
    retryable: false,
    remedy: "see `mergeyard --help`, or `mergeyard COMMAND --help`",
  },
  CliSourceMissing: {
    meaning: "there is nothing at the given path",
    retryable: false,
    remedy: "check the path; a relative one starts at the current folder",
  },
  CliOutputOccupied: {
    meaning: "the output folder holds something already",
    retryable: false,
    remedy: "choose another folder; --force replaces a former output of Mergeyard, and nothing else",
  },
  CliPricesInvalid: {
    meaning: "the file of prices cannot be read",
    retryable: false,
    remedy: "copy cli/prices.json and change its numbers",
  },
  CliRunFailed: {
    meaning: "the run failed for a reason that has no code of its own",
    retryable: false,
    remedy: "run the same command again; if it fails again, report it with the run's folder",
  },
  CliInterrupted: {
    meaning: "the command was interrupted",
    retryable: true,
    remedy: "run the same command again",
  },
  CliInternal: {
    meaning: "Mergeyard itself failed; this is a fault of the program, not of your input",
    retryable: false,
    remedy: "report it with the command line and the text below",
  },
  // Flow: the state machine and its local run
  FlowDefinitionInvalid: {
    meaning: "the state machine's definition is not one that can be run here",
    retryable: false,
    remedy: "docs/flow.md lists what a definition may hold; correct the field",
  },
  FlowRunBusy: {
    meaning: "another process is running the same work in this yard",
    retryable: false,
    remedy: "wait for it to end; then run the command again, and it will find what was done",
  },
  // Plans
  PlanLayersUnequal: {
    meaning: "the models differ in their number of layers",
    retryable: false,
    remedy: "merge models of one depth, or name the layers to merge with `slices`",
  },
  PlanLayersUnknown: {
    meaning: "the recipe names layers, but the model has no one stack of layers",
    retryable: false,
    remedy: "use `models` instead of `slices`",
  },
  PlanLayersOutside: {
    meaning: "the recipe names layers that the model does not have",
    retryable: false,
    remedy: "correct the layer range",
  },
  PlanTensorMissing: {
    meaning: "a model lacks a tensor that another one has",
    retryable: false,
    remedy: "merge models of one build, or say in the recipe what to do with such tensors",
  },
  PlanShapeMismatch: {
    meaning: "a tensor has different shapes in two models",
    retryable: false,
    remedy: "merge models of one build",
  },
  PlanDtypeNotMergeable: {
    meaning: "the weights are of a kind that arithmetic is not defined for",
    retryable: false,
    remedy: "merge the models before they are quantized or converted",
  },
  PlanInputCount: {
    meaning: "the method does not take this number of models",
    retryable: false,
    remedy: "list as many models as the method takes",
  },
  PlanMethodRefused: {
    meaning: "the method cannot merge this tensor with these parameters",
    retryable: false,
    remedy: "change the parameters",
  },
  PlanConfigMismatch: {
    meaning: "the models' configs say that they are of different build",
    retryable: false,
    remedy: "merge models of one build",
  },
  PlanMemoryExceeded: {
    meaning: "a tensor cannot be merged within the memory of a worker",
    retryable: false,
    remedy: "allow a worker more memory",
  },
  PlanNothingToMerge: {
    meaning: "the output would have no tensors",
    retryable: false,
    remedy: "check that the models hold weights and that the recipe does not drop them all",
  },
  PlanTooLarge: {
    meaning: "the plan has more tensors than a plan may have",
    retryable: false,
    remedy: "merge fewer layers",
  },
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** Where it happened; printed in this order, absent fields left out. */
export type ErrorPlace = {
  readonly store?: string | undefined;
  readonly file?: string | undefined;
  readonly model?: string | undefined;
  readonly tensor?: string | undefined;
  /** Path inside a document, such as `models[1].parameters.weight`. */
  readonly field?: string | undefined;
  readonly line?: number | undefined;
  readonly offset?: number | undefined;
  readonly bytes?: number | undefined;
  readonly state?: string | undefined;
  readonly unit?: number | undefined;
};

export type ErrorDetails = {
  readonly where?: ErrorPlace;
  readonly found?: string | number | undefined;
  readonly expected?: string | number | undefined;
  readonly hint?: string | undefined;
  readonly cause?: unknown;
};

/**
 * The error of every refusal and failure that a user can meet. `name` equals `code`, because Step Functions matches
 * Retry and Catch on the error name. A broken invariant of ours is not this: it is an assertion and crashes.
 */
export class MergeyardError extends Error {
  readonly code: ErrorCode;
  readonly where: ErrorPlace;
  readonly found: string | undefined;
  readonly expected: string | undefined;
  readonly hint: string;
  readonly retryable: boolean;

  constructor(code: ErrorCode, details: ErrorDetails = {}) {
    const kind: ErrorKind = ERROR_CODES[code];
    const where = details.where ?? {};
    const hint = details.hint ?? kind.remedy;
    super(composeMessage(kind.meaning, where, details, hint), { cause: details.cause });
    this.name = code;
    this.code = code;
    this.where = where;
    this.found = details.found === undefined ? undefined : String(details.found);
    this.expected = details.expected === undefined ? undefined : String(details.expected);
    this.hint = hint;
    this.retryable = kind.retryable;
  }

  /** The error as data: what `--json` prints, receipts store and Step Functions carries as Cause. */
  toJSON(): ErrorRecord {
    const { code, where, found, expected, hint, retryable } = this;
    return { code, meaning: ERROR_CODES[code].meaning, where, found, expected, hint, retryable };
  }
}

export type ErrorRecord = {
  readonly code: ErrorCode;
  readonly meaning: string;
  readonly where: ErrorPlace;
  readonly found: string | undefined;
  readonly expected: string | undefined;
  readonly hint: string;
  readonly retryable: boolean;
};

/** `tensor "x", file "y"`: the place as words, in the order of `ErrorPlace`. */
export function describePlace(where: ErrorPlace): string {
  const words = Object.entries(where)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => (typeof value === "string" ? `${key} ${JSON.stringify(value)}` : `${key} ${value}`));
  return words.join(", ");
}

function composeMessage(meaning: string, where: ErrorPlace, details: ErrorDetails, hint: string): string {
  const place = describePlace(where);
  const found = details.found === undefined ? "" : `; found ${details.found}`;
  const expected = details.expected === undefined ? "" : `; expected ${details.expected}`;
  return `${meaning}${place === "" ? "" : ` (${place})`}${found}${expected}; ${hint}`;
}
