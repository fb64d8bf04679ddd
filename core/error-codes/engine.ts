// Error codes: what goes wrong while tensors are merged.
import type { ErrorKind } from "./kind.ts";

export const ENGINE_CODES = {
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
  EngineMethodDegenerate: {
    meaning: "the models leave the method nothing to go by in this tensor",
    retryable: false,
    remedy: "leave a model out, change the weights, or use another method",
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
} as const satisfies Record<string, ErrorKind>;
