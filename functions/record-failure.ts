// Lambda: the step `record-failure`.
import { recordFailureStep } from "../steps/record-failure.ts";
import { createHandler } from "./handler.ts";

export const handler = createHandler(recordFailureStep);
