// Lambda: the step `publish`.
import { publishStep } from "../steps/publish.ts";
import { createHandler } from "./handler.ts";

export const handler = createHandler(publishStep);
