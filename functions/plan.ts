// Lambda: the step `plan`. Plans are made for the workers of this deployment, unless the execution's input says other
// sizes.
import { z } from "zod";
import { planStep } from "../steps/plan.ts";
import { runStep } from "../steps/step.ts";
import { createLambda } from "./handler.ts";

const bytes = z.coerce.number().int().positive().optional();

/** The variables that the workers' job definition has as well. */
const sizeSchema = z
  .object({ MERGEYARD_MEMORY_BYTES: bytes, MERGEYARD_THREADS: bytes })
  .transform(({ MERGEYARD_MEMORY_BYTES: memoryBytes, MERGEYARD_THREADS: threads }) => ({ memoryBytes, threads }));

export const handler = createLambda("plan", (event, deps) => {
  const input = z.looseObject({}).parse(event);
  return runStep(planStep, { ...sizeSchema.parse(process.env), ...input }, deps);
});
