// Error codes: following and stopping runs on AWS.
import type { ErrorKind } from "./kind.ts";

export const REMOTE_CODES = {
  RemoteMachineMissing: {
    meaning: "it is not said which state machine runs pipelines",
    retryable: false,
    remedy: "give --state-machine ARN, or set MERGEYARD_STATE_MACHINE; the flow stack prints it",
  },
  RemoteYardLocal: {
    meaning: "AWS cannot reach a yard on this machine",
    retryable: false,
    remedy: "name a yard in S3, or leave out --remote",
  },
  RemoteRefused: {
    meaning: "AWS refused the request",
    retryable: false,
    remedy: "check credentials, region and ARN; the runner's policy allows all that is asked for",
  },
  RemoteUnavailable: {
    meaning: "AWS did not answer",
    retryable: true,
    remedy: "run the same command again; the execution is not touched by this",
  },
  RemoteExecutionMissing: {
    meaning: "no execution of this name or run is running",
    retryable: false,
    remedy: "`run --remote` prints the execution's name; one that has ended needs no stopping",
  },
  RemoteVersionDiffers: {
    meaning: "the run succeeded, but the deployment tells its result in another version's form",
    retryable: false,
    remedy: "its result is in the yard: `mergeyard ls`; deploy this version, or use the deployment's command line",
  },
  RemoteStopped: {
    meaning: "somebody stopped the execution",
    retryable: true,
    remedy: "run the same command again: finished units are not repeated",
  },
} as const satisfies Record<string, ErrorKind>;
