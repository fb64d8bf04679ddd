// Error codes: arguments of the command line.
import type { ErrorKind } from "./kind.ts";

export const CLI_CODES = {
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
    remedy: "choose another folder, or remove what is there",
  },
  CliPricesInvalid: {
    meaning: "the file of prices cannot be read",
    retryable: false,
    remedy: "copy core/cost/prices.json and change its numbers",
  },
  CliPrintFailed: {
    meaning: "the result could not be printed; what the command did stands",
    retryable: false,
    remedy: "free space, or print to another place; then run the command again where it only reads",
  },
  CliFileNotWritten: {
    meaning: "a file beside the result could not be written; what the command did besides stands",
    retryable: false,
    remedy: "name a file in a folder that is there and can be written to",
  },
  CliRunFailed: {
    meaning: "the run failed for a reason that has no code of its own",
    retryable: false,
    remedy: "run the same command again; if it fails again, report it with the run's folder",
  },
  CliServeFailed: {
    meaning: "pipelines that were due could not be read, or their runs failed",
    retryable: false,
    remedy: "what is printed above says why; correct a pipeline's file and it starts again, else start it with `run`",
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
  CliNothingToReport: {
    meaning: "the merge only copies tensors, so there is no agreement to report",
    retryable: false,
    remedy: "leave out --report; the output folder is complete",
  },
} as const satisfies Record<string, ErrorKind>;
