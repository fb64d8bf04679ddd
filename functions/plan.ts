// Lambda: the step `plan`.
import { planStep } from "../steps/plan.ts";
import { createHandler } from "./handler.ts";

export const handler = createHandler(planStep);
