// Error codes: yards, runs and published versions.
import type { ErrorKind } from "./kind.ts";

export const YARD_CODES = {
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
  UploadOccupied: {
    meaning: "the upload's place in the yard holds other files",
    retryable: false,
    remedy: "choose another name by --upload, or look at what is there with `mergeyard ls`",
  },
  UploadTakenOver: {
    meaning: "another process goes on with this push",
    retryable: false,
    remedy: "let it finish; pushed again, nothing is uploaded twice",
  },
  UploadRemoved: {
    meaning: "`gc` has removed this upload",
    retryable: false,
    remedy: "push it under another name with --upload, if it is wanted again",
  },
  YardRemovalUnderWay: {
    meaning: "`gc` is removing this folder",
    retryable: true,
    remedy: "try again when it has ended; where it was killed, run `mergeyard gc` an hour later, which finishes it",
  },
  UploadRanksDisagree: {
    meaning: "the ranks of an upload do not hold parts of one checkpoint",
    retryable: false,
    remedy: "push the same step from every rank, each with its own files",
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
    remedy: "check the name: `mergeyard logs` lists the yard's runs; `mergeyard run` makes one",
  },
  YardNameAmbiguous: {
    meaning: "several names begin so",
    retryable: false,
    remedy: "write more of the name",
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
  YardRollbackEnd: {
    meaning: "the channel has no earlier version to go back to",
    retryable: false,
    remedy: "name the version by --to; `mergeyard ls` lists what is there",
  },
  YardTargetOccupied: {
    meaning: "the target folder holds something else",
    retryable: false,
    remedy: "name an empty or new folder",
  },
  YardLineageBroken: {
    meaning: "an input of the version is not there as it was",
    retryable: false,
    remedy: "restore the input, or publish the version again from what is there now",
  },
  YardManifestMissing: {
    meaning: "the folder has no manifest.json",
    retryable: false,
    remedy: "name the folder of a published or pulled version",
  },
} as const satisfies Record<string, ErrorKind>;
