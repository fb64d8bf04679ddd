// Error codes: the state machine and its local run.
import type { ErrorKind } from "./kind.ts";

export const FLOW_CODES = {
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
  FlowWorkerLost: {
    meaning: "a worker ended without a word",
    retryable: false,
    remedy: "it was killed, for memory most often: give jobs more, or plan with less; then run the pipeline again",
  },
  FlowTimeUp: {
    meaning: "the function's time ended before its work did",
    retryable: true,
    remedy: "try again: what was done stands, and the rest goes on from there",
  },
} as const satisfies Record<string, ErrorKind>;
