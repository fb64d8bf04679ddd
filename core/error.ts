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
  // Kernels and engine
  KernelMemoryExhausted: {
    meaning: "a kernel set ran out of its memory",
    retryable: false,
    remedy: "this is a fault of the plan's memory bound; please report the recipe and the tensor",
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
  YardRecordInvalid: {
    meaning: "a record of the yard is not what it should be",
    retryable: false,
    remedy: "the object was changed by hand or by another tool; restore it, or delete it if it is under cache/",
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
    remedy:
      "wait until the upload has ended, or repeat it; a file _COMPLETE, a whole index or a lone model.safetensors ends it",
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
  YardVersionConflict: {
    meaning: "another manifest already has this version's name",
    retryable: false,
    remedy: "the version folder was changed by hand; move it away and run the pipeline again",
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
