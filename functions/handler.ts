// What every function of the control plane is: a middy chain around one step. The step gets its stores and clock here;
// its typed error leaves with its code as the name, for the state machine's Retry and Catch, and its record as the
// message, from which record-failure reads it again.
import middy from "@middy/core";
import type { z } from "zod";
import { MergeyardError } from "../core/error.ts";
import { runStep, type Step } from "../steps/step.ts";
import { createStoreOpener } from "../stores/open.ts";

/** The Lambda handler of a step. Aborts shortly before the function's own time is up. */
export function createHandler<Input extends z.ZodType, Output extends z.ZodType>(step: Step<Input, Output>) {
  const openStore = createStoreOpener(process.env);
  const log = (fields: object) => void process.stdout.write(`${JSON.stringify(fields)}\n`);
  return middy<unknown, z.output<Output>>()
    .onError(({ error }) => {
      log({ event: "step-failed", step: step.name, text: error?.message });
      if (error instanceof MergeyardError) error.message = JSON.stringify(error);
    })
    .handler((event: unknown, _context, options) => {
      const signal = options?.signal ?? new AbortController().signal;
      return runStep(step, event, { openStore, now: Date.now, log, signal });
    });
}
