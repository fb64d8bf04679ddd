// Lambda: the step `plan`. Plans are made for the fleet of this deployment, unless the execution's input says other
// sizes.
import * as z from "zod";
import { planStep } from "../steps/plan.ts";
import { runStep } from "../steps/step.ts";
import { createLambda } from "./handler.ts";

/** The deployment's sizes, as JSON; the step's own schema checks them. */
const variables = z.object({ MERGEYARD_FLEET: z.string().optional() });

export const handler = createLambda("plan", (event, deps) => {
  const input = z.looseObject({}).parse(event);
  const { MERGEYARD_FLEET: fleet } = variables.parse(process.env);
  return runStep(planStep, { ...(fleet === undefined ? {} : { fleet: JSON.parse(fleet) }), ...input }, deps);
});
