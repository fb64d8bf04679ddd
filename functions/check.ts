// Lambda: the step `check`.
import { checkStep } from "../steps/check.ts";
import { createHandler } from "./handler.ts";

export const handler = createHandler(checkStep);
