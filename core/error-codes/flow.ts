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
} as const satisfies Record<string, ErrorKind>;
