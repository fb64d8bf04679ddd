// What every function of the control plane is: a middy chain around one step. The step gets its stores, clock and
// deadline here; its typed error leaves with its code as the name, for the state machine's Retry and Catch, and its
// record as the message, from which record-failure reads it again.
import middy from "@middy/core";
import type * as z from "zod";
import { MergeyardError } from "../core/error.ts";
import { runStep, type Step, type StepDeps } from "../steps/step.ts";
import { createStoreOpener } from "../stores/open.ts";

/**
 * Milliseconds before the function's end at which its work is told to stop: enough to discard what it has open, and to
 * answer. Too low: Lambda kills it in the middle, and the state machine sees no name to retry by.
 */
const STOP_MS = 10_000;
/** Milliseconds before the end at which the answer goes out though the work did not stop. */
const ANSWER_MS = 2000;

/** The Lambda handler of a step. */
export function createHandler<Input extends z.ZodType, Output extends z.ZodType>(step: Step<Input, Output>) {
  return createLambda(step.name, (event, deps) => runStep(step, event, deps));
}

/**
 * The Lambda handler of some work. Its signal is aborted shortly before the function's time is up; then it fails with
 * FlowTimeUp, which is worth trying again: every step goes on from what is there.
 */
export function createLambda<Output>(name: string, work: (event: unknown, deps: StepDeps) => Promise<Output>) {
  const openStore = createStoreOpener(process.env);
  const log = (fields: object) => void process.stdout.write(`${JSON.stringify(fields)}\n`);
  const timeUp = () => new MergeyardError("FlowTimeUp", { where: { state: name } });
  const options = {
    timeoutEarlyInMillis: ANSWER_MS,
    timeoutEarlyResponse: () => {
      throw timeUp();
    },
  };
  return middy<unknown, Output>(options)
    .onError(({ error }) => {
      log({ event: "step-failed", step: name, error: error?.name, text: error?.message });
      if (error instanceof MergeyardError) error.message = JSON.stringify(error);
    })
    .handler(async (event: unknown, context) => {
      const deadline = new AbortController();
      const left = context.getRemainingTimeInMillis();
      const timer = setTimeout(() => deadline.abort(timeUp()), Math.max(0, left - STOP_MS));
      try {
        return await work(event, { openStore, now: Date.now, log, signal: deadline.signal });
      } catch (error) {
        throw deadline.signal.aborted ? deadline.signal.reason : error;
      } finally {
        clearTimeout(timer);
      }
    });
}
